"""Options that several commands of ``s2uc`` have, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from scistream.cli import options
from scistream.cli.facilities import LOCAL_SERVER
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(dir_okay=False, path_type=Path)
PROFILES = ("facilities",)

#: The reference client's rate; a wish that only a gateway with a limited capacity takes account of.
REFERENCE_RATE_MBPS = 10_000
#: The reference client's channels.
REFERENCE_NUM_CONN = 5
#: What it calls a mock session.
MOCK_UID = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3"
#: Where it looks for the control server of each side.
PRODUCER_SERVER, CONSUMER_SERVER = "localhost:5000", "localhost:6000"

PEER_NEEDED = (
    "say who the other side is: --peer-certificate FILE (its session certificate, which its owner has by "
    "--certificate-out), or --plain to stream in the clear; 's2uc request' opens both sides and needs neither"
)


def _added(command: F, *more: Callable[[F], F]) -> F:
    """Add options, shown in this order."""
    for option in reversed(more):
        command = option(command)
    return command


def common(command: F) -> F:
    """Add the options that every command has."""
    return _added(
        command, options.json_option(), options.config_option(tables=PROFILES), options.verbose_option()
    )


def timeout(default: float | None = 30.0, *, queued: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds ``--timeout-s``; with `queued`, a queued request has an hour."""
    if queued:
        text = f"For all of it [{default:g}; with --queue 3600]."
        return click.option("--timeout-s", type=float, help=text)
    return click.option("--timeout-s", type=float, default=default, show_default=True, help="For all of it.")


def one_server(command: F) -> F:
    """Add the options of commands that talk to one control server."""
    return _added(
        command,
        click.option(
            "--certificate",
            "--server-cert",
            type=FILE,
            help="The control server's certificate [the trusted one; server.crt, if it is there].",
        ),
        click.option("--token-file", type=FILE, help="File with your token there [or: S2UC_TOKEN]."),
    )


def several_servers(command: F) -> F:
    """Add the options of commands that can talk to the control servers of both sides."""
    return _added(
        command,
        click.option(
            "--s2cs",
            "servers",
            multiple=True,
            help="Control server or profile; repeat it for both sides "
            f"[all profiles; without any, {LOCAL_SERVER}].",
        ),
        click.option(
            "--certificate",
            "--server-cert",
            "certificates",
            type=FILE,
            multiple=True,
            help="One, or one per server [the trusted ones; server.crt, if it is there].",
        ),
        click.option("--token-file", "token_files", type=FILE, multiple=True, help="One, or one per server."),
    )


def leases(command: F) -> F:
    """Add what can be asked for besides channels and rate."""
    return _added(
        command,
        click.option("--queue", is_flag=True, help="Wait for ports and capacity, where they are used up."),
        click.option(
            "--idle-timeout-s",
            type=click.FloatRange(min=0),
            help="End it after this time without traffic [the gateway's].",
        ),
        click.option(
            "--lifetime-s",
            type=click.FloatRange(min=0),
            help="End it after this time, unless it is renewed [the gateway's].",
        ),
    )


def rate(default: int) -> Callable[[F], F]:
    """Return a decorator that adds ``--rate``."""
    return click.option(
        "--rate", type=int, default=default, show_default=True, help="Mb/s that you ask for; 0: no wish."
    )


def scope(command: F) -> F:
    """Add the reference's ``--scope``, which is taken and not used here."""
    return click.option(
        "--scope",
        default="",
        expose_value=False,
        help="Taken as the reference client takes it; what a token is good for is said when logging in.",
    )(command)


def mock(command: F) -> F:
    """Add the reference's ``--mock True``."""
    return click.option(
        "--mock",
        type=bool,
        is_flag=False,
        flag_value=True,
        default=False,
        show_default=True,
        metavar="BOOLEAN",
        help=f"Use the documents' uid, {MOCK_UID}, for trials.",
    )(command)


def endpoints(texts: Sequence[str]) -> list[Endpoint]:
    """Return addresses as values.

    Raises
    ------
    InvalidArgument
        One is none.
    """
    return [Endpoint.parse(text) for text in texts]


def read_file(path: Path) -> bytes:
    """Return what is in `path`.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`.

    Raises
    ------
    ConfigurationError
        It cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
