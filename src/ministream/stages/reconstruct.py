"""A reconstruction worker: takes its rows of every projection, and has a volume of its slices at any time.

It compiles its kernels before it joins, so that the first projection does not wait. Each projection is
acknowledged when it has been taken in and the update that it made due is done: a worker that cannot follow
slows the DAQ down, and leaves nothing out. The volume is published while it grows (see
`ministream.stages.broadcast`) and written at the end, with what is needed to put the parts together.

The distributor says which slices a worker has, and may say otherwise at any time (see
`ministream.stages.workers`). Slices that came together are a *block* with a reconstruction of its own, which
gets every projection once and in order, checked by their numbers; so slices that have moved are
reconstructed as they would have been without. When the distributor was started again, the worker joins again
with what it has.

Which updates are made is `ministream.stages.reconstruction`'s business.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import FlowUnknown, InputError, ProtocolError
from ministream.kernels.sirt import warm_up
from ministream.partition import overlap
from ministream.sinks import check_writable, write_volume
from ministream.stages.assignment import Assignment, optional_number, stripes_from
from ministream.stages.broadcast import VolumePublisher
from ministream.stages.reconstruction import Reconstruction
from ministream.stages.workers import COMPLETE
from ministream.transport import (
    FIRST_CREDITS,
    RECONNECT_TIMEOUT_S,
    Ended,
    Inlet,
    LinkKey,
    Message,
    Notice,
    credits_for,
)
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
    credits : int or None
        Projections that may be on their way; None for what `ministream.transport.credits_for` says.
    connect_timeout_s : float
        How long the distributor may take to answer.
    reconnect_timeout_s : float
        How long it may take to come back when its connections are lost.
    link_key : LinkKey or None
        That of the distributor, if it has one; viewers need it too.
    """

    connect: Sequence[str]
    algorithm: str = "os-sirt"
    window: int = 32
    step: int = 4
    iterations: int = 1
    refine: int = 3
    threads: int | None = None
    publish: str = "tcp://127.0.0.1:0"
    output: Path | None = None
    credits: int | None = None
    connect_timeout_s: float = 30.0
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
    link_key: LinkKey | None = None


def run(options: ReconstructOptions, report: Report, stop: threading.Event) -> None:
    """Reconstruct this worker's slices of one scan; return at its end, or soon after `stop`.

    Reports ``ready`` (``address`` of the publisher, ``worker``: its name), ``progress``
    (``projections_reconstructed``, ``projections_total``, ``updates``, ``residual``, ``slice_begin``,
    ``slice_count``), ``done`` (also ``slices_total``, ``rotation_center``, ``first_update_at``,
    ``last_update_at`` as Unix time, ``duplicates_dropped``, ``output``; without slices only ``slice_count``,
    0).

    Raises
    ------
    InputError
        An option cannot be used.
    OutputError
        The slices cannot be written.
    PortInUse, ConnectionFailed
        The publisher's address cannot be bound; the distributor cannot be reached, or was lost.
    ProtocolError
        The distributor sends what cannot be understood, or a projection twice, or not at all.
    """
    # an impossible window should not be found out when the scan begins
    SlidingWindow(options.window, options.step)
    if options.output is not None:
        check_writable(options.output)
    try:
        warm_up(options.threads)
    except ValueError as error:
        raise InputError(f"the kernels cannot be started: {error}") from error
    with VolumePublisher(options.publish, key=options.link_key) as publisher:
        worker = _Worker(options, publisher, report)
        report({"event": "ready", "address": publisher.address, "worker": worker.name})
        worker.run(stop)


