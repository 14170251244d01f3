"""The workers of a scan, as its distributor sees them: which slices each has, and how far it has got.

A worker has one contiguous range of slices, in one or more *blocks*. Each block gets every projection of the
store in turn, from the first to the last, whenever it was begun: whoever takes over slices gets their history
first. Of its blocks a worker is always sent the projection that is needed first, with the rows of all blocks
that need it. So all blocks of a worker are in step as soon as the last one has caught up, and everything that
both sides know of each other follows from the order of the stream.

When a worker comes or goes, the slices are shared out again (`ministream.partition.share_slices`); what a
worker keeps goes on as it was. A worker whose connections are lost is waited for; its slices go to others
when that takes too long, or when a new worker comes, which takes its place. One that was started again with a
checkpoint (`ministream.stages.checkpoint`) says which worker it was, takes that one's place at once, and goes
on with the slices that it has. Nobody gets more slices than there is memory for (`ministream.stages.memory`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ministream.errors import ConnectionFailed, InputError, StageError
from ministream.frames import Frame, FrameKind
from ministream.partition import NOTHING, overlap, share_slices
from ministream.stages.calibration import Calibration
from ministream.stages.memory import advice, room_of
from ministream.stages.store import ScanStore
from ministream.transport import Acknowledged, FlowEvent, Joined, Left, Outlet
from ministream.wire import timage

logger = logging.getLogger(__name__)

COMPLETE = b"complete"
"""The message after the last projection; acknowledged when the slices are finished and written."""
_AT_ONCE = 8
"""Frames that one worker is sent before the next one's turn."""


@dataclass(slots=True)
class Block:
    """Slices that are in step; `next` is the projection that they need next."""

    slices: range
    next: int = 0


@dataclass(slots=True)
class _Worker:
    """One worker.

    Attributes
    ----------
    on_their_way : deque of int
        Projections that it has been sent and not acknowledged.
    finishing, written : bool
        It has been told that it has everything; it has said that its slices are written.
    attributes : mapping
        What it has said at joining.
    """

    flow: str
    output: str | None
    blocks: list[Block]
    assigned: bool = False
    on_their_way: deque[int] = field(default_factory=deque)
    acknowledged: int = 0
    finishing: bool = False
    written: bool = False
    lost_at_s: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slices(self) -> range:
        """The slices of all its blocks."""
        return range(self.blocks[0].slices.start, self.blocks[-1].slices.stop) if self.blocks else NOTHING

    @property
    def done(self) -> int:
        """How many projections all its blocks have been through."""
        if self.on_their_way:
            return self.on_their_way[0]
        return min(block.next for block in self.blocks)

    def acknowledge(self, sequence: int) -> None:
        while self.acknowledged <= sequence:
            self.on_their_way.popleft()
            self.acknowledged += 1
        self.written = self.finishing and not self.on_their_way


