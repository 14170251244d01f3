"""The workers of the APS streaming mini-app, as the distributor sees them: a second audience of the scan.

They know their rank, how many they are, and nothing else: rank r of n gets the r-th part of all slices, and
keeps it. So together they reconstruct the whole volume, whether or not workers of ours do too. Like those,
they are fed from the store: one that was started again gets all projections from the first one on.

They cannot be told a calibration. Each projection comes with the rotation centre that is known by then, and
without the stripe offsets that are known by then; what they have had before stays as it was.

A rank that is gone does not hold up the others, or the DAQ. It may come back as long as the scan goes on, and
is waited for at the end; without it, its slices are missing, and the distributor ends with an error that says
which.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ministream.errors import StageError
from ministream.partition import slice_range
from ministream.stages.calibration import Calibration
from ministream.stages.store import ScanStore
from ministream.transport.ranks import Arrived, Asked, Departed, RankEvent, RankServer
from ministream.wire import tmq

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Rank:
    """One rank.

    Attributes
    ----------
    next : int
        The projection that it has not been sent yet.
    present, informed, waits : bool
        It is there; it knows its share; it waits for a projection.
    complete : bool
        It has all of them, and has been told so.
    absent_since_s : float
    given_up : bool
    """

    slices: range
    absent_since_s: float
    next: int = 0
    present: bool = False
    informed: bool = False
    waits: bool = False
    complete: bool = False
    given_up: bool = False

    @property
    def done(self) -> int:
        """How many projections it has."""
        return self.next if self.waits else max(0, self.next - 1)


class Ranks:
    """All ranks of a scan.

    Parameters
    ----------
    server : RankServer
        Where they ask.
    timeout_s : float
        How long one that is gone is waited for before its slices are given up.
    patience_s : float
        The same where nobody else is there.
    """

    def __init__(self, server: RankServer, *, timeout_s: float, patience_s: float) -> None:
        self.server = server
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._store: ScanStore | None = None
        self._ranks: dict[int, _Rank] = {}
        self._began_s = time.monotonic()
        self._here: set[int] = set()
        self._center = 0.0
        self._stripes: npt.NDArray[np.float32] | None = None

    @property
    def size(self) -> int:
        """How many there are; 0 until rank 0 has told."""
        return self.server.ranks or 0

    @property
    def present(self) -> int:
        """How many are there."""
        return len(self._here)

    @property
    def enough(self) -> bool:
        """Whether all are there."""
        return 0 < self.size == len(self._here)

    def open_scan(self, store: ScanStore, rotation_center: float | None) -> None:
        """Begin with the projections in `store`."""
        self._store = store
        self._began_s = time.monotonic()
        # the middle, as the mini-app has it where it is told nothing
        self._center = (store.description.columns - 1) / 2 if rotation_center is None else rotation_center
        self._know_ranks(store)

    def calibrate(self, calibration: Calibration, rotation_center: float | None) -> None:
        """Send what follows by a new calibration."""
        if rotation_center is not None:
            self._center = rotation_center
        if calibration.stripes is not None:
            self._stripes = calibration.stripes

    def serve(self, *, others: bool = False) -> None:
        """Take note of who has come, asked and gone. Does not wait.

        Parameters
        ----------
        others : bool
            Whether somebody else works on the scan.

        Raises
        ------
        StageError
            Nobody is there, and none has come for too long.
        """
        for event in self.server.poll():
            self._take(event)
        if self._store is None:
            return
        self._know_ranks(self._store)
        self._give_up(self._store, others=others)

    def _know_ranks(self, store: ScanStore) -> None:
        if self._ranks or not self.size:
            return
        now_s = time.monotonic()
        for rank in range(self.size):
            self._ranks[rank] = _Rank(slice_range(store.description.rows, rank, self.size), now_s)
            self._ranks[rank].present = rank in self._here

    def _take(self, event: RankEvent) -> None:
        rank = self._ranks.get(event.rank)
        match event:
            case Arrived():
                self._here.add(event.rank)
                if rank is not None:
                    self._ranks[event.rank] = _Rank(rank.slices, time.monotonic(), present=True)
                    if rank.next:
                        logger.warning("rank %d has come again, and gets all projections again", event.rank)
            case Asked() if rank is not None:
                rank.waits = True
            case Departed():
                self._here.discard(event.rank)
                if rank is None:
                    return
                if not rank.complete:
                    logger.warning(
                        "rank %d, which has slices %d to %d, has gone after %d projections: %s",
                        *(event.rank, rank.slices.start, rank.slices.stop - 1, rank.done, event.reason),
                    )
                rank.present = rank.waits = rank.informed = False
                rank.absent_since_s = time.monotonic()

    def _give_up(self, store: ScanStore, *, others: bool) -> None:
        after_s = self._timeout_s if others or self._here else self._patience_s
        now_s = time.monotonic()
        if not self._ranks and now_s - self._began_s > after_s:
            raise StageError(
                f"no worker of the mini-app has come to {self.server.address} for {after_s:g} s; rank 0 "
                "has to say how many there are"
            )
        for number, rank in self._ranks.items():
            if rank.present or rank.complete or rank.given_up or now_s - rank.absent_since_s <= after_s:
                continue
            rank.given_up = True
            logger.warning(
                "rank %d has not come back for %g s: slices %d to %d are not reconstructed by the mini-app",
                *(number, after_s, rank.slices.start, rank.slices.stop - 1),
            )
        if self._ranks and not others and not store.complete:
            failure = self.failure()
            if failure is not None and all(rank.given_up for rank in self._ranks.values()):
                raise failure

    # ------------------------------------------------------------------ the stream

    def feed(self) -> None:
        """Answer all who have asked, as far as there are projections."""
        store = self._store
        if store is None:
            return
        for number, rank in self._ranks.items():
            if not rank.present:
                continue
            if not rank.informed:
                rank.informed = True
                self.server.inform(
                    number,
                    tmq.Share(
                        total=store.description.rows,
                        begin=rank.slices.start,
                        count=len(rank.slices),
                        columns=store.description.columns,
                    ),
                )
            elif rank.waits and rank.next < store.count:
                rank.waits = False
                self.server.send(number, self._view(store, rank))
                rank.next += 1

    def _view(self, store: ScanStore, rank: _Rank) -> tmq.View:
        rows = store.rows(rank.next, [rank.slices])
        if self._stripes is not None:
            rows = rows - self._stripes[rank.slices.start : rank.slices.stop]
        return tmq.View(
            projection=rank.next,
            angle_rad=float(store.angles_rad[rank.next]),
            rotation_center=self._center,
            data=np.ascontiguousarray(rows, "<f4").reshape(-1).view(np.uint8).data,
        )

    @property
    def done(self) -> int:
        """How many projections every rank that is there has; all where there is none."""
        store = self._store
        if store is None:
            return 0
        there = [rank.done for rank in self._ranks.values() if rank.present and not rank.complete]
        return min(there, default=store.count)

    # ------------------------------------------------------------------ the end

    def conclude(self) -> bool:
        """Tell those that have everything that this was all; tell whether no other one is waited for."""
        store = self._store
        if store is None or not self._ranks:
            return False
        for number, rank in self._ranks.items():
            if rank.present and rank.waits and not rank.complete and rank.next == store.count:
                rank.complete = True
                self.server.finish(number)
        return all(rank.complete or rank.given_up for rank in self._ranks.values())

    @property
    def gone(self) -> bool:
        """Whether all who have everything have said good-bye."""
        return not any(rank.present and rank.complete for rank in self._ranks.values())

    def failure(self) -> StageError | None:
        """Return what is missing, as an error; None if nothing is."""
        lost = [(number, rank) for number, rank in self._ranks.items() if rank.given_up]
        if not lost:
            return None
        what = ", ".join(
            f"rank {number} (slices {rank.slices.start} to {rank.slices.stop - 1})" for number, rank in lost
        )
        return StageError(
            f"not reconstructed by the mini-app, because its workers had gone: {what}; see their own messages"
        )
