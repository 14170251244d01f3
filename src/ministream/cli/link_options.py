"""Options of every program that talks to others of a run over the network: who may, and encrypted or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def link_key_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--link-key``, passed on as ``key_file``."""
    return click.option(
        "--link-key",
        "key_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Encrypt, and talk only to programs that have this key; `ministream key FILE` makes one.",
    )


def insecure_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--insecure``."""
    return click.option(
        "--insecure",
        is_flag=True,
        help="Listen where other hosts can connect without a link key: whoever is on that network may take "
        "part and read along.",
    )
