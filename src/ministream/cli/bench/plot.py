"""What ``ministream bench`` has measured, as a chart: the first figure of each scenario that tells most."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ministream.bench import FIGURES
from ministream.sinks.chart import Panel, write_chart

_TELLING = ("gbps", "to_here_gbps", "from_here_gbps", "per_s", "p50_us", "bytes_per_connection")
_OURS = {"ours", "through"}


def plot_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a chart with a panel for each scenario.

    Raises
    ------
    InputError, OutputError
        It cannot be drawn, or not be written.
    """
    day = time.strftime("%Y-%m-%d", time.gmtime(report["measured_at"]))
    machine = report["machine"]
    where = f"{machine['cores']} cores, Linux {machine['kernel']}, {machine['congestion']}"
    title = f"ministream bench relay, {day}: {where}"
    write_chart(path, list(_panels(report)), title=title)


def _panels(report: Mapping[str, Any]) -> Iterator[Panel]:
    for scenario, table in report["figures"].items():
        chosen = _telling(table)
        for name in chosen[:1] if "gbps" in chosen or "per_s" in chosen else chosen:
            figure = FIGURES[name]
            values = {contestant: figures[name] for contestant, figures in table.items() if name in figures}
            better = "more is better" if figure.more_is_better else "less is better"
            yield Panel(title=scenario, unit=f"{figure.label} ({better})", values=values, highlighted=_OURS)


def _telling(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    there = {name for figures in table.values() for name in figures}
    return [name for name in _TELLING if name in there]
