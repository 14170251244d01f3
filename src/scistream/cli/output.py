"""JSON on standard output: one object for a result, one line for each event of a program that goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from scistream.cli.exit_codes import exit_code_of
from scistream.errors import SciStreamError


def print_json(**fields: object) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(fields))


def emit(event: str, /, **fields: object) -> None:
    """Print one event of a long-running program as a JSON line on stdout, at once."""
    click.echo(json.dumps({"event": event, **fields}))
    sys.stdout.flush()


@contextmanager
def error_events(*, enabled: bool) -> Iterator[None]:
    """Emit an ``error`` event for an error of ours that ends the block, and let it go on."""
    try:
        yield
    except SciStreamError as error:
        if enabled:
            emit("error", message=str(error), exit_code=int(exit_code_of(error)))
        raise
