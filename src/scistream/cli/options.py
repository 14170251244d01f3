"""What every program's options share: spellings, version, JSON, the log.

Nothing here knows what the programs do, and nothing heavy is imported, so that ``--help`` is quick.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

#: Settings of every command and group: ``-h`` for ``--help``, ``--num_conn`` for ``--num-conn``.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "token_normalize_func": lambda token: token.replace("_", "-"),
}

_VERBOSITY_KEY = "scistream.cli.verbosity"
_PROGRAM_LOGGER = "scistream.cli.running"


def version_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--version``; the number is the installed distribution's."""

    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if not wanted or context.resilient_parsing:
            return
        click.echo(f"{context.find_root().info_name}, version {metadata.version('ministream')}")
        context.exit()

    return click.option(
        "--version", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version."
    )


def json_option(text: str = "Print JSON instead of text.") -> Callable[[F], F]:
    """Return a decorator that adds ``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def verbose_option(base: int = logging.WARNING, *spellings: str) -> Callable[[F], F]:
    """Return a decorator that adds ``-v``; without it the log on stderr begins at level `base`.

    Programs that run long have the base INFO (one line per change of a session's life). gRPC's own log lines
    about connections, which our errors say better, are shown from ``-vv`` on.
    """

    def configure(context: click.Context, _: click.Parameter, count: int) -> None:
        verbosity = context.meta.get(_VERBOSITY_KEY, 0) + count
        context.meta[_VERBOSITY_KEY] = verbosity
        if verbosity < 2:
            # read when gRPC is imported, which no command does before its options are parsed
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        configure_logging(max(logging.DEBUG, base - 10 * verbosity), verbose=verbosity > 0)

    return click.option(
        *("-v", "--verbose", *spellings),
        count=True,
        expose_value=False,
        callback=configure,
        help="Log more (repeatable).",
    )


def configure_logging(level: int, *, verbose: bool) -> None:
    """Send the log from `level` on to stderr; `verbose` also shows where unexpected errors come from."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger(_PROGRAM_LOGGER).setLevel(logging.DEBUG if verbose else logging.INFO)
    # what the format does not show is not looked up for every line
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