class Workers:
    """All workers of a scan.

    Parameters
    ----------
    outlet : Outlet
        Where they join.
    size : int
        How many there must be before the scan begins; 0 if it can do without, though some may come.
    worker_timeout_s : float
        How long one whose connections are lost keeps its slices.
    patience_s : float
        How long the scan waits when there is no worker at all.

    Attributes
    ----------
    joined, lost : int
        How many have come; how many have gone before the end, or were given up.
    under_way_bytes : int or None
        Pixels that they may have been sent and not acknowledged, together; None for no limit. Each may have
        one projection.
    """

    def __init__(self, outlet: Outlet, size: int, *, worker_timeout_s: float, patience_s: float) -> None:
        self.outlet = outlet
        self.size = size
        self.joined = self.lost = 0
        self.under_way_bytes: int | None = None
        self._worker_timeout_s = worker_timeout_s
        self._patience_s = patience_s
        self._workers: dict[str, _Worker] = {}
        self._gone_after_writing: list[_Worker] = []
        self._store: ScanStore | None = None
        self._began_s = self._nobody_since_s = time.monotonic()
        self._short_since_s: float | None = None
        self._begun = self._changed = self._finished = False
        self._calibration: Calibration | None = None
        self._center: float | None = None

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def enough(self) -> bool:
        """Whether as many are there as were asked for."""
        return len(self._present) >= self.size

    def open_scan(self, store: ScanStore, rotation_center: float | None) -> None:
        """Begin with the projections in `store` as soon as there are enough workers."""
        self._store, self._center = store, rotation_center
        self._began_s = time.monotonic()

    # ------------------------------------------------------------------ who is there

    def serve(self, timeout_s: float = 0.0) -> None:
        """Take note of who has come and gone, and of what they have done; share the slices if need be.

        Raises
        ------
        InputError
            The scan does not fit into the memory of the workers that it begins with.
        StageError
            There has been no worker for too long, or too few for all slices.
        """
        for event in self.outlet.poll(timeout_s):
            self._take(event)
        if self._store is None or self._finished:
            return
        self._give_up_lost()
        waited_s = time.monotonic() - self._began_s
        if not self._begun and (self.enough or (self._workers and waited_s > self._worker_timeout_s)):
            self._begun = self._changed = True
        if self._begun and self._changed and self._workers:
            self._changed = not self._share(self._store)
        if self._workers:
            self._nobody_since_s = time.monotonic()
        elif self._begun and self.size and time.monotonic() - self._nobody_since_s > self._patience_s:
            raise StageError(
                f"the last worker has gone, and none has come for {self._patience_s:g} s; see the workers' "
                "own messages, and start the scan again"
            )

    def _take(self, event: FlowEvent) -> None:
        match event:
            case Joined(flow, attributes):
                self._join(flow, attributes)
            case Acknowledged(flow, sequence) if flow in self._workers:
                self._workers[flow].acknowledge(sequence)
            case Left(flow) if flow in self._workers:
                self._remove(self._workers[flow], event.reason)
            case _:
                pass

    def _join(self, flow: str, attributes: Mapping[str, Any]) -> None:
        if self._finished:
            self.outlet.dismiss(flow, "the scan has ended")
            return
        self.joined += 1
        before = self._workers.get(str(attributes.get("replaces")))
        if before is not None and before.flow != flow:
            self._give_up(before, f"worker {flow} was started in its place, with its checkpoint")
        interrupted = [worker for worker in self._workers.values() if self.outlet.is_interrupted(worker.flow)]
        output = attributes.get("output")
        worker = _Worker(
            flow,
            output if isinstance(output, str) else None,
            self._held(attributes),
            attributes=attributes,
        )
        self._workers[flow] = worker
        logger.info("worker %s has joined with %s, %d are there", flow, worker.slices, len(self._workers))
        if self._begun and interrupted and not worker.blocks:
            self._give_up(interrupted[0], f"worker {flow} takes its place")
        others = [other for other in self._workers.values() if other is not worker and other.blocks]
        others += self._gone_after_writing
        complete = self._store is not None and (
            sum(len(other.slices) for other in others) == self._store.description.rows
        )
        # where the others have everything and are finishing, it is a spare
        self._changed = self._changed or not complete or not all(other.finishing for other in others)

    def _held(self, attributes: Mapping[str, Any]) -> list[Block]:
        """Return what a worker says to have of this scan; nothing where that cannot be."""
        store = self._store
        if store is None or attributes.get("scan") != store.scan:
            return []
        try:
            blocks = [Block(range(begin, end), following) for begin, end, following in attributes["blocks"]]
            edges = [edge for block in blocks for edge in (block.slices.start, block.slices.stop)]
            valid = edges == sorted(edges) and all(
                block.slices and 0 <= block.next <= store.count for block in blocks
            )
            whole = not edges or (edges[0] >= 0 and edges[-1] <= store.description.rows)
        except (KeyError, TypeError, ValueError):
            # it is the peer's word: whatever it is, its slices can be begun again
            return []
        return blocks if valid and whole else []

    def _remove(self, worker: _Worker, reason: str) -> None:
        del self._workers[worker.flow]
        if self._finished:
            return
        if worker.written:
            self._gone_after_writing.append(worker)
            return
        if self._begun and worker.blocks:
            self.lost += 1
            self._changed = True
            logger.warning(
                "worker %s, which had slices %d to %d, has gone: %s",
                *(worker.flow, worker.slices.start, worker.slices.stop - 1, reason),
            )

    def _give_up(self, worker: _Worker, reason: str) -> None:
        self.outlet.dismiss(worker.flow, reason)
        self._remove(worker, reason)

    def _give_up_lost(self) -> None:
        """Give up those that have been away for too long, if there are others."""
        now_s = time.monotonic()
        for worker in list(self._workers.values()):
            if not self.outlet.is_interrupted(worker.flow):
                worker.lost_at_s = None
            elif worker.lost_at_s is None:
                worker.lost_at_s = now_s
            elif now_s - worker.lost_at_s > self._worker_timeout_s and self._present:
                self._give_up(worker, f"it was away for more than {self._worker_timeout_s:g} s")

    @property
    def _present(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if not self.outlet.is_interrupted(worker.flow)]

    # ------------------------------------------------------------------ who has what

    def _share(self, store: ScanStore) -> bool:
        """Give every worker its slices; False if there is no room for all, and everything stays as it is."""
        workers, rows = list(self._workers.values()), store.description.rows
        room = [self._room(worker, store) for worker in workers]
        if sum(rows if most is None else most for most in room) < rows:
            self._wait_for_room(store, room)
            return False
        self._short_since_s = None
        self._gone_after_writing.clear()
        shares = share_slices(rows, [worker.slices for worker in workers], room)
        for worker, share in zip(workers, shares, strict=True):
            blocks = _continued(worker.blocks, share)
            if worker.assigned and blocks == worker.blocks:
                continue
            worker.blocks, worker.assigned = blocks, True
            worker.finishing = worker.written = False
            logger.info("worker %s has slices %s", worker.flow, [block.slices for block in blocks])
            self._notify(worker, self._assignment(store, blocks))
            if self._calibration is not None and blocks:
                self._notify(worker, *_notice(self._calibration, worker.slices))
        return True

    @staticmethod
    def _room(worker: _Worker, store: ScanStore) -> int | None:
        description = store.description
        return room_of(
            worker.attributes,
            columns=description.columns,
            projections=description.projections,
            most=description.rows,
        )

    def _wait_for_room(self, store: ScanStore, room: Sequence[int | None]) -> None:
        """Refuse a scan that does not fit; one that has begun waits for another worker."""
        rows, now_s = store.description.rows, time.monotonic()
        fit = sum(most or 0 for most in room)
        told = (
            f"{rows} slices of {store.description.name} ({store.description.columns} columns, "
            f"{store.description.projections} projections) do not fit into the memory of "
            f"{len(room)} worker{'s' if len(room) > 1 else ''}, which have room for {fit}: "
            + ", ".join(
                f"{most} at {worker.flow}" for worker, most in zip(self._workers.values(), room, strict=True)
            )
        )
        if not any(worker.assigned for worker in self._workers.values()) and not store.count:
            raise InputError(f"{told}. {advice(rows, fit // len(room))}")
        if self._short_since_s is None:
            self._short_since_s = now_s
            logger.warning("%s; waiting %g s for another worker", told, self._patience_s)
        elif now_s - self._short_since_s > self._patience_s:
            raise StageError(f"{told}, and no other has come for {self._patience_s:g} s")

    def _assignment(self, store: ScanStore, blocks: list[Block]) -> dict[str, Any]:
        description = store.description
        return {
            "kind": "assignment",
            "scan": store.scan,
            "name": description.name,
            "slices_total": description.rows,
            "columns": description.columns,
            "projections": description.projections,
            "rotation_center": self._center,
            "blocks": [[block.slices.start, block.slices.stop, block.next] for block in blocks],
        }

    def calibrate(self, calibration: Calibration, rotation_center: float | None) -> None:
        """Tell all a new calibration, and those that come later."""
        self._calibration, self._center = calibration, rotation_center
        for worker in self._workers.values():
            if worker.assigned and worker.blocks:
                self._notify(worker, *_notice(calibration, worker.slices))

    def _notify(self, worker: _Worker, message: Mapping[str, Any], payload: bytes = b"") -> None:
        # that it has gone is among the events that come next
        with contextlib.suppress(ConnectionFailed):
            self.outlet.notify(worker.flow, message, payload)

    # ------------------------------------------------------------------ the stream

    def feed(self) -> bool:
        """Send what they need next, as far as they have credit; tell whether there is more to be sent now."""
        store = self._store
        if store is None or not self._begun:
            return False
        row_bytes = 4 * store.description.columns
        room = None
        if self.under_way_bytes is not None:
            kept = sum(len(worker.on_their_way) * len(worker.slices) for worker in self._workers.values())
            room = self.under_way_bytes - kept * row_bytes
        # each has its turn, whatever the others need
        more = False
        for worker in self._present:
            if not worker.assigned:
                continue
            # who has nothing gets something
            least = 0 if worker.on_their_way else 1
            count = _AT_ONCE
            if room is not None:
                count = min(_AT_ONCE, max(least, room // max(1, len(worker.slices) * row_bytes)))
                room -= count * len(worker.slices) * row_bytes
            more |= self._feed(worker, store, count) and count == _AT_ONCE
        return more

    def _feed(self, worker: _Worker, store: ScanStore, count: int) -> bool:
        for _ in range(count):
            projection = min((block.next for block in worker.blocks), default=store.count)
            if projection == store.count or not self.outlet.can_send(worker.flow):
                return False
            blocks = [block for block in worker.blocks if block.next == projection]
            frame = Frame(
                sequence=projection,
                kind=FrameKind.PROJECTION,
                pixels=store.rows(projection, [block.slices for block in blocks]),
                angle_rad=float(store.angles_rad[projection]),
            )
            self.outlet.send(worker.flow, timage.encode(frame, self._center))
            worker.on_their_way.append(projection)
            for block in blocks:
                block.next += 1
        return True

    @property
    def done(self) -> int:
        """How many projections every worker that is there has done with; all where there is none."""
        store = self._store
        if store is None:
            return 0
        return min((worker.done for worker in self._present if worker.blocks), default=store.count)

    def conclude(self) -> bool:
        """Tell those that have everything that this was all; tell whether all slices are written."""
        store = self._store
        if self.size == 0 and not self._workers and not self._writers:
            return True
        if store is None or not self._begun or self._changed:
            return False
        for worker in self._present:
            ready = worker.blocks and all(block.next == store.count for block in worker.blocks)
            if ready and not worker.finishing and self.outlet.can_send(worker.flow):
                self.outlet.send(worker.flow, COMPLETE)
                worker.on_their_way.append(store.count)
                worker.finishing = True
        return sum(len(worker.slices) for worker in self._writers) == store.description.rows

    @property
    def _writers(self) -> list[_Worker]:
        return [worker for worker in (*self._workers.values(), *self._gone_after_writing) if worker.written]

    def parts(self) -> list[dict[str, Any]]:
        """Return who has written which slices, and where."""
        return [
            {
                "worker": worker.flow,
                "slice_begin": worker.slices.start,
                "slice_count": len(worker.slices),
                "output": worker.output,
            }
            for worker in sorted(self._writers, key=lambda worker: worker.slices.start)
        ]

    def finish(self) -> None:
        """Tell them that the stream has ended."""
        self._finished = True
        for worker in list(self._workers.values()):
            if self.outlet.is_interrupted(worker.flow):
                # it has written what it had
                self.outlet.dismiss(worker.flow, "the scan has ended")
                del self._workers[worker.flow]
                continue
            with contextlib.suppress(ConnectionFailed):
                self.outlet.finish(worker.flow)

    def look_after_leaving(self, timeout_s: float) -> bool:
        """Serve those whose farewell is missing; tell whether all have gone, or are lost."""
        self.serve(timeout_s)
        return not self._present


def _continued(blocks: list[Block], share: range) -> list[Block]:
    """Return the blocks of `share`: what there is of it goes on, the rest begins."""
    result: list[Block] = []
    position = share.start
    for block in blocks:
        common = overlap(block.slices, share)
        if common:
            if position < common.start:
                result.append(Block(range(position, common.start)))
            result.append(Block(common, block.next))
            position = common.stop
    if position < share.stop:
        result.append(Block(range(position, share.stop)))
    return result


def _notice(calibration: Calibration, slices: range) -> tuple[dict[str, Any], bytes]:
    message = {
        "kind": "calibration",
        "rotation_center": calibration.rotation_center,
        "views": calibration.views,
    }
    if calibration.stripes is None:
        return message, b""
    return message, calibration.stripes[slices.start : slices.stop].astype("<f4").tobytes()
