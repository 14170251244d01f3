"""The first stage: plays a scan as the detector would, at its rate, to one or more consumers.

Every consumer gets every frame. None is dropped: when a consumer does not keep up, the DAQ waits, and tells
by how much it is late. Frames are due at fixed moments from the first projection on, so that a delay is made
up for and does not add up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ministream.errors import ConnectionFailed, InputError
from ministream.frames import FrameKind, ScanDescription
from ministream.sinks import write_volume
from ministream.sources import Source, ViewOrder, open_source
from ministream.transport import RECONNECT_TIMEOUT_S, FlowEvent, Joined, Left, Outlet
from ministream.wire import encode

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

# how long a signal to stop may go unnoticed
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class DaqOptions:
    """What to play, and to whom.

    Parameters
    ----------
    source : str
        As `ministream.sources.open_source` takes it.
    listen : str
        ``tcp://HOST:PORT``; port 0 takes a free one.
    rate : float
        Projections per second; 0 for as fast as the consumers take them.
    order : ViewOrder
    consumers : int
        How many to wait for, and to serve.
    truth : Path or None
        Where to write a phantom's ground truth first.
    flat_value, dark_value : float or None
        Counts, for a file without flat or dark fields.
    reconnect_timeout_s : float
        How long a consumer whose connections are lost may take to come back.
    """

    source: str = "phantom"
    listen: str = "tcp://127.0.0.1:0"
    rate: float = 0.0
    order: ViewOrder = ViewOrder.AS_MEASURED
    consumers: int = 1
    truth: Path | None = None
    flat_value: float | None = None
    dark_value: float | None = None
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S


def run(options: DaqOptions, report: Report, stop: threading.Event) -> None:
    """Play the scan; return when every consumer has acknowledged every frame, or soon after `stop`.

    Reports ``ready`` (``address``), ``progress`` (``projections_sent``, ``projections_total``,
    ``bytes_sent``, ``seconds``), ``done`` (also ``flat_fields_sent``, ``dark_fields_sent``,
    ``first_projection_at`` in Unix time, ``late_s``: how far behind the asked rate at worst,
    ``frames_retransmitted``: sent again because a connection was lost).

    Raises
    ------
    InputError
        The source or an option cannot be used.
    OutputError
        The truth cannot be written.
    PortInUse, ConnectionFailed
        The address cannot be bound; a consumer left before the end.
    """
    if not 0 <= options.rate < float("inf") or options.consumers < 1:
        raise InputError(
            f"rate {options.rate:g} and consumers {options.consumers}: "
            "a rate is 0 or more, and at least one consumer is needed"
        )
    with open_source(options.source, flat_value=options.flat_value, dark_value=options.dark_value) as source:
        description = source.describe()
        if options.truth is not None:
            write_volume(options.truth, source.truth(), attributes={"source": options.source})
        with Outlet(
            options.listen,
            description=description.as_mapping(),
            reconnect_timeout_s=options.reconnect_timeout_s,
        ) as outlet:
            report({"event": "ready", "address": outlet.address})
            _Play(options, source, description, outlet, report, stop).run()


class _Stopped(Exception):
    """`stop` was set."""


@dataclass(slots=True)
class _Counts:
    projections: int = 0
    flat_fields: int = 0
    dark_fields: int = 0
    bytes: int = 0
    first_projection_at: float | None = None
    late_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)

    def add(self, kind: FrameKind, size: int) -> None:
        self.bytes += size
        match kind:
            case FrameKind.PROJECTION:
                self.projections += 1
            case FrameKind.FLAT_FIELD:
                self.flat_fields += 1
            case FrameKind.DARK_FIELD:
                self.dark_fields += 1


class _Play:
    """One scan being played."""

    def __init__(
        self,
        options: DaqOptions,
        source: Source,
        description: ScanDescription,
        outlet: Outlet,
        report: Report,
        stop: threading.Event,
    ) -> None:
        self._options = options
        self._source = source
        self._description = description
        self._outlet = outlet
        self._report = report
        self._stop = stop
        self._flows: list[str] = []
        self._counts = _Counts()

    def run(self) -> None:
        try:
            while len(self._flows) < self._options.consumers:
                self._serve(_POLL_S)
            logger.info("%d consumers are there, %s begins", len(self._flows), self._description.name)
            self._counts.started_s = time.monotonic()
            self._play()
            self._finish()
        except _Stopped:
            logger.info("stopped after %d projections", self._counts.projections)
            return
        self._report({"event": "done", **self._summary()})

    def _play(self) -> None:
        options, counts = self._options, self._counts
        due_s = began_s = 0.0
        for frame in self._source.frames(options.order):
            payload = encode(frame)
            is_projection = frame.kind is FrameKind.PROJECTION
            if is_projection and counts.projections == 0:
                due_s = began_s = time.monotonic()
            elif is_projection and options.rate:
                # from the beginning, not from the one before: errors do not add up
                due_s = began_s + counts.projections / options.rate
            while (wait_s := due_s - time.monotonic()) > 0:
                self._serve(min(wait_s, _POLL_S))
            while not all(map(self._outlet.can_send, self._flows)):
                self._serve(_POLL_S)
            if is_projection:
                counts.first_projection_at = counts.first_projection_at or time.time()
                if options.rate:
                    counts.late_s = max(counts.late_s, time.monotonic() - due_s)
            for flow in self._flows:
                self._outlet.send(flow, payload)
            counts.add(frame.kind, len(payload) * len(self._flows))
            self._serve(0)
            if is_projection:
                self._report({"event": "progress", **self._progress()})

    def _finish(self) -> None:
        for flow in self._flows:
            self._outlet.finish(flow)
        while any(map(self._outlet.outstanding, self._flows)):
            self._serve(_POLL_S)

    def _serve(self, timeout_s: float) -> None:
        """Let the consumers' messages in, for so long at most."""
        for event in self._outlet.poll(timeout_s):
            self._take(event)
        if self._stop.is_set():
            raise _Stopped

    def _take(self, event: FlowEvent) -> None:
        match event:
            case Joined(flow=flow) if len(self._flows) < self._options.consumers:
                self._flows.append(flow)
                logger.info("consumer %s has joined", flow)
            case Joined(flow=flow):
                count = self._options.consumers
                logger.warning("consumer %s comes too late and is refused", flow)
                self._outlet.dismiss(flow, f"the scan has begun; it was started for {count} consumers")
            case Left(flow=flow) if flow in self._flows:
                if self._is_done(event):
                    return
                raise ConnectionFailed(
                    f"consumer {flow} left after {self._counts.projections} of "
                    f"{self._description.projections} projections: {event.reason}"
                )
            case _:
                pass

    def _is_done(self, event: Left) -> bool:
        """Whether a consumer leaves after everything."""
        counts, expected = self._counts, self._description
        sent = counts.projections + counts.flat_fields + counts.dark_fields
        return sent == expected.frames and event.unacknowledged == 0

    def _progress(self) -> dict[str, Any]:
        return {
            "projections_sent": self._counts.projections,
            "projections_total": self._description.projections,
            "bytes_sent": self._counts.bytes,
            "seconds": time.monotonic() - self._counts.started_s,
        }

    def _summary(self) -> dict[str, Any]:
        return {
            **self._progress(),
            "flat_fields_sent": self._counts.flat_fields,
            "dark_fields_sent": self._counts.dark_fields,
            "first_projection_at": self._counts.first_projection_at,
            "late_s": self._counts.late_s,
            "frames_retransmitted": self._outlet.retransmitted,
        }
