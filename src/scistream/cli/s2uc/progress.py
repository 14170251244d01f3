"""One line on a terminal that says what is going on, written over again and again; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


class ProgressLine:
    """The line, on stderr."""

    def __init__(self) -> None:
        self._wanted = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Show what is waited for."""
        if self._wanted:
            click.echo(f"\r\x1b[K{text} …", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._wanted:
            click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def progress_line() -> Iterator[ProgressLine]:
    """Make the line, and take it away at the end of the block."""
    line = ProgressLine()
    try:
        yield line
    finally:
        line.clear()
