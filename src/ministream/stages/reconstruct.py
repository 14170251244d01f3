"""A reconstruction worker: takes its rows of every projection, and has a volume of its slices at any time.

It compiles its kernels before it joins, so that the first projection does not wait. Each projection is
acknowledged when it has been taken in and the update that it made due is done: a worker that cannot follow
slows the DAQ down, and leaves nothing out. The volume is published while it grows (see
`ministream.stages.broadcast`) and written at the end, with what is needed to put the parts together.

Which updates are made is `ministream.stages.reconstruction`'s business.
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

from ministream.errors import InputError, ProtocolError
from ministream.kernels.sirt import warm_up
from ministream.sinks import check_writable, write_volume
from ministream.stages.broadcast import VolumePublisher
from ministream.stages.reconstruction import Reconstruction
from ministream.transport import RECONNECT_TIMEOUT_S, Ended, Inlet, Message, Notice
from ministream.window import SlidingWindow
from ministream.wire import timage

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Report = Callable[[Mapping[str, Any]], None]

_WAIT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructOptions:
    """What to reconstruct, and how.

    Parameters
    ----------
    connect : sequence of str
        Addresses that lead to the distributor.
    rank, workers : int
        Which worker this is, from 0, and how many there are.
    algorithm : str
        One of `ministream.stages.reconstruction.ALGORITHMS`.
    window, step, iterations : int
        Views per update, new views between updates, iterations per update.
    refine : int
        Passes over all views after the last has arrived.
    threads : int or None
        None for one for each usable core.
    publish : str
        Where viewers connect.
    output : Path or None
        HDF5 file for the slices of this worker.
    credits : int
        Projections that may be on their way.
    connect_timeout_s : float
        How long the distributor may take to answer.
    reconnect_timeout_s : float
        How long it may take to come back when its connections are lost.
    """

    connect: Sequence[str]
    rank: int = 0
    workers: int = 1
    algorithm: str = "os-sirt"
    window: int = 32
    step: int = 4
    iterations: int = 1
    refine: int = 3
    threads: int | None = None
    publish: str = "tcp://127.0.0.1:0"
    output: Path | None = None
    credits: int = 64
    connect_timeout_s: float = 30.0
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S


def run(options: ReconstructOptions, report: Report, stop: threading.Event) -> None:
    """Reconstruct this worker's slices of one scan; return at its end, or soon after `stop`.

    Reports ``ready`` (``address`` of the publisher, ``rank``), ``progress`` (``projections_reconstructed``,
    ``projections_total``, ``updates``, ``residual``), ``done`` (also ``slice_begin``, ``slice_count``,
    ``rotation_center``, ``first_update_at``, ``last_update_at`` as Unix time, ``output``).

    Raises
    ------
    InputError
        An option cannot be used, or the distributor refuses this worker.
    OutputError
        The slices cannot be written.
    PortInUse, ConnectionFailed
        The publisher's address cannot be bound; the distributor cannot be reached, or was lost.
    ProtocolError
        The distributor sends what cannot be understood.
    """
    if not 0 <= options.rank < options.workers:
        raise InputError(
            f"rank {options.rank} of {options.workers} workers: ranks are 0 to {options.workers - 1}"
        )
    # an impossible window should not be found out when the scan begins
    SlidingWindow(options.window, options.step)
    if options.output is not None:
        check_writable(options.output)
    try:
        warm_up(options.threads)
    except ValueError as error:
        raise InputError(f"the kernels cannot be started: {error}") from error
    with VolumePublisher(options.publish) as publisher:
        report({"event": "ready", "address": publisher.address, "rank": options.rank})
        with Inlet(
            options.connect,
            flow=f"worker-{options.rank}",
            credits=options.credits,
            attributes={"rank": options.rank, "size": options.workers},
            connect_timeout_s=options.connect_timeout_s,
            reconnect_timeout_s=options.reconnect_timeout_s,
        ) as inlet:
            worker = _Worker(options, inlet, publisher, report)
            complete = worker.stream(stop)
        # the distributor need not wait for the rest
        if complete:
            worker.complete(stop)


class _Worker:
    """One scan at one worker."""

    def __init__(
        self, options: ReconstructOptions, inlet: Inlet, publisher: VolumePublisher, report: Report
    ) -> None:
        self._options = options
        self._inlet = inlet
        self._publisher = publisher
        self._report = report
        self._assignment: _Assignment | None = None
        self._reconstruction: Reconstruction | None = None
        self._first_update_at = self._last_update_at = 0.0

    def stream(self, stop: threading.Event) -> bool:
        """Take everything in; tell whether the scan has ended, or it is time to stop."""
        while not stop.is_set():
            match self._inlet.receive(_WAIT_S):
                case Message() as message:
                    self._take(message)
                    self._inlet.acknowledge(message.sequence)
                case Notice() as notice:
                    self._heed(notice)
                case Ended():
                    return True
                case None:
                    pass
        return False

    def complete(self, stop: threading.Event) -> None:
        """Refine, publish and write what has been streamed."""
        reconstruction, assignment = self._started()
        reconstruction.finish()
        self._note_update()
        for _ in range(self._options.refine):
            if stop.is_set():
                return
            reconstruction.refine()
            self._note_update()
        self._publisher.finish(
            reconstruction.volume,
            projections=reconstruction.projections_reconstructed,
            rotation_center=reconstruction.rotation_center,
        )
        summary = {
            **self._figures(reconstruction, assignment),
            "slice_begin": assignment.slice_begin,
            "slice_count": assignment.slice_count,
            "slices_total": assignment.slices_total,
            "rotation_center": reconstruction.rotation_center,
            "first_update_at": self._first_update_at,
            "last_update_at": self._last_update_at,
        }
        if self._options.output is not None:
            attributes = {
                **{name: value for name, value in summary.items() if not name.endswith("_at")},
                "name": assignment.name,
                "algorithm": self._options.algorithm,
                "window": self._options.window,
                "step": self._options.step,
                "iterations": self._options.iterations,
                "refine": self._options.refine,
            }
            write_volume(self._options.output, reconstruction.volume, attributes=attributes)
        output = None if self._options.output is None else str(self._options.output)
        self._report({"event": "done", **summary, "output": output})

    def _take(self, message: Message) -> None:
        reconstruction, assignment = self._started()
        frame = timage.decode(message.payload, "float32")
        # decoded by that type
        rows = frame.pixels.astype(np.float32, copy=False)
        if reconstruction.add(frame.angle_rad, rows):
            self._note_update()
            self._report({"event": "progress", **self._figures(reconstruction, assignment)})

    def _heed(self, notice: Notice) -> None:
        match notice.message.get("kind"):
            case "assignment" if self._reconstruction is None:
                self._begin(_Assignment.parse(notice.message))
            case "calibration":
                reconstruction, assignment = self._started()
                center = _optional_number(notice.message, "rotation_center")
                reconstruction.calibrate(center, _stripes(notice.payload, assignment))
            case "refused":
                raise InputError(f"the distributor refuses this worker: {notice.message.get('reason')}")
            case kind:
                raise ProtocolError(
                    f"the distributor sends a notice {str(kind)[:40]!r}, which is out of place"
                )

    def _begin(self, assignment: _Assignment) -> None:
        options = self._options
        logger.info(
            "worker %d reconstructs slices %d to %d of %s",
            options.rank,
            assignment.slice_begin,
            assignment.slice_begin + assignment.slice_count - 1,
            assignment.name,
        )
        self._assignment = assignment
        self._reconstruction = Reconstruction(
            algorithm=options.algorithm,
            slices=assignment.slice_count,
            columns=assignment.columns,
            projections=assignment.projections,
            rotation_center=assignment.rotation_center,
            window=options.window,
            step=options.step,
            iterations=options.iterations,
            threads=options.threads,
        )

    def _started(self) -> tuple[Reconstruction, _Assignment]:
        if self._reconstruction is None or self._assignment is None:
            raise ProtocolError("the distributor has not told which slices to reconstruct; is it one?")
        return self._reconstruction, self._assignment

    def _note_update(self) -> None:
        reconstruction, _ = self._started()
        self._last_update_at = time.time()
        self._first_update_at = self._first_update_at or self._last_update_at
        self._publisher.offer(
            reconstruction.volume,
            projections=reconstruction.projections_reconstructed,
            rotation_center=reconstruction.rotation_center,
        )

    @staticmethod
    def _figures(reconstruction: Reconstruction, assignment: _Assignment) -> dict[str, Any]:
        return {
            "projections_reconstructed": reconstruction.projections_reconstructed,
            "projections_total": assignment.projections,
            "updates": reconstruction.updates,
            "residual": reconstruction.residual,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assignment:
    """What the distributor wants of a worker."""

    slices_total: int
    slice_begin: int
    slice_count: int
    columns: int
    projections: int
    rotation_center: float | None
    name: str

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> _Assignment:
        """Return it from a notice.

        Raises
        ------
        ProtocolError
            A value is missing, or impossible.
        """
        least = {"slices_total": 1, "slice_begin": 0, "slice_count": 1, "columns": 2, "projections": 1}
        numbers = {}
        for name, smallest in least.items():
            value = message.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ProtocolError(
                    f"the distributor assigns {name} {value!r}: at least {smallest} is needed"
                )
            numbers[name] = value
        return cls(
            **numbers,
            rotation_center=_optional_number(message, "rotation_center"),
            name=str(message.get("name", "")),
        )


def _optional_number(message: Mapping[str, Any], name: str) -> float | None:
    value = message.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProtocolError(f"the distributor sends {name} {value!r}: a number or null is needed")
    return float(value)


def _stripes(payload: bytes, assignment: _Assignment) -> FloatArray | None:
    if not payload:
        return None
    shape = (assignment.slice_count, assignment.columns)
    if len(payload) != 4 * shape[0] * shape[1]:
        raise ProtocolError(f"stripe offsets of {len(payload)} bytes do not fit {shape} values of float32")
    return np.frombuffer(payload, "<f4").reshape(shape).astype(np.float32)
