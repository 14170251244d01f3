"""A distributor of the APS streaming mini-app in place of ours: for a worker it looks like an `Inlet`.

What its distributor does not tell is filled in: that the slices are new, that the rotation centre has
changed, that this was all. The next projection is asked for when the last one has been done with, so the
distributor is told of no projection that a worker might still lose.
"""

from __future__ import annotations

import logging
from collections import deque
from types import TracebackType
from typing import Self

import numpy as np

from ministream.errors import InputError, ProtocolError
from ministream.frames import Frame, FrameKind
from ministream.stages.workers import COMPLETE
from ministream.transport import Ended, Message, Notice
from ministream.transport.rank_client import RankClient
from ministream.wire import timage, tmq

logger = logging.getLogger(__name__)

_SMALL_CHANGE = 0.005
"""Columns: a rotation centre that differs by less is the same."""


class RankInlet:
    """Receives one rank's rows of a scan. A context manager; for one thread.

    Parameters
    ----------
    client : RankClient
        Closed with it.
    projections : int
        Most projections that will come: the mini-app does not say how many.
    """

    def __init__(self, client: RankClient, *, projections: int) -> None:
        if projections < 1:
            raise InputError(f"{projections} projections: at least one is needed")
        self.duplicates = 0
        self._client = client
        self._projections = projections
        self._center: float | None = None
        self._items: deque[Message | Notice] = deque()
        self._received = 0
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def receive(self, timeout_s: float) -> Message | Notice | Ended | None:
        """Return what comes next; None if it does not come within `timeout_s`. After the end always `Ended`.

        Raises
        ------
        ConnectionFailed
            The distributor does not answer, or was lost.
        ProtocolError
            It sends what cannot be understood.
        InputError
            It sends more projections than were expected.
        """
        if self._items:
            return self._items.popleft()
        if self._ended:
            return Ended(self._received)
        match self._client.receive(timeout_s):
            case tmq.Share() as share:
                self._client.ask()
                return self._assignment(share)
            case tmq.View() as view:
                self._take(view)
                return self._items.popleft()
            case tmq.Fin():
                self._ended = True
                return Message(self._received, memoryview(COMPLETE))
            case None:
                return None

    def acknowledge(self, sequence: int) -> None:
        """Take note that projection `sequence` has been done with; ask for the next one."""
        if not self._ended and sequence == self._received - 1:
            self._client.ask()

    def grant(self, credits: int) -> None:
        """Do nothing: this protocol has one credit."""

    def serve(self) -> None:
        """Do nothing: connections are kept up by themselves."""

    def _assignment(self, share: tmq.Share) -> Notice:
        logger.info("slices %d to %d of %d", share.begin, share.begin + share.count - 1, share.total)
        return Notice(
            {
                "kind": "assignment",
                "scan": "",
                "name": self._client.address,
                "slices_total": share.total,
                "columns": share.columns,
                "projections": self._projections,
                "rotation_center": None,
                "blocks": [[share.begin, share.begin + share.count, 0]],
            },
            b"",
        )

    def _take(self, view: tmq.View) -> None:
        share = self._client.share
        if share is None:
            raise ProtocolError("a projection has come before its rows were told")
        if self._received == self._projections:
            raise InputError(
                f"more than {self._projections} projections come from {self._client.address}; say how many "
                "there are at most with --most-projections"
            )
        if self._center is None or abs(view.rotation_center - self._center) > _SMALL_CHANGE:
            self._center = view.rotation_center
            self._items.append(
                Notice({"kind": "calibration", "rotation_center": self._center, "views": self._received}, b"")
            )
        frame = Frame(
            sequence=self._received,
            kind=FrameKind.PROJECTION,
            pixels=tmq.rows_of(view, share.count, share.columns).astype(np.float32, copy=False),
            angle_rad=view.angle_rad,
        )
        self._items.append(Message(self._received, timage.encode(frame, self._center)))
        self._received += 1
