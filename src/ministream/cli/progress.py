"""Show a run's progress: a live panel on a terminal, plain lines elsewhere. Both go to standard error."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from ministream.pipeline import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_PLAIN_INTERVAL_S = 2.0
_TOLD = ("ssim", "psnr", "sharpness", "change")


class PlainDisplay:
    """One line when the phase changes, and every two seconds while the scan streams."""

    def __init__(self) -> None:
        self._phase = ""
        self._printed_at = 0.0
        self._warned = 0

    def __call__(self, progress: Progress) -> None:
        """Print what has changed, if it is time."""
        now_s = time.monotonic()
        for warning in progress.warnings[self._warned :]:
            click.echo(f"  warning: {warning}", err=True)
        self._warned = len(progress.warnings)
        if progress.phase != self._phase:
            self._phase = progress.phase
            click.echo(f"{progress.phase} ...", err=True)
        elif progress.projections_sent and now_s - self._printed_at >= _PLAIN_INTERVAL_S:
            self._printed_at = now_s
            click.echo("  " + "; ".join(f"{name} {value}" for name, value in _figures(progress)), err=True)


class LiveDisplay:
    """A panel that is drawn anew four times a second."""

    def __init__(self) -> None:
        self._progress = Progress()

    def context(self) -> AbstractContextManager[Any]:
        """Return the context in which the panel is on the screen."""
        from rich.console import Console
        from rich.live import Live

        live: Live = Live(
            get_renderable=self._panel, console=Console(stderr=True), refresh_per_second=4, transient=False
        )
        return live

    def __call__(self, progress: Progress) -> None:
        """Take note; the panel is drawn by its own clock."""
        self._progress = progress

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        progress = self._progress
        figures = Table.grid(padding=(0, 2))
        figures.add_column(style="dim")
        figures.add_column()
        for name, value in _figures(progress):
            figures.add_row(name, value)
        bar = ProgressBar(
            total=max(progress.projections_total, 1), completed=progress.projections_reconstructed
        )
        return Panel(Group(bar, figures), title=progress.phase, title_align="left")


def display(*, quiet: bool) -> tuple[Any, AbstractContextManager[Any]]:
    """Return what observes the progress, and the context in which it does."""
    if quiet:
        return (lambda _: None), nullcontext()
    if sys.stderr.isatty():
        live = LiveDisplay()
        return live, live.context()
    return PlainDisplay(), nullcontext()


def _figures(progress: Progress) -> list[tuple[str, str]]:
    total = progress.projections_total
    figures = [
        ("sent", f"{progress.projections_sent}/{total}"),
        ("received", f"{progress.projections_received}/{total}"),
        ("reconstructed", f"{progress.projections_reconstructed}/{total}"),
        ("updates", str(progress.updates)),
        (
            "session",
            f"{progress.session_bytes_per_s / 1e6:.2f} MB/s, {progress.session_bytes / 1e6:.2f} MB",
        ),
    ]
    if progress.rotation_center is not None:
        figures.append(("rotation centre", f"column {progress.rotation_center:.2f}"))
    told = [f"{name} {progress.quality[name]:.3g}" for name in _TOLD if name in progress.quality]
    figures += [("warning", warning) for warning in progress.warnings[-3:]]
    if told:
        figures.append(("quality", ", ".join(told)))
    return figures
