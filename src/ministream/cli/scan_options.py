"""Options that `run` has in common with the stages it starts: described once, with one default."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

VIEW_ORDERS = ("as-measured", "interlaced", "golden-angle", "bit-reversed")
"""Those of `ministream.sources.ViewOrder`, which is not imported so that help is quick; a test compares."""

STRIPE_METHODS = ("sorting", "filtering", "large", "all", "none")
"""Those of `ministream.stages.distribute`, likewise."""
ALGORITHMS = ("sirt", "window-replay", "os-sirt", "fista", "fbp")
"""Those of `ministream.algorithms`, likewise."""


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


class _Rows(click.ParamType[tuple[int, int]]):
    """``FIRST:LAST`` as the first row and the number of rows."""

    name = "FIRST:LAST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return first row and number of rows."""
        if isinstance(value, tuple):
            return value
        first, _, last = str(value).partition(":")
        if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            self.fail(
                f"{value!r} is not FIRST:LAST with two whole numbers, the second one larger", param, ctx
            )
        return int(first), int(last) - int(first)


class ByteSize(click.ParamType[int]):
    """A number of bytes, with a unit: 512MiB, 8GiB, 8GB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B?\s*", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no size, such as 512MiB, 8GiB or 8GB", param, ctx)
        number, unit, binary = match.groups()
        size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
        if size < 1:
            self.fail(f"{value!r} is nothing", param, ctx)
        return size


def update_options(command: F) -> F:
    """Add what says which updates a reconstruction gets: algorithm, window, step and so on."""
    return with_options(
        command,
        click.option(
            "--algorithm",
            type=click.Choice(ALGORITHMS),
            default="window-replay",
            show_default=True,
            help="sirt: sliding window of the newest views, as the mini-app; window-replay: newest views "
            "and a spread replay of earlier ones; os-sirt: ordered subsets over all views so far; fista: "
            "these with momentum; fbp: filtered back projection, as a preview.",
        ),
        click.option(
            "--window",
            "--window-length",
            "window",
            type=click.IntRange(min=1),
            default=32,
            show_default=True,
            help="Views that one update works on.",
        ),
        click.option(
            "--step",
            "--window-step",
            "step",
            type=click.IntRange(min=1),
            default=4,
            show_default=True,
            help="New views between updates.",
        ),
        click.option(
            "--iterations",
            "--window-iter",
            "iterations",
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
        click.option(
            "--total-variation",
            type=click.FloatRange(min=0, max=1000),
            default=1.0,
            show_default=True,
            metavar="STRENGTH",
            help="How strongly the slices are denoised, in units of the noise that the projections have. 0: "
            "not at all. Of sirt and fbp, only the passes after the last projection are.",
        ),
        click.option(
            "--allow-negative",
            is_flag=True,
            help="Let the slices become negative, as those of phase contrast do.",
        ),
        click.option(
            "--first-image",
            type=click.Choice(["zero", "fbp"]),
            default="zero",
            show_default=True,
            help="What the first update begins with: nothing, or a filtered back projection.",
        ),
    )


def correction_options(command: F) -> F:
    """Add what is found in the scan, and corrected: center, stripes, zingers."""
    return with_options(
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
            type=click.Choice(STRIPE_METHODS),
            default="sorting",
            show_default=True,
            help="Removal of stripes (rings in the image): which of algotom's methods finds them.",
        ),
        click.option(
            "--zingers",
            type=click.FloatRange(min=0),
            default=0.08,
            show_default=True,
            metavar="THRESHOLD",
            help="Removal of zingers: pixels of one view that are brighter than those around them by this "
            "part. 0 leaves them.",
        ),
    )


def substitute_options(command: F) -> F:
    """Add what stands for flat and dark fields that a file lacks: flat_value, dark_value."""
    return with_options(
        command,
        click.option("--flat-value", type=float, help="Counts of all flat fields, if the file has none."),
        click.option("--dark-value", type=float, help="Counts of all dark fields, if the file has none."),
    )


def order_option(default: str) -> Callable[[F], F]:
    """Return a decorator that adds in which order views are played: order."""
    return click.option(
        "--order",
        type=click.Choice(VIEW_ORDERS),
        default=default,
        show_default=True,
        help="Order in which the views are played, behind the fields that correct them. interlaced: "
        "passes of "
        "16 views, as the mini-app; golden-angle, bit-reversed: any first part of them shows the whole "
        "object.",
    )


def reading_options(command: F) -> F:
    """Add how a scan is read: what `ministream.sources.SourceOptions` holds but fields' values."""
    return with_options(
        command,
        click.option("--dataset", metavar="NAME", help="HDF5: the stack of projections (view, row, column)."),
        click.option(
            "--image-key",
            metavar="NAME",
            help="HDF5: what each frame of the stack is: 0 projection, 1 flat field, 2 dark field.",
        ),
        click.option("--flats", metavar="NAME", help="HDF5 dataset, or TIFF file or folder, of flat fields."),
        click.option("--darks", metavar="NAME", help="HDF5 dataset, or TIFF file or folder, of dark fields."),
        click.option(
            "--angles",
            metavar="START:STOP|NAME",
            help="Degrees from START on, STOP left out; or an HDF5 dataset; or a text file, one angle a "
            "line; "
            "for a detector also pv:NAME.",
        ),
        click.option(
            "--angle-units",
            type=click.Choice(["auto", "degrees", "radians"]),
            default="auto",
            show_default=True,
            help="Units of the angles; auto goes by what the file says.",
        ),
        click.option(
            "--rows",
            type=_Rows(),
            help="Rows to take, the first included, the last not: 1000:1016 are 16 rows.",
        ),
        click.option(
            "--pixel-type",
            type=click.Choice(["uint8", "uint16", "float32"]),
            help="Send pixels as this type, which must hold those of the scan. [default: the scan's]",
        ),
        click.option(
            "--repeat",
            "--d_iteration",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Play the scan so often, fields included.",
        ),
    )


def detector_options(command: F) -> F:
    """Add how a live detector is followed; also part of `ministream.sources.SourceOptions`."""
    return with_options(
        command,
        click.option(
            "--projections",
            metavar="NUMBER|PV",
            help="Detector: how many projections the scan has, or the PV that holds the number.",
        ),
        click.option(
            "--attributes",
            type=click.Choice(["tomoscan", "mini-app", "none"]),
            default="tomoscan",
            show_default=True,
            help="Detector: names of the attributes that say what an image is and at which angle it was "
            "taken. "
            "none: all are projections.",
        ),
        click.option(
            "--kind-attribute", metavar="NAME", help="Detector: the attribute that says what it is."
        ),
        click.option("--angle-attribute", metavar="NAME", help="Detector: the attribute with the angle."),
        click.option(
            "--present-frame",
            is_flag=True,
            help="Detector: play also the image that the PV shows when it is connected. Otherwise that "
            "is taken "
            "for one from before the scan.",
        ),
        click.option(
            "--buffer",
            "buffer_mib",
            type=click.IntRange(min=1),
            default=512,
            show_default=True,
            metavar="MIB",
            help="Detector: memory for images that wait for slow consumers. What does not fit is counted "
            "as lost.",
        ),
        click.option(
            "--idle-timeout",
            "idle_timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="Detector: the scan is over when no image has come for so long after one.",
        ),
    )


def with_options(command: F, *options: Callable[[F], F]) -> F:
    """Return `command` with `options`, in their order."""
    # click lists the option that was added last first
    for option in reversed(options):
        command = option(command)
    return command
