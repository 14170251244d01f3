"""A reconstruction worker: takes its rows of every projection, and has a volume of its slices at any time.

It compiles its kernels before it joins, so that the first projection does not wait. Each projection is
acknowledged when it has been taken in and the update that it made due is done: a worker that cannot follow
slows the DAQ down, and leaves nothing out. The volume is shown while it grows and written at the end (see
`ministream.stages.worker_results`), with what is needed to put the parts together.

The distributor says which slices a worker has, and may say otherwise at any time (see
`ministream.stages.workers`). Slices that came together are a *block* with a reconstruction of its own, which
gets every projection once and in order, checked by their numbers; so slices that have moved are
reconstructed as they would have been without. When the distributor was started again, the worker joins again
with what it has.

With a checkpoint (`ministream.stages.keeper`) a worker that was killed is started again with the slices
that it had, and gets only the projections that are missing. It takes its own place; if others have its slices
by then, they are shared out again, and most likely it gets them back.

It has a budget of memory (`ministream.stages.memory`), tells the distributor, and refuses what does not fit.
Which updates are made is `ministream.stages.reconstruction`'s business.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ministream.algorithms import DEFAULT_ALGORITHM, Settings, warm_up
from ministream.errors import FlowUnknown, InputError, ProtocolError
from ministream.kernels.threads import usable_threads
from ministream.partition import overlap
from ministream.stages.assignment import Assignment, optional_number, stripes_from
from ministream.stages.blocks import Block
from ministream.stages.host_memory import peak_bytes
from ministream.stages.keeper import Keeper, Progress
from ministream.stages.memory import Budget, Demand
from ministream.stages.rank_inlet import RankInlet
from ministream.stages.reconstruction import Reconstruction
from ministream.stages.worker_results import ResultOptions, Snapshot, WorkerResults
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
from ministream.transport.rank_client import RankClient
from ministream.wire import timage

logger = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]

_WAIT_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructOptions:
    """What to reconstruct, and how.

    Parameters
    ----------
    connect : sequence of str
        Addresses that lead to the distributor; none where there is `dest_host`.
    dest_host : str or None
    dest_port : int
        Host of a distributor that speaks the mini-app's protocol, and its port for rank 0.
    rank, ranks : int
        Which of how many workers this is there.
    most_projections : int
        How many may come from there; it does not say.
    algorithm : str
        A name of `ministream.algorithms.ALGORITHMS`.
    window, step, iterations : int
        Views per update, new views between updates, iterations per update.
    refine : int
        Passes over all views after the last has arrived.
    total_variation, first_image
        See `ministream.algorithms.Settings`.
    allow_negative : bool
        Whether slices may become negative.
    threads : int or None
        None for one for each usable core.
    center : float or None
        Rotation centre as a column index, whatever the distributor says; None for what it says.
    results : ResultOptions
        Where the slices go.
    checkpoint : Path or None
        Folder for what is needed to go on after a kill.
    checkpoint_every_s : float
        Time between checkpoints; 0 makes one after each projection.
    memory : int or None
        Bytes that this process may use; None for a share of what is free.
    credits : int or None
        Projections that may be on their way; None for what `ministream.transport.credits_for` says.
    connect_timeout_s : float
        How long the distributor may take to answer.
    reconnect_timeout_s : float
        How long it may take to come back when its connections are lost.
    link_key : LinkKey or None
        That of the distributor, if it has one; viewers need it too.
    """

    connect: Sequence[str] = ()
    dest_host: str | None = None
    dest_port: int = 5560
    rank: int = 0
    ranks: int = 1
    most_projections: int = 4096
    algorithm: str = DEFAULT_ALGORITHM
    window: int = 32
    step: int = 4
    iterations: int = 1
    refine: int = 3
    total_variation: float = 1.0
    allow_negative: bool = False
    first_image: str = "zero"
    threads: int | None = None
    center: float | None = None
    results: ResultOptions = field(default_factory=ResultOptions)
    checkpoint: Path | None = None
    checkpoint_every_s: float = 30.0
    memory: int | None = None
    credits: int | None = None
    connect_timeout_s: float = 30.0
    reconnect_timeout_s: float = RECONNECT_TIMEOUT_S
    link_key: LinkKey | None = None


def run(options: ReconstructOptions, report: Report, stop: threading.Event) -> None:
    """Reconstruct this worker's slices of one scan; return at its end, or soon after `stop`.

    Reports ``ready`` (``address`` of the publisher, ``worker``: its name, ``memory``: bytes for its slices),
    ``resumed`` (``projections``, ``slice_begin``, ``slice_count``; where a checkpoint was found),
    ``progress`` (``projections_reconstructed``, ``projections_total``, ``updates``, ``residual``,
    ``slice_begin``, ``slice_count``), ``done`` (also ``slices_total``, ``rotation_center``,
    ``first_update_at``, ``last_update_at`` as Unix time, ``duplicates_dropped``, ``projections_taken``: how
    many this process was sent, ``memory_peak``, ``output``; without slices only ``slice_count``, 0).

    Raises
    ------
    InputError
        An option cannot be used, the checkpoint is that of other options, or the slices need too much memory.
    OutputError
        The slices cannot be written, or the checkpoint's folder cannot be used.
    PortInUse, ConnectionFailed
        The publisher's address cannot be bound; the distributor cannot be reached, or was lost.
    ProtocolError
        The distributor sends what cannot be understood, or a projection twice, or not at all.
    """
    # an impossible window should not be found out when the scan begins
    Settings(
        window=options.window,
        step=options.step,
        iterations=options.iterations,
        total_variation=options.total_variation,
        first_image=options.first_image,
    )
    with contextlib.ExitStack() as stack:
        keeper = None
        if options.checkpoint is not None:
            keeper = Keeper(
                options.checkpoint, every_s=options.checkpoint_every_s, settings=_settings(options)
            )
            stack.enter_context(keeper)
        results = stack.enter_context(WorkerResults(options.results, key=options.link_key))
        try:
            warm_up(options.threads)
            usable_threads(options.threads)
        except ValueError as error:
            raise InputError(f"the kernels cannot be started: {error}") from error
        budget = Budget.of_this_process(options.memory)
        worker = _Worker(options, results, budget, report)
        report(
            {
                "event": "ready",
                "address": results.address,
                "worker": worker.name,
                "memory": budget.for_slices,
            }
        )
        if keeper is not None:
            worker.resume(keeper)
        worker.run(stop)


def _settings(options: ReconstructOptions) -> dict[str, Any]:
    """Return what another reconstruction would come of, if it were different."""
    return {
        "algorithm": options.algorithm,
        "window": options.window,
        "step": options.step,
        "iterations": options.iterations,
        "center": options.center,
        "total_variation": options.total_variation,
        "allow_negative": options.allow_negative,
        "first_image": options.first_image,
    }


def inlet_for(options: ReconstructOptions, *, flow: str, attributes: Mapping[str, Any]) -> Inlet | RankInlet:
    """Return what brings the projections: the one place that knows which kind of distributor there is.

    Parameters
    ----------
    options : ReconstructOptions
    flow : str
        The worker's name.
    attributes : mapping
        What the distributor is told about it; the mini-app's is told nothing.

    Raises
    ------
    InputError
        There is no such rank, or an address is none.
    ConnectionFailed
        An address cannot be used.
    """
    if options.dest_host is not None:
        client = RankClient(
            options.dest_host,
            options.dest_port,
            rank=options.rank,
            ranks=options.ranks,
            connect_timeout_s=options.connect_timeout_s,
        )
        return RankInlet(client, projections=options.most_projections)
    return Inlet(
        options.connect,
        flow=flow,
        credits=options.credits or FIRST_CREDITS,
        attributes=attributes,
        connect_timeout_s=options.connect_timeout_s,
        reconnect_timeout_s=options.reconnect_timeout_s,
        key=options.link_key,
    )


class _Worker:
    """One scan at one worker.

    Attributes
    ----------
    name : str
        Of its flow; a worker that is started again has another.
    """

    def __init__(
        self,
        options: ReconstructOptions,
        results: WorkerResults,
        budget: Budget,
        report: Report,
    ) -> None:
        self.name = f"worker-{uuid.uuid4().hex[:8]}"
        self._options = options
        self._results = results
        self._budget = budget
        self._report = report
        self._threads = usable_threads(options.threads)
        self._assignment: Assignment | None = None
        self._confirmed = False  # this distributor has said which slices
        self._blocks: list[Block] = []
        self._replaces: str | None = None
        self._taken = self._duplicates = 0
        self._arrival_updates = 0
        self._first_update_at = self._last_update_at = 0.0
        self._keeper: Keeper | None = None

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
            if self._keeper is not None:
                self._keeper.remove()

    def _join(self) -> Inlet | RankInlet:
        options, output = self._options, self._options.results.output
        attributes = {
            "output": None if output is None else str(output.absolute()),
            "scan": None if self._assignment is None else self._assignment.scan,
            "blocks": [[block.slices.start, block.slices.stop, block.next] for block in self._blocks],
            "memory": self._budget.for_slices,
            "algorithm": options.algorithm,
            "threads": self._threads,
            "credits": options.credits,
        }
        if self._replaces is not None:
            attributes["replaces"] = self._replaces
        return inlet_for(options, flow=self.name, attributes=attributes)

    def _stream(self, inlet: Inlet | RankInlet, stop: threading.Event) -> bool:
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
                    self._keep(inlet)
                case Notice() as notice:
                    self._heed(notice)
                    if self._options.credits is None and self._blocks and self._assignment is not None:
                        inlet.grant(credits_for(4 * len(self._slices) * self._assignment.columns))
                case Ended():
                    return True
                case None:
                    pass
        # whoever stops this worker may start it again
        self._keep(inlet, now=True)
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
        self._taken += 1
        updated, row = False, 0
        for block in blocks:
            part = rows[row : row + len(block.slices)]
            row += len(part)
            updated |= block.reconstruction.add(frame.angle_rad, part)
            block.next += 1
        if updated:
            self._arrival_updates += 1
            self._note_update(counted=True)
            self._report({"event": "progress", **self._figures()})

    def _heed(self, notice: Notice) -> None:
        match notice.message.get("kind"):
            case "assignment":
                self._follow(Assignment.parse(notice.message))
            case "calibration" if self._blocks and self._assignment is not None:
                told = optional_number(notice.message, "rotation_center")
                center = told if self._options.center is None else None
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
        if self._assignment is not None and self._assignment.scan != assignment.scan and self._blocks:
            logger.warning(
                "what is here is of another scan (%s, now %s): the slices begin anew",
                *(self._assignment.name, assignment.name),
            )
            self._blocks = []
        self._assignment, self._confirmed = assignment, True
        found = [self._continued(*wanted) for wanted in assignment.blocks]
        # the room of those that are not wanted any more is needed
        self._blocks = [block for block in found if block is not None]
        self._check_memory(assignment, sum(len(slices) for slices, _ in assignment.blocks))
        self._blocks = [
            block or Block(slices, self._new_reconstruction(assignment, len(slices)))
            for block, (slices, _) in zip(found, assignment.blocks, strict=True)
        ]
        if self._blocks:
            logger.info(
                "slices %d to %d of %s, %d of them new",
                self._slices.start,
                self._slices.stop - 1,
                assignment.name,
                sum(len(block.slices) for block in self._blocks if block.next == 0),
            )

    def _continued(self, slices: range, following: int) -> Block | None:
        """Return the block that goes on with these slices; None if they begin."""
        if following == 0:
            return None
        for block in self._blocks:
            if block.next == following and overlap(block.slices, slices) == slices:
                block.keep(slices)
                return block
        raise ProtocolError(
            f"the distributor goes on with projection {following} of slices {slices.start} to "
            f"{slices.stop - 1}, and {self._blocks} are here"
        )

    def _check_memory(self, assignment: Assignment, slices: int) -> None:
        demand = Demand(
            algorithm=self._options.algorithm,
            columns=assignment.columns,
            projections=assignment.projections,
            threads=self._threads,
            credits=self._options.credits,
        )
        if slices:
            self._budget.check(demand, slices, assignment.name or "the scan")

    def _new_reconstruction(self, assignment: Assignment, slices: int) -> Reconstruction:
        options = self._options
        return Reconstruction(
            algorithm=options.algorithm,
            slices=slices,
            columns=assignment.columns,
            projections=assignment.projections,
            rotation_center=assignment.rotation_center if options.center is None else options.center,
            window=options.window,
            step=options.step,
            iterations=options.iterations,
            nonnegative=not options.allow_negative,
            total_variation=options.total_variation,
            first_image=options.first_image,
            threads=options.threads,
        )

    # ------------------------------------------------------------------ checkpoints

    def resume(self, keeper: Keeper) -> None:
        """Go on where the worker was that has left a checkpoint, if there is one.

        Raises
        ------
        InputError
            It was made with other options, or its slices need too much memory.
        OutputError
            It cannot be read.
        """
        self._keeper = keeper
        found = keeper.find(self._check_memory, self._new_reconstruction)
        if found is None:
            return
        before, self._blocks = found
        self._assignment, self._replaces = before.assignment, before.worker
        self._arrival_updates, self._first_update_at = before.updates, before.first_update_at
        if self._blocks:
            self._report(
                {
                    "event": "resumed",
                    "projections": min(block.next for block in self._blocks),
                    "slice_begin": self._slices.start,
                    "slice_count": len(self._slices),
                }
            )

    def _keep(self, inlet: Inlet | RankInlet, *, now: bool = False) -> None:
        """Make a checkpoint, if there is something to keep, and one is due."""
        if self._keeper is None or self._assignment is None or not (self._blocks and self._confirmed):
            return
        progress = Progress(
            worker=self.name,
            assignment=self._assignment,
            updates=self._arrival_updates,
            first_update_at=self._first_update_at,
        )
        self._keeper.keep(progress, self._blocks, inlet.serve, now=now)

    # ------------------------------------------------------------------ the end

    def _complete(self, inlet: Inlet | RankInlet, stop: threading.Event) -> bool:
        """Refine and write what has been streamed; tell whether that was done before `stop`."""
        for block in self._blocks:
            if block.finished:
                continue
            if not block.flushed:
                block.reconstruction.finish()
                block.flushed = True
                self._note_update()
            while block.passes < self._options.refine:
                if stop.is_set():
                    return False
                block.reconstruction.refine()
                block.passes += 1
                self._note_update()
                # it takes long, and the distributor must not take this for silence
                inlet.serve()
                self._keep(inlet)
            block.finished = True
        if self._blocks:
            self._results.write(self._snapshot())
        return True

    def _snapshot(self) -> Snapshot:
        options, assignment = self._options, self._assignment
        slices_total = 0 if assignment is None else assignment.slices_total
        attributes = {
            **self._figures(),
            "rotation_center": self._blocks[0].reconstruction.rotation_center,
            "last_update_at": self._last_update_at,
            "slices_total": slices_total,
            "name": "" if assignment is None else assignment.name,
            "algorithm": options.algorithm,
            "window": options.window,
            "step": options.step,
            "iterations": options.iterations,
            "refine": options.refine,
            "total_variation": options.total_variation,
            "allow_negative": options.allow_negative,
        }
        return Snapshot(
            blocks=list(self._blocks),
            updates=self._arrival_updates,
            slices_total=slices_total,
            attributes=attributes,
        )

    def _say_done(self) -> None:
        if not self._blocks or not self._confirmed or self._assignment is None:
            self._report({"event": "done", "slice_count": 0, "output": None})
            return
        self._results.finish(self._snapshot())
        output = self._options.results.output
        self._report(
            {
                "event": "done",
                **self._figures(),
                "slices_total": self._assignment.slices_total,
                "rotation_center": self._blocks[0].reconstruction.rotation_center,
                "first_update_at": self._first_update_at,
                "last_update_at": self._last_update_at,
                "duplicates_dropped": self._duplicates,
                "projections_taken": self._taken,
                "memory_peak": peak_bytes(),
                "output": None if output is None else str(output),
            }
        )

    @property
    def _slices(self) -> range:
        return range(self._blocks[0].slices.start, self._blocks[-1].slices.stop)

    def _note_update(self, *, counted: bool = False) -> None:
        self._last_update_at = time.time()
        self._first_update_at = self._first_update_at or self._last_update_at
        self._results.updated(self._snapshot(), counted=counted)

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
