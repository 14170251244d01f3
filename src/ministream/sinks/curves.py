"""Curves of figures over one variable, one below the other, as PNG, SVG or PDF; needs the extra ``plot``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ministream.errors import InputError
from ministream.sinks.atomic import replacing
from ministream.sinks.chart import check_chart

_INCHES = (7.0, 1.5)  # width; height of each
_LINE, _MARK = "#1f5f8b", "#c2410c"


def write_curves(
    path: Path,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    title: str,
    mark: tuple[float, str] | None = None,
) -> None:
    """Draw `curves` over `x`; values that are not finite leave a gap.

    Parameters
    ----------
    path : Path
        Its ending chooses the format.
    x : sequence of float
    curves : mapping
        Name with unit -> as many values as `x` has.
    x_label, title : str
    mark : (float, str), optional
        Where to draw a line, and what it says.

    Raises
    ------
    InputError
        There is nothing to draw, a curve does not fit, or see `ministream.sinks.chart.check_chart`.
    OutputError
        The file cannot be written.
    """
    check_chart(path)
    if not x or not curves:
        raise InputError("there is nothing to plot")
    for name, values in curves.items():
        if len(values) != len(x):
            raise InputError(f"the curve {name} has {len(values)} values for {len(x)}")
    from matplotlib.figure import Figure

    width, height = _INCHES
    figure = Figure(figsize=(width, height * len(curves) + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(curves), 1, squeeze=False, sharex=True).flatten()
    for place, (name, values) in zip(axes, curves.items(), strict=True):
        shown = [value if math.isfinite(value) else math.nan for value in values]
        place.plot(x, shown, color=_LINE, marker=".", markersize=4, linewidth=1)
        place.set_title(name, fontsize=8, loc="left")
        place.tick_params(labelsize=7)
        place.spines[["top", "right"]].set_visible(False)
        if mark is not None:
            place.axvline(mark[0], color=_MARK, linewidth=1, linestyle="--", label=mark[1])
    if mark is not None:
        axes[0].legend(fontsize=7, frameon=False)
    axes[-1].set_xlabel(x_label, fontsize=8)
    with replacing(path) as draft:
        figure.savefig(draft, format=path.suffix[1:].lower(), dpi=150)
