"""The first stage: plays a scan as the detector would, at its rate, to one or more consumers.

Every consumer gets every frame. None is dropped: when a consumer does not keep up, the DAQ waits, and tells
by how much it is late. Frames are due at fixed moments from the first projection on, so that a delay is made
up for and does not add up. A detector has its own rate; what it measures and nobody takes in time is counted,
told at the end, and makes the stage end with an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ministream.errors import ConnectionFailed, InputError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.sinks import write_volume
from ministream.sources import Source, SourceOptions, ViewOrder, open_source
from ministream.stages.frame_publisher import SEND_QUEUE, FramePublisher
from ministream.stages.steering import ENDED_EARLY, SteeringListener
from ministream.transport import RECONNECT_TIMEOUT_S, FlowEvent, Joined, Left, Outlet
from ministream.wire import encode

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

# how long a signal to stop may go unnoticed
_POLL_S = 0.2
# how long one thing is waited for while another may come: two kinds of consumers, or a detector
_TURN_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class DaqOptions:
    """What to play, and to whom.

    Parameters
    ----------
    source : str
        As `ministream.sources.open_source` takes it.
    reading : SourceOptions
        How to read it.
    listen : str
        ``tcp://HOST:PORT``; port 0 takes a free one.
    rate : float
        Projections per second; 0 for as fast as the consumers take them.
    order : ViewOrder
    consumers : int
        How many to wait for, and to serve; none where there are subscribers alone.
    truth : Path or None
        Where to write a phantom's ground truth first.
    publish : str or None
        Where the mini-app's distributors subscribe.
    synch : str or None
        Where they say that they are there.
    subscribers : int
        How many of them to wait for.
    send_queue : int
        Frames that may wait for one of them.
    repeat_pause_s : float
        Pause before the scan is played again.
    reconnect_timeout_s : float
        How long a consumer whose connections are lost may take to come back.
    steer : str or None
        Where requests to end the scan early are taken, see `ministream.stages.steering`.
    """

    source: str = "phantom"
    reading: SourceOptions = field(default_factory=SourceOptions)
    listen: str = "tcp://127.0.0.1:0"
    rate: float = 0.0
    order: ViewOrder = ViewOrder.AS_MEASURED
    consumers: int = 1
    truth: Path | None = None
    publish: str | None = None
    synch: str | None = None
    subscribers: int = 1
    send_queue: int = SEND_QUEUE
    repeat_pause_s: float = 0.0
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
    steer: str | None = None


def run(options: DaqOptions, report: Report, stop: threading.Event) -> None:
    """Play the scan; return when every consumer has acknowledged every frame, or soon after `stop`.

    Reports ``ready`` (``address``, ``publish_address``, ``synch_address``, ``steering_address``, if there),
    ``progress`` (``projections_sent``, ``projections_total``, ``bytes_sent``, ``seconds``), ``done`` (also
    ``flat_fields_sent``, ``dark_fields_sent``, ``first_projection_at`` in Unix time, ``projections_per_s``,
    ``late_s``: how far behind the asked rate at worst; a detector's ``frames_lost``, ``frames_dropped``,
    ``counter_restarts``; ``frames_retransmitted``: sent again because a connection was lost; and
    ``ended_early``, the reason of whoever asked for it). A scan that ends early is whole for its consumers:
    they get the end of it, and acknowledge what they have.

    Raises
    ------
    InputError
        The source or an option cannot be used.
    OutputError
        The truth cannot be written.
    PortInUse, ConnectionFailed
        An address cannot be bound; a consumer left before the end; a detector's frames were lost, after
        everything else has been passed on.
    """
    _check(options)
    with ExitStack() as held:
        source = held.enter_context(open_source(options.source, **asdict(options.reading)))
        _check_live(options, source)
        description = source.describe()
        if options.truth is not None:
            write_volume(options.truth, source.truth(), attributes={"source": options.source})
        ready: dict[str, Any] = {"event": "ready"}
        flows = publisher = None
        if options.consumers:
            outlet = held.enter_context(
                Outlet(
                    options.listen,
                    description=description.as_mapping(),
                    reconnect_timeout_s=options.reconnect_timeout_s,
                )
            )
            flows = _Flows(outlet, options.consumers, description)
            ready["address"] = outlet.address
        if options.publish is not None:
            publisher = held.enter_context(
                FramePublisher(
                    options.publish,
                    synch_address=options.synch,
                    subscribers=options.subscribers,
                    send_queue=options.send_queue,
                )
            )
            ready |= {"publish_address": publisher.address, "synch_address": publisher.synch_address}
        steering = None
        if options.steer is not None:
            steering = held.enter_context(SteeringListener(options.steer))
            ready["steering_address"] = steering.address
        report(ready)
        _Play(options, source, description, flows, publisher, steering, report, stop).run()


def _check(options: DaqOptions) -> None:
    if not 0 <= options.rate < float("inf") or not 0 <= options.repeat_pause_s < float("inf"):
        raise InputError(
            f"rate {options.rate:g}, pause {options.repeat_pause_s:g}: both are 0 or more, and finite"
        )
    if options.consumers < 0 or (options.consumers == 0 and options.publish is None):
        raise InputError(
            f"{options.consumers} consumers: at least one is needed, or --publish for subscribers"
        )
    if options.publish is not None and (options.subscribers < 1 or options.send_queue < 1):
        raise InputError("at least one subscriber is needed, and a queue of one frame")
    if options.publish is None and options.synch is not None:
        raise InputError("--synch-addr is for subscribers: it needs --publish")


def _check_live(options: DaqOptions, source: Source) -> None:
    if source.live and (options.rate or options.order is not ViewOrder.AS_MEASURED):
        raise InputError(
            "a detector has its own rate and order of views; --rate and --order are for scans that are "
            "recorded"
        )


class _Stopped(Exception):
    """`stop` was set."""


@dataclass(slots=True)
class _Counts:
    projections: int = 0
    flat_fields: int = 0
    dark_fields: int = 0
    bytes: int = 0
    first_projection_at: float | None = None
    first_projection_s: float = 0.0
    last_projection_s: float = 0.0
    late_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)

    def add(self, kind: FrameKind, size: int) -> None:
        self.bytes += size
        match kind:
            case FrameKind.PROJECTION:
                self.last_projection_s = time.monotonic()
                if self.projections == 0:
                    self.first_projection_s = self.last_projection_s
                self.projections += 1
            case FrameKind.FLAT_FIELD:
                self.flat_fields += 1
            case FrameKind.DARK_FIELD:
                self.dark_fields += 1

    @property
    def rate(self) -> float:
        """Projections per second, from the first to the last."""
        took_s = self.last_projection_s - self.first_projection_s
        return (self.projections - 1) / took_s if took_s > 0 else 0.0


class _Flows:
    """The consumers with flow control: who is there, and what they have."""

    def __init__(self, outlet: Outlet, wanted: int, description: ScanDescription) -> None:
        self._outlet = outlet
        self._wanted = wanted
        self._description = description
        self._flows: list[str] = []
        self._sent = 0
        self._finished = False

    @property
    def complete(self) -> bool:
        """Whether all who are wanted have joined."""
        return len(self._flows) == self._wanted

    @property
    def can_send(self) -> bool:
        """Whether each of them takes a frame now."""
        return all(map(self._outlet.can_send, self._flows))

    @property
    def retransmitted(self) -> int:
        """Frames sent again because a connection was lost."""
        return self._outlet.retransmitted

    @property
    def outstanding(self) -> bool:
        """Whether one of them has not acknowledged everything."""
        return any(map(self._outlet.outstanding, self._flows))

    def send(self, frame: Frame) -> int:
        """Send a frame to each of them; return how many bytes these are."""
        payload = encode(frame)
        for flow in self._flows:
            self._outlet.send(flow, payload)
        self._sent += frame.kind is FrameKind.PROJECTION
        return len(payload) * len(self._flows)

    def finish(self, ended_early: str | None) -> None:
        """Tell them that this was all, and why it is less than was announced if somebody wanted that."""
        self._finished = True
        for flow in self._flows:
            if ended_early is not None:
                self._outlet.notify(flow, {"kind": ENDED_EARLY, "reason": ended_early})
            self._outlet.finish(flow)

    def serve(self, timeout_s: float) -> None:
        """Let their messages in, for so long at most.

        Raises
        ------
        ConnectionFailed
            One has left too early.
        """
        for event in self._outlet.poll(timeout_s):
            self._take(event)

    def _take(self, event: FlowEvent) -> None:
        match event:
            case Joined(flow=flow) if not self.complete:
                self._flows.append(flow)
                logger.info("consumer %s has joined", flow)
            case Joined(flow=flow):
                logger.warning("consumer %s comes too late and is refused", flow)
                self._outlet.dismiss(flow, f"the scan has begun; it was started for {self._wanted} consumers")
            case Left(flow=flow) if flow in self._flows:
                if self._finished and event.unacknowledged == 0:
                    return
                raise ConnectionFailed(
                    f"consumer {flow} left after {self._sent} of "
                    f"{self._description.projections} projections: {event.reason}"
                )
            case _:
                pass


class _Play:
    """One scan being played."""

    def __init__(
        self,
        options: DaqOptions,
        source: Source,
        description: ScanDescription,
        flows: _Flows | None,
        publisher: FramePublisher | None,
        steering: SteeringListener | None,
        report: Report,
        stop: threading.Event,
    ) -> None:
        self._options = options
        self._source = source
        self._description = description
        self._flows = flows
        self._publisher = publisher
        self._steering = steering
        self._playing = False
        self._counts_at_end: Mapping[str, int] | None = None
        self._report = report
        self._stop = stop
        self._counts = _Counts()
        # from when on, and from which projection on, projections are due at their rate
        self._began_s = 0.0
        self._began_with = 0

    def run(self) -> None:
        try:
            while not all(audience.complete for audience in self._audiences()):
                self._serve(_POLL_S)
            logger.info("all consumers are there, %s begins", self._description.name)
            self._counts.started_s = time.monotonic()
            self._playing = True
            self._play()
            self._finish()
        except _Stopped:
            logger.info("stopped after %d projections", self._counts.projections)
            return
        self._report({"event": "done", **self._summary()})
        # what a detector measures after somebody has said that it is enough is not missed; losses before are
        counts = self._source_counts()
        if self._ended_early is None or counts.get("frames_lost") or counts.get("frames_dropped"):
            self._source.check_complete()

    def _source_counts(self) -> Mapping[str, int]:
        """Return what the source has counted, until the scan ended."""
        return self._source.counts if self._counts_at_end is None else self._counts_at_end

    @property
    def _ended_early(self) -> str | None:
        """Why no more projections are wanted, if somebody has said so while there were more."""
        everything = self._counts.projections == self._description.projections
        return None if self._steering is None or everything else self._steering.reason

    def _audiences(self) -> list[_Flows | FramePublisher]:
        return [audience for audience in (self._flows, self._publisher) if audience is not None]

    def _play(self) -> None:
        counts = self._counts
        frames = self._source.frames(self._options.order)
        per_round = self._description.frames // self._options.reading.repeat
        while True:
            # a detector may need some time for the next one
            while self._ended_early is None and not self._source.wait(_TURN_S):
                self._serve(0)
            if self._ended_early is not None:
                logger.info("ended after %d projections: %s", counts.projections, self._ended_early)
                self._counts_at_end = dict(self._source.counts)
                return
            frame = next(frames, None)
            if frame is None:
                return
            if frame.sequence and not self._source.live and frame.sequence % per_round == 0:
                self._wait_until(time.monotonic() + self._options.repeat_pause_s)
                self._began_with = counts.projections
            due_s = self._due_s(frame)
            self._wait_until(due_s)
            if self._ended_early is not None:
                continue
            size = self._send(frame)
            if frame.kind is FrameKind.PROJECTION:
                counts.first_projection_at = counts.first_projection_at or time.time()
                if self._options.rate:
                    counts.late_s = max(counts.late_s, time.monotonic() - due_s)
            counts.add(frame.kind, size)
            self._serve(0)
            if frame.kind is FrameKind.PROJECTION:
                self._report({"event": "progress", **self._progress()})

    def _due_s(self, frame: Frame) -> float:
        """Return when a frame is to be sent; fields, and projections without a rate, at once."""
        if frame.kind is not FrameKind.PROJECTION or not self._options.rate:
            return 0.0
        number = self._counts.projections - self._began_with
        if number == 0:
            self._began_s = time.monotonic()
        # from the beginning, not from the one before: errors do not add up
        return self._began_s + number / self._options.rate

    def _wait_until(self, due_s: float) -> None:
        while self._ended_early is None and (wait_s := due_s - time.monotonic()) > 0:
            self._serve(min(wait_s, _POLL_S))

    def _send(self, frame: Frame) -> int:
        """Send a frame to everybody as soon as everybody takes it; return how many bytes these are."""
        size = 0
        if self._flows is not None:
            while not self._flows.can_send:
                self._serve(_POLL_S)
        if self._publisher is not None:
            while not self._publisher.send(frame, self._source.rotation_center):
                self._serve(0)
            size += frame.pixels.nbytes * self._options.subscribers
        if self._flows is not None:
            size += self._flows.send(frame)
        return size

    def _finish(self) -> None:
        if self._flows is not None:
            self._flows.finish(self._ended_early)
            while self._flows.outstanding:
                self._serve(_POLL_S)
        if self._publisher is not None:
            self._publisher.finish(self._stop)
            if self._stop.is_set():
                raise _Stopped

    def _serve(self, timeout_s: float) -> None:
        """Let the consumers' messages in, for so long at most."""
        audiences = self._audiences()
        if len(audiences) > 1:
            timeout_s = min(timeout_s, _TURN_S)
        audiences[0].serve(timeout_s)
        for other in audiences[1:]:
            other.serve(0)
        if self._steering is not None:
            self._steering.serve(playing=self._playing)
        if self._stop.is_set():
            raise _Stopped

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
            "projections_per_s": self._counts.rate,
            "late_s": self._counts.late_s,
            "frames_retransmitted": 0 if self._flows is None else self._flows.retransmitted,
            **self._source_counts(),
            **({} if self._ended_early is None else {"ended_early": self._ended_early}),
        }
