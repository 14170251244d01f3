"""Bar charts of named figures, side by side, as PNG, SVG or PDF; drawn by matplotlib, the extra ``plot``."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ministream.errors import InputError
from ministream.sinks.atomic import check_writable, replacing

FORMATS = ("png", "svg", "pdf")
_ACROSS = 3
_PANEL_INCHES = (4.6, 0.9, 0.26)  # width; height, and more for each bar
_PLAIN, _HIGHLIGHTED = "#9aa5b1", "#c2410c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: a bar for each name.

    Parameters
    ----------
    title, unit : str
    values : dict
        Name -> value, from top to bottom.
    highlighted : collection of str
        Names whose bars stand out.
    """

    title: str
    unit: str
    values: dict[str, float]
    highlighted: Collection[str] = ()


def check_chart(path: Path) -> None:
    """Find out now whether a chart can be drawn and written to `path`.

    Raises
    ------
    InputError
        Its name does not end in a format that is known, or matplotlib is not installed.
    OutputError
        The file cannot be written.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise InputError(f"{path} is no name of a plot; it has to end in .{', .'.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("a plot needs matplotlib: pip install 'ministream[plot]'") from error
    check_writable(path)


def write_chart(path: Path, panels: Sequence[Panel], *, title: str) -> None:
    """Write `panels`, three in a row.

    Raises
    ------
    InputError
        There is nothing to draw, or see `check_chart`.
    OutputError
        The file cannot be written.
    """
    check_chart(path)
    if not panels:
        raise InputError("there is nothing to plot")
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    width, height, more = _PANEL_INCHES
    most = max(len(panel.values) for panel in panels)
    figure = Figure(figsize=(across * width, down * (height + most * more) + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for place, panel in zip(axes, panels, strict=False):
        names = list(panel.values)
        colors = [_HIGHLIGHTED if name in panel.highlighted else _PLAIN for name in names]
        bars = place.barh(names, list(panel.values.values()), color=colors)
        texts = [f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" for value in panel.values.values()]
        place.bar_label(bars, labels=texts, padding=3, fontsize=7)
        place.invert_yaxis()
        place.margins(x=0.18)
        place.set_title(panel.title, fontsize=9)
        place.set_xlabel(panel.unit, fontsize=8)
        place.tick_params(labelsize=7)
        place.spines[["top", "right"]].set_visible(False)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    with replacing(path) as draft:
        figure.savefig(draft, format=path.suffix[1:].lower(), dpi=150)