class _Worker:
    """One scan at one worker."""

    def __init__(self, options: ReconstructOptions, publisher: VolumePublisher, report: Report) -> None:
        self.name = f"worker-{uuid.uuid4().hex[:8]}"
        self._options = options
        self._publisher = publisher
        self._report = report
        self._assignment: Assignment | None = None
        self._blocks: list[_Block] = []
        self._duplicates = 0
        self._first_update_at = self._last_update_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Take part until the distributor says that the scan has ended, or until `stop`."""
        while True:
            with self._join() as inlet:
                try:
                    ended = self._stream(inlet, stop)
                    break
                except FlowUnknown as reason:
                    logger.warning("joining again with the slices that are here: %s", reason)
                finally:
                    self._duplicates += inlet.duplicates
        if ended:
            self._say_done()

    def _join(self) -> Inlet:
        options = self._options
        return Inlet(
            options.connect,
            flow=self.name,
            credits=options.credits or FIRST_CREDITS,
            attributes={
                "output": None if options.output is None else str(options.output.absolute()),
                "scan": None if self._assignment is None else self._assignment.scan,
                "blocks": [[block.slices.start, block.slices.stop, block.next] for block in self._blocks],
            },
            connect_timeout_s=options.connect_timeout_s,
            reconnect_timeout_s=options.reconnect_timeout_s,
            key=options.link_key,
        )

    def _stream(self, inlet: Inlet, stop: threading.Event) -> bool:
        """Take everything in; tell whether the scan has ended, or it is time to stop."""
        while not stop.is_set():
            match inlet.receive(_WAIT_S):
                case Message() as message:
                    if message.payload == COMPLETE:
                        if not self._complete(inlet, stop):
                            return False
                    else:
                        self._take(message)
                    inlet.acknowledge(message.sequence)
                case Notice() as notice:
                    self._heed(notice)
                    if self._options.credits is None and self._blocks and self._assignment is not None:
                        inlet.grant(credits_for(4 * len(self._slices) * self._assignment.columns))
                case Ended():
                    return True
                case None:
                    pass
        return False

    # ------------------------------------------------------------------ the stream

    def _take(self, message: Message) -> None:
        frame = timage.decode(message.payload, "float32")
        if not self._blocks:
            raise ProtocolError("the distributor has not told which slices to reconstruct; is it one?")
        expected = min(block.next for block in self._blocks)
        if frame.sequence != expected:
            raise ProtocolError(
                f"projection {frame.sequence} has come, {expected} is the one that is missing"
            )
        # decoded by that type
        rows = frame.pixels.astype(np.float32, copy=False)
        blocks = [block for block in self._blocks if block.next == expected]
        if len(rows) != sum(len(block.slices) for block in blocks):
            raise ProtocolError(f"projection {expected} has {len(rows)} rows for {blocks}")
        updated, row = False, 0
        for block in blocks:
            part = rows[row : row + len(block.slices)]
            row += len(part)
            updated |= block.reconstruction.add(frame.angle_rad, part)
            block.next += 1
        if updated:
            self._note_update()
            self._report({"event": "progress", **self._figures()})

    def _heed(self, notice: Notice) -> None:
        match notice.message.get("kind"):
            case "assignment":
                self._follow(Assignment.parse(notice.message))
            case "calibration" if self._blocks and self._assignment is not None:
                center = optional_number(notice.message, "rotation_center")
                begin = self._slices.start
                stripes = stripes_from(notice.payload, len(self._slices), self._assignment.columns)
                for block in self._blocks:
                    own = slice(block.slices.start - begin, block.slices.stop - begin)
                    block.reconstruction.calibrate(center, None if stripes is None else stripes[own])
            case kind:
                raise ProtocolError(
                    f"the distributor sends a notice {str(kind)[:40]!r}, which is out of place"
                )

    def _follow(self, assignment: Assignment) -> None:
        """Have the slices of `assignment` from now on."""
        if self._assignment is not None and self._assignment.scan != assignment.scan:
            self._blocks = []
        self._assignment = assignment
        self._blocks = [self._block(assignment, *wanted) for wanted in assignment.blocks]
        if self._blocks:
            logger.info(
                "slices %d to %d of %s, %d of them new",
                self._slices.start,
                self._slices.stop - 1,
                assignment.name,
                sum(len(block.slices) for block in self._blocks if block.next == 0),
            )

    def _block(self, assignment: Assignment, slices: range, following: int) -> _Block:
        if following == 0:
            return _Block(slices, self._new_reconstruction(assignment, len(slices)))
        for block in self._blocks:
            if block.next == following and overlap(block.slices, slices) == slices:
                if block.slices != slices:
                    begin = slices.start - block.slices.start
                    block.reconstruction.keep(begin, begin + len(slices))
                    block.slices = slices
                return block
        raise ProtocolError(
            f"the distributor goes on with projection {following} of slices {slices.start} to "
            f"{slices.stop - 1}, and {self._blocks} are here"
        )

    def _new_reconstruction(self, assignment: Assignment, slices: int) -> Reconstruction:
        options = self._options
        return Reconstruction(
            algorithm=options.algorithm,
            slices=slices,
            columns=assignment.columns,
            projections=assignment.projections,
            rotation_center=assignment.rotation_center,
            window=options.window,
            step=options.step,
            iterations=options.iterations,
            threads=options.threads,
        )

    # ------------------------------------------------------------------ the end

    def _complete(self, inlet: Inlet, stop: threading.Event) -> bool:
        """Refine and write what has been streamed; tell whether that was done before `stop`."""
        for block in self._blocks:
            if block.finished:
                continue
            block.reconstruction.finish()
            self._note_update()
            for _ in range(self._options.refine):
                if stop.is_set():
                    return False
                block.reconstruction.refine()
                self._note_update()
                # it takes long, and the distributor must not take this for silence
                inlet.serve()
            block.finished = True
        if self._blocks and self._options.output is not None:
            self._write(self._options.output)
        return True

    def _write(self, output: Path) -> None:
        options, assignment = self._options, self._assignment
        attributes = {
            **self._figures(),
            "rotation_center": self._blocks[0].reconstruction.rotation_center,
            "last_update_at": self._last_update_at,
            "slices_total": 0 if assignment is None else assignment.slices_total,
            "name": "" if assignment is None else assignment.name,
            "algorithm": options.algorithm,
            "window": options.window,
            "step": options.step,
            "iterations": options.iterations,
            "refine": options.refine,
        }
        write_volume(output, self._volume(), attributes=attributes)

    def _say_done(self) -> None:
        if not self._blocks or self._assignment is None:
            self._report({"event": "done", "slice_count": 0, "output": None})
            return
        center = self._blocks[0].reconstruction.rotation_center
        figures = self._figures()
        self._publisher.finish(
            [block.reconstruction.volume for block in self._blocks],
            slice_begin=self._slices.start,
            projections=figures["projections_reconstructed"],
            rotation_center=center,
        )
        output = self._options.output
        self._report(
            {
                "event": "done",
                **figures,
                "slices_total": self._assignment.slices_total,
                "rotation_center": center,
                "first_update_at": self._first_update_at,
                "last_update_at": self._last_update_at,
                "duplicates_dropped": self._duplicates,
                "output": None if output is None else str(output),
            }
        )

    def _volume(self) -> FloatArray:
        volumes = [block.reconstruction.volume for block in self._blocks]
        return volumes[0] if len(volumes) == 1 else np.concatenate(volumes)

    @property
    def _slices(self) -> range:
        return range(self._blocks[0].slices.start, self._blocks[-1].slices.stop)

    def _note_update(self) -> None:
        self._last_update_at = time.time()
        self._first_update_at = self._first_update_at or self._last_update_at
        self._publisher.offer(
            [block.reconstruction.volume for block in self._blocks],
            slice_begin=self._slices.start,
            projections=min(block.reconstruction.projections_reconstructed for block in self._blocks),
            rotation_center=self._blocks[0].reconstruction.rotation_center,
        )

    def _figures(self) -> dict[str, Any]:
        reconstructions = [block.reconstruction for block in self._blocks]
        return {
            "projections_reconstructed": min(one.projections_reconstructed for one in reconstructions),
            "projections_total": 0 if self._assignment is None else self._assignment.projections,
            "updates": max(one.updates for one in reconstructions),
            "residual": max(one.residual for one in reconstructions),
            "slice_begin": self._slices.start,
            "slice_count": len(self._slices),
        }


@dataclass(slots=True)
class _Block:
    """Slices that have been here since the same projection; `next` is the one that they need next."""

    slices: range
    reconstruction: Reconstruction = field(repr=False)
    next: int = 0
    finished: bool = False
