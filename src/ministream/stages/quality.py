"""Judge a reconstruction while it is made, tell when it has had enough projections, and ask the DAQ to end.

The slices of all workers are put together, and judged whenever there is something new: against a reference
if there is one, else by how much they still change and how they look.
Only the newest volume counts: what arrives during a judgement replaces what waits for the next.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import ConnectionFailed, InputError, ProtocolError
from ministream.kernels.metrics import relative_change
from ministream.sinks.chart import check_chart
from ministream.sinks.curves import write_curves
from ministream.sources import ViewOrder
from ministream.stages.broadcast import VolumeSubscriber
from ministream.stages.convergence import Checkpoint, Convergence, least_share
from ministream.stages.judging import judge, read_finite, region
from ministream.stages.steering import ask_to_finish
from ministream.transport import LinkKey

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Report = Callable[[Mapping[str, Any]], None]

_MOST_SLICES_LIVE = 8
_SHARE_OF_TIME = 0.25
"""Of one core, that live judgements may take: the reconstruction needs the cores more."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityOptions:
    """What to judge live.

    Parameters
    ----------
    connect : sequence of str
        Publishers of all workers.
    reference : str or None
        File of a volume with all their slices, as `ministream.sources.images.read_images` takes it.
    connect_timeout_s : float
        How long to wait for the first publisher to answer.
    whole : bool
        Let the corners of square slices count.
    projections : int or None
        Of the whole scan; None for not watching whether there have been enough.
    order : ViewOrder
        In which the scan is played.
    range_deg : float
        Angles of the whole scan.
    tolerance : float
        Relative change from one twentieth of the scan to the next, below which an image is calm.
    stop_daq : str or None
        Where the DAQ takes steering requests; it is asked to end its scan when there have been enough.
    plot : Path or None
        Where to draw the figures over the projections, at the end.
    link_key : LinkKey or None
        That of the workers, if they have one.
    """

    connect: Sequence[str]
    reference: str | None = None
    connect_timeout_s: float = 60.0
    whole: bool = False
    projections: int | None = None
    order: ViewOrder = ViewOrder.AS_MEASURED
    range_deg: float = 180.0
    tolerance: float = 0.02
    stop_daq: str | None = None
    plot: Path | None = None
    link_key: LinkKey | None = None


def run(options: QualityOptions, report: Report, stop: threading.Event) -> None:
    """Judge what the workers publish until each has published its last volume, or is gone; or until `stop`.

    Reports ``progress`` with ``update``, ``projections`` and the figures, the last of which ``done`` repeats;
    ``enough`` with ``projections``, once, when there have been enough, and ``daq_asked``: whether the DAQ has
    accepted to end its scan. That it has not, is a warning in the log.

    Raises
    ------
    InputError
        An option or the reference cannot be used, or does not fit the volume.
    OutputError
        The plot cannot be written.
    ConnectionFailed
        An address is wrong, or a publisher is never there.
    ProtocolError
        A publisher sends what is no volume.
    """
    if options.stop_daq is not None and options.projections is None:
        raise InputError(
            "to end the DAQ's scan, the projections of the whole scan must be known: --projections"
        )
    if options.plot is not None:
        check_chart(options.plot)
    live = _Live(options, report)
    with VolumeSubscriber(options.connect, key=options.link_key) as subscriber:
        live.run(subscriber, stop)
    live.plot()


