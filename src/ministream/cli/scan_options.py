"""Options that `run` has in common with the stages it starts: described once, with one default."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class _Center(click.ParamType[float | None]):
    """A column index, or ``auto``: None."""

    name = "COLUMN|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return the column index, None for ``auto``."""
        if value == "auto":
            return None
        try:
            column = float(value)
        except ValueError:
            column = math.nan
        if not math.isfinite(column):
            self.fail(f"{value!r} is neither a column index nor auto", param, ctx)
        return column


def update_options(command: F) -> F:
    """Add what says which updates a reconstruction gets: algorithm, window, step, iterations, refine."""
    return _with(
        command,
        click.option(
            "--algorithm",
            type=click.Choice(["sirt", "os-sirt"]),
            default="os-sirt",
            show_default=True,
            help="sirt: sliding window of the newest views; "
            "os-sirt: newest views plus a spread replay of all.",
        ),
        click.option(
            "--window",
            type=click.IntRange(min=1),
            default=32,
            show_default=True,
            help="Views that one update works on.",
        ),
        click.option(
            "--step",
            type=click.IntRange(min=1),
            default=4,
            show_default=True,
            help="New views between updates.",
        ),
        click.option(
            "--iterations",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Iterations per update.",
        ),
        click.option(
            "--refine",
            type=click.IntRange(min=0),
            default=3,
            show_default=True,
            help="Passes over all views after the last has arrived.",
        ),
    )


def correction_options(command: F) -> F:
    """Add what is estimated from the scan: center, stripes."""
    return _with(
        command,
        click.option(
            "--center",
            type=_Center(),
            default="auto",
            show_default=True,
            help="Rotation axis, as a column index from 0; auto finds it while the scan comes in.",
        ),
        click.option(
            "--stripes",
            type=click.Choice(["sorting", "none"]),
            default="sorting",
            show_default=True,
            help="Removal of stripes (rings in the image).",
        ),
    )


def substitute_options(command: F) -> F:
    """Add what stands for flat and dark fields that a file lacks: flat_value, dark_value."""
    return _with(
        command,
        click.option("--flat-value", type=float, help="Counts of all flat fields, if the file has none."),
        click.option("--dark-value", type=float, help="Counts of all dark fields, if the file has none."),
    )


def _with(command: F, *options: Callable[[F], F]) -> F:
    # click lists the option that was added last first
    for option in reversed(options):
        command = option(command)
    return command
