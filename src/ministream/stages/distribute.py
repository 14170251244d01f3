"""The distributor: corrects projections and shares their rows among reconstruction workers.

In order: it listens, waits until every worker is there, and only then connects to the DAQ, so that nothing
flows before it can be used. Dark and flat fields are averaged; each projection becomes attenuation, of which
every worker gets its rows; rotation centre and stripe offsets are estimated on the way (see
`ministream.stages.calibration`) and told to the workers in the order of the stream.

Nothing is left out and nothing piles up: the DAQ gets a credit back when every worker has done with what came
of it, so the slowest worker sets the pace. At the end every worker knows the last calibration before it
learns that the stream has ended.

What a worker is told, beside the frames (`TImage`, float32 attenuation, its rows):

``assignment``
    Before the first frame: ``slices_total``, ``slice_begin``, ``slice_count``, ``columns``, ``projections``,
    ``rotation_center`` (null if it is not known yet), ``name``.
``calibration``
    ``rotation_center`` (null if not known yet), ``views`` that it is from; the payload, if there is one, is
    the stripe offset of its slices, (slice, column) little-endian float32.
``refused``
    ``reason``; nothing else will come.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError, ProtocolError, StageError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.partition import slice_range
from ministream.stages.calibration import Calibration, Calibrator, warm_up
from ministream.stages.correction import Corrector
from ministream.transport import (
    RECONNECT_TIMEOUT_S,
    Acknowledged,
    Ended,
    Inlet,
    Joined,
    Left,
    Message,
    Outlet,
    wait_any,
)
from ministream.wire import timage

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Report = Callable[[Mapping[str, Any]], None]

STRIPE_METHODS = ("sorting", "none")
_WAIT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributeOptions:
    """What to distribute, and to how many.

    Parameters
    ----------
    connect : sequence of str
        Addresses that lead to the DAQ: one for each channel of a session, or the DAQ's own.
    listen : str
        Where the workers connect.
    workers : int
    center : float or None
        Rotation centre as a column index; None to estimate it.
    stripes : str
        One of `STRIPE_METHODS`.
    credits : int
        Frames that may be on their way from the DAQ or in work.
    connect_timeout_s : float
        How long the DAQ may take to answer.
    reconnect_timeout_s : float
        How long it, or a worker, may take to come back when its connections are lost.
    """

    connect: Sequence[str]
    listen: str = "tcp://127.0.0.1:0"
    workers: int = 1
    center: float | None = None
    stripes: str = "sorting"
    credits: int = 64
    connect_timeout_s: float = 30.0
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S


def run(options: DistributeOptions, report: Report, stop: threading.Event) -> None:
    """Distribute one scan; return at its end, or soon after `stop`.

    Reports ``ready`` (``address``), ``progress`` (``projections_received``, ``projections_total``,
    ``rotation_center``, ``workers``), ``done`` (also ``invalid_pixels``, ``duplicates_dropped``,
    ``flat_fields``, ``dark_fields``, ``rotation_center_estimated``, ``seconds``).

    Raises
    ------
    InputError
        An option or the scan cannot be used: more workers than rows, no flat field before a projection.
    PortInUse, ConnectionFailed
        The workers' address cannot be bound; the DAQ cannot be reached, or was lost.
    ProtocolError
        The DAQ sends what cannot be understood.
    StageError
        A worker left before the end.
    """
    if options.stripes not in STRIPE_METHODS:
        raise InputError(f"stripes {options.stripes!r} is not one of {', '.join(STRIPE_METHODS)}")
    with Outlet(
        options.listen,
        description={"stage": "distribute"},
        reconnect_timeout_s=options.reconnect_timeout_s,
    ) as outlet:
        report({"event": "ready", "address": outlet.address})
        warm_up(center=options.center is None, stripes=options.stripes != "none")
        workers = _Workers(outlet, options.workers)
        if not workers.gather(stop):
            return
        flow = f"distributor-{uuid.uuid4().hex[:8]}"
        with Inlet(
            options.connect,
            flow=flow,
            credits=options.credits,
            connect_timeout_s=options.connect_timeout_s,
            reconnect_timeout_s=options.reconnect_timeout_s,
        ) as inlet:
            while not inlet.await_welcome(_WAIT_S):
                if stop.is_set():
                    return
            description = ScanDescription.from_mapping(inlet.description)
            _check(options, description)
            with Calibrator(
                projections=description.projections,
                rows=description.rows,
                columns=description.columns,
                center=options.center is None,
                stripes=options.stripes != "none",
            ) as calibrator:
                _Distribution(options, description, inlet, workers, calibrator, report).run(stop)


class _Workers:
    """The workers of a scan: who is there, what they have been sent, how far they are."""

    def __init__(self, outlet: Outlet, size: int) -> None:
        self.outlet = outlet
        self.size = size
        self.sent = 0
        """Frames that each of them has been sent."""
        self._flows: dict[int, str] = {}
        self._acknowledged: dict[str, int] = {}
        self._finished = False

    def gather(self, stop: threading.Event) -> bool:
        """Wait until there is one of each rank; tell whether there is, or it is time to stop."""
        while len(self._flows) < self.size:
            if stop.is_set():
                return False
            for event in self.outlet.poll(_WAIT_S):
                match event:
                    case Joined(flow, attributes):
                        self._join(flow, attributes)
                    case Left(flow):
                        # nothing has been sent yet: it may come again
                        self._flows = {rank: name for rank, name in self._flows.items() if name != flow}
                    case Acknowledged():
                        pass
        return True

    def _join(self, flow: str, attributes: Mapping[str, Any]) -> None:
        rank, size = attributes.get("rank"), attributes.get("size")
        if size != self.size or not isinstance(rank, int) or not 0 <= rank < self.size:
            self._refuse(
                flow, f"it says that it is number {rank} of {size}; numbers 0 to {self.size - 1} are wanted"
            )
            return
        if rank in self._flows:
            self._refuse(flow, f"number {rank} is there already")
            return
        self._flows[rank] = flow
        self._acknowledged[flow] = 0
        logger.info("worker %d has joined, %d of %d are there", rank, len(self._flows), self.size)

    def _refuse(self, flow: str, reason: str) -> None:
        logger.warning("worker %s is refused: %s", flow, reason)
        self.outlet.notify(flow, {"kind": "refused", "reason": reason})
        self.outlet.finish(flow)

    @property
    def can_take(self) -> bool:
        """Whether each of them has credit for a frame."""
        return all(self.outlet.can_send(flow) for flow in self._flows.values())

    @property
    def done(self) -> int:
        """How many frames the slowest of them has done with."""
        return min(self._acknowledged.values())

    @property
    def left(self) -> bool:
        """Whether all have gone."""
        return not self._flows

    def send(self, payload_of: Callable[[int], memoryview]) -> None:
        """Send each of them its frame, by rank."""
        for rank, flow in self._flows.items():
            self.outlet.send(flow, payload_of(rank))
        self.sent += 1

    def notify(self, notice_of: Callable[[int], tuple[Mapping[str, Any], bytes]]) -> None:
        """Send each of them its notice and payload, by rank."""
        for rank, flow in self._flows.items():
            self.outlet.notify(flow, *notice_of(rank))

    def finish(self) -> None:
        """Tell them that the stream has ended."""
        for flow in self._flows.values():
            self.outlet.finish(flow)
        self._finished = True

    def serve(self, timeout_s: float = 0.0) -> None:
        """Take note of what they have done.

        Raises
        ------
        StageError
            One has left before its work was done.
        """
        for event in self.outlet.poll(timeout_s):
            match event:
                case Acknowledged(flow, sequence) if flow in self._acknowledged:
                    self._acknowledged[flow] = sequence + 1
                case Left(flow) if flow in self._acknowledged:
                    self._leave(event)
                case Joined(flow):
                    self._refuse(flow, "the scan has begun")
                case _:
                    pass

    def _leave(self, event: Left) -> None:
        rank = next(rank for rank, flow in self._flows.items() if flow == event.flow)
        if event.lost or event.unacknowledged or not self._finished:
            raise StageError(
                f"worker {rank} left after {self._acknowledged[event.flow]} of {self.sent} projections"
                f" ({event.reason}); see its own message, and start the scan again"
            )
        del self._flows[rank]


class _Distribution:
    """One scan on its way from the DAQ to the workers."""

    def __init__(
        self,
        options: DistributeOptions,
        description: ScanDescription,
        inlet: Inlet,
        workers: _Workers,
        calibrator: Calibrator,
        report: Report,
    ) -> None:
        self._description = description
        self._inlet = inlet
        self._workers = workers
        self._calibrator = calibrator
        self._report = report
        self._corrector = Corrector(description)
        self._parts = [slice_range(description.rows, rank, workers.size) for rank in range(workers.size)]
        self._seen: set[int] = set()
        self._duplicates = 0
        self._received = 0
        self._center = options.center
        self._estimated = False
        # messages of the DAQ, and how many frames the workers must have done with before it gets its credit
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._started_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        self._workers.notify(lambda rank: (self._assignment(rank), b""))
        if not self._stream(stop) or not self._last_calibration(stop):
            return
        self._workers.finish()
        while not self._workers.left:
            if stop.is_set():
                return
            self._workers.serve(_WAIT_S)
            self._acknowledge()
        self._report({"event": "done", **self._summary()})

    def _stream(self, stop: threading.Event) -> bool:
        """Pass on until the DAQ has ended; tell whether it has, or it is time to stop."""
        inlet, workers = self._inlet, self._workers
        while not stop.is_set():
            workers.serve()
            self._acknowledge()
            self._calibrate()
            # without credit for a frame none is taken: what waits, waits at the DAQ
            item = inlet.receive(0) if workers.can_take else None
            if isinstance(item, Ended):
                return True
            if isinstance(item, Message):
                self._take(item)
            elif item is None:
                wait_any([inlet, workers.outlet] if workers.can_take else [workers.outlet], _WAIT_S)
        return False

    def _take(self, message: Message) -> None:
        frame = timage.decode(message.payload, self._description.pixel_type)
        if frame.sequence in self._seen:
            self._duplicates += 1
        else:
            self._seen.add(frame.sequence)
            attenuation = self._corrector.take(frame)
            if attenuation is not None:
                self._pass_on(frame, attenuation)
        self._unacknowledged.append((message.sequence, self._workers.sent))

    def _pass_on(self, frame: Frame, attenuation: FloatArray) -> None:
        if self._received == self._description.projections:
            raise ProtocolError(
                f"the DAQ sends more than the {self._received} projections that it has announced"
            )
        self._received += 1

        def payload_of(rank: int) -> memoryview:
            part = self._parts[rank]
            corrected = Frame(
                sequence=frame.sequence,
                kind=FrameKind.PROJECTION,
                pixels=attenuation[part.start : part.stop],
                angle_rad=frame.angle_rad,
            )
            return timage.encode(corrected, self._center)

        self._workers.send(payload_of)
        self._calibrator.add(frame.angle_rad, attenuation)
        self._report(
            {
                "event": "progress",
                "projections_received": self._received,
                "projections_total": self._description.projections,
                "rotation_center": self._center,
                "workers": self._workers.size,
            }
        )

    def _acknowledge(self) -> None:
        """Give the DAQ the credits back for what every worker has done with."""
        done = self._workers.done if not self._workers.left else self._workers.sent
        last = None
        while self._unacknowledged and self._unacknowledged[0][1] <= done:
            last, _ = self._unacknowledged.popleft()
        if last is not None:
            self._inlet.acknowledge(last)

    def _calibrate(self) -> None:
        """Tell the workers an estimate, if there is a new one."""
        calibration = self._calibrator.newest()
        if calibration is None:
            return
        if calibration.rotation_center is not None:
            self._center = calibration.rotation_center
            self._estimated = True
        self._workers.notify(lambda rank: self._notice(calibration, rank))

    def _last_calibration(self, stop: threading.Event) -> bool:
        """Wait for the estimate from all views; tell whether it has come, or it is time to stop."""
        self._calibrator.begin_last()
        while self._calibrator.busy:
            if stop.is_set():
                return False
            self._workers.serve(0.02)
            self._acknowledge()
            self._calibrate()
        if self._received < self._description.projections:
            logger.warning(
                "the DAQ has announced %d projections and sent %d",
                self._description.projections,
                self._received,
            )
        if self._center is None:
            self._center = (self._description.columns - 1) / 2
            logger.warning(
                "the rotation centre could not be found; the middle, column %.1f, is taken. Give --center if"
                " you know it",
                self._center,
            )
        return True

    def _assignment(self, rank: int) -> dict[str, Any]:
        part = self._parts[rank]
        return {
            "kind": "assignment",
            "slices_total": self._description.rows,
            "slice_begin": part.start,
            "slice_count": len(part),
            "columns": self._description.columns,
            "projections": self._description.projections,
            "rotation_center": self._center,
            "name": self._description.name,
        }

    def _notice(self, calibration: Calibration, rank: int) -> tuple[dict[str, Any], bytes]:
        part = self._parts[rank]
        message = {
            "kind": "calibration",
            "rotation_center": calibration.rotation_center,
            "views": calibration.views,
        }
        if calibration.stripes is None:
            return message, b""
        return message, calibration.stripes[part.start : part.stop].astype("<f4").tobytes()

    def _summary(self) -> dict[str, Any]:
        return {
            "projections_received": self._received,
            "projections_total": self._description.projections,
            "flat_fields": self._corrector.flat_fields.count,
            "dark_fields": self._corrector.dark_fields.count,
            "invalid_pixels": self._corrector.invalid_pixels,
            "rotation_center": self._center,
            "rotation_center_estimated": self._estimated,
            "duplicates_dropped": self._duplicates + self._inlet.duplicates,
            "workers": self._workers.size,
            "seconds": time.monotonic() - self._started_s,
        }


def _check(options: DistributeOptions, description: ScanDescription) -> None:
    if options.workers > description.rows:
        raise InputError(
            f"{options.workers} workers for {description.rows} detector rows: each worker needs at least one"
        )
    if options.center is not None and not -0.5 <= options.center <= description.columns - 0.5:
        raise InputError(
            f"the rotation centre {options.center:g} is not on the detector, whose columns are 0 to"
            f" {description.columns - 1}"
        )