class _Live:
    """The judgements of one run, and what they remember of each other."""

    def __init__(self, options: QualityOptions, report: Report) -> None:
        self._options = options
        self._reference = (
            None if options.reference is None else read_finite(options.reference, whole=options.whole)
        )
        self._report = report
        self._convergence: Convergence | None = None
        if options.projections is not None:
            self._convergence = Convergence(
                options.projections,
                tolerance=options.tolerance,
                least=least_share(options.order, options.range_deg),
            )
        self._told_enough_at: int | None = None
        self._history: list[tuple[int, dict[str, float]]] = []
        self._previous: FloatArray | None = None
        self._updates = 0
        self._figures: dict[str, float] = {}
        self._projections = 0

    def run(self, subscriber: VolumeSubscriber, stop: threading.Event) -> None:
        connect_timeout_s = self._options.connect_timeout_s
        give_up_at = time.monotonic() + connect_timeout_s
        next_at, fresh = 0.0, False
        while not stop.is_set():
            fresh |= subscriber.receive(_POLL_S)
            if not subscriber.all_connected and not subscriber.ended:
                if time.monotonic() > give_up_at:
                    missing = ", ".join(subscriber.missing)
                    raise ConnectionFailed(
                        f"after {connect_timeout_s:g} s nobody publishes at {missing}; start workers first"
                    )
                continue
            if fresh and subscriber.complete and (time.monotonic() >= next_at or subscriber.ended):
                started = time.monotonic()
                self._judge(*subscriber.assemble())
                taken = time.monotonic() - started
                next_at, fresh = time.monotonic() + taken * (1 / _SHARE_OF_TIME - 1), False
            if subscriber.ended:
                break
        if not stop.is_set():
            self._report({"event": "done", **self._event()})

    def _judge(self, volume: FloatArray, projections: int) -> None:
        reference = self._reference
        if reference is not None and reference.shape != volume.shape:
            raise InputError(
                f"the reference of shape {reference.shape} does not fit the volume of shape {volume.shape}"
            )
        some = np.unique(np.linspace(0, len(volume) - 1, min(len(volume), _MOST_SLICES_LIVE)).astype(int))
        sample = volume[some]
        whole = self._options.whole
        figures = judge(sample, None if reference is None else reference[some], whole=whole)
        mask = region(volume.shape, whole=whole)
        if self._previous is not None:
            figures["change"] = relative_change(sample, self._previous, mask)
        checkpoint = None
        if self._convergence is not None:
            checkpoint = self._convergence.add(sample, projections, mask)
        self._previous = sample
        self._updates += 1
        self._projections = projections
        # JSON knows no infinity
        self._figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._history.append((projections, self._figures))
        self._report({"event": "progress", **self._event()})
        if checkpoint is not None:
            self._heed(checkpoint)

    def _heed(self, checkpoint: Checkpoint) -> None:
        logger.info(
            "checkpoint at %d projections: change %.4f, %d in a row are calm",
            checkpoint.projections,
            checkpoint.change,
            checkpoint.calm,
        )
        if not checkpoint.enough or self._told_enough_at is not None:
            return
        self._told_enough_at = checkpoint.projections
        event = {
            "event": "enough",
            "projections": checkpoint.projections,
            "projections_total": self._options.projections,
            "checkpoint_change": checkpoint.change,
        }
        if self._options.stop_daq is not None:
            event["daq_asked"] = self._ask(self._options.stop_daq, checkpoint)
        self._report(event)

    def _ask(self, address: str, checkpoint: Checkpoint) -> bool:
        reason = f"the image changes by {checkpoint.change:.2g} at {checkpoint.projections} projections"
        try:
            ask_to_finish(address, reason)
        except (ConnectionFailed, ProtocolError) as error:
            # the scan may just have ended; the judgement goes on in any case
            logger.warning("%s", error)
            return False
        return True

    def plot(self) -> None:
        """Draw what has been judged, if that is wanted and there is anything."""
        path = self._options.plot
        if path is None:
            return
        if not self._history:
            logger.warning("nothing has been judged: there is no plot %s", path)
            return
        names = list(dict.fromkeys(name for _, figures in self._history for name in figures))
        curves = {name: [figures.get(name, math.nan) for _, figures in self._history] for name in names}
        at = self._told_enough_at
        write_curves(
            path,
            [projections for projections, _ in self._history],
            curves,
            x_label="projections",
            title="quality while the scan arrives",
            mark=None if at is None else (at, f"enough: {at} projections"),
        )

    def _event(self) -> dict[str, Any]:
        event: dict[str, Any] = {"update": self._updates, "projections": self._projections, **self._figures}
        if self._convergence is not None:
            event["enough_at"] = self._convergence.enough_at
        return event
