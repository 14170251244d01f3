"""What workers know of each other: how many connections each has, and how many use their share of a rate.

The kernel wakes one of the workers that wait on a listener, and under light load it is nearly always the
same one; a few long streams would then share one core. So every worker publishes how many connections of
each session it has, in memory that all share, and passes a new one on if another has fewer. A session that
is held to a rate divides it among those that use it. The figures are hints: nothing breaks if they are old.

A connection that waits for one of the other gateway's, in a reverse session (`reverse_waiting`), has to be in
the worker that has one. So every worker also publishes, for each channel, how many of these it has ready,
less those that wait for one, and how many are about to be.
"""

from __future__ import annotations

import mmap
import socket
import struct
import time
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from scistream.dataserver.tree.work import MAX_SESSIONS

_COUNT_BYTES = 4
_FORGET_S = 0.02
_HEADER = struct.Struct("<QIBd")
_CELLS = 1 << 16
"""Of a worker, for what its channels have ready; two channels may have the same, since they are hints."""


class Handed(IntEnum):
    """What a connection is that is handed over."""

    ACCEPTED = 0
    """Of an application, or of the other gateway."""
    SPARE = 1
    """Of the other gateway in a reverse session, which is to be kept ready."""
    WAITING = 2
    """Of an application, which waits for one that is ready."""


class Arrival(NamedTuple):
    """A connection that was handed over.

    Parameters
    ----------
    key, channel : int
        The session's, and of that.
    due : float
        Until when it waits, on the monotonic clock, which all processes have in common.
    """

    key: int
    channel: int
    what: Handed
    due: float
    sock: socket.socket


class Balance:
    """Shared by all workers of a tree; made before they are forked, and kept by their parent for new ones.

    Attributes
    ----------
    inboxes : list of socket.socket
        Worker i receives on ``inboxes[i]`` what others send to ``outboxes[i]``.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, MAX_SESSIONS * workers * _COUNT_BYTES)
        # one more than the number of connections; 0: not listening
        self._counts = memoryview(self._memory).cast("i")
        self._busy = memoryview(mmap.mmap(-1, MAX_SESSIONS * workers * 2 * _COUNT_BYTES)).cast("i")
        self._ready_memory = mmap.mmap(-1, 2 * _CELLS * workers * _COUNT_BYTES)
        self._ready = memoryview(self._ready_memory).cast("i")
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        self.inboxes = [pair[0] for pair in pairs]
        self.outboxes = [pair[1] for pair in pairs]
        for sock in (*self.inboxes, *self.outboxes):
            sock.setblocking(False)

    def forget(self, slot: int, index: int) -> None:
        """Worker `index` has died: it has no connection in `slot` any more, and nothing ready."""
        self.forget_connections(slot, index)
        self._ready_memory[8 * _CELLS * index : 8 * _CELLS * (index + 1)] = bytes(8 * _CELLS)

    def forget_connections(self, slot: int, index: int) -> None:
        """Worker `index` has no connection of the session in `slot` any more, and takes none."""
        place = slot * self._workers + index
        self._counts[place] = 0
        self._busy[2 * place] = self._busy[2 * place + 1] = 0

    def close(self) -> None:
        """Close this process's copies; the memory goes with the process."""
        for sock in (*self.inboxes, *self.outboxes):
            sock.close()


class BalanceOfWorker:
    """One worker's view of it."""

    def __init__(self, balance: Balance, index: int) -> None:
        self._balance = balance
        self._counts = balance._counts  # noqa: SLF001 - two halves of one thing
        self._busy = balance._busy  # noqa: SLF001
        self._workers = balance._workers  # noqa: SLF001
        self._index = index
        self._on_the_way: dict[tuple[int, int], int] = {}
        self._ready = balance._ready  # noqa: SLF001
        self._last_hand_over = 0.0
        self.workers, self.index = self._workers, index
        self.inbox = balance.inboxes[index]

    def open(self, slot: int) -> None:
        """Others may hand over connections of the session in `slot`."""
        self._counts[slot * self._workers + self._index] = 1

    def close(self, slot: int, channels: int) -> None:
        """They may no more; none of its channels has anything ready."""
        self._balance.forget_connections(slot, self._index)
        for channel in range(channels):
            self.count_ready(slot, channel, 0, 0)

    def count(self, slot: int, change: int) -> None:
        """Publish that there is one connection more or less."""
        place = slot * self._workers + self._index
        if self._counts[place]:
            self._counts[place] += change

    def total(self, slot: int) -> int:
        """Return how many connections the session in `slot` has in all workers."""
        start = slot * self._workers
        return sum(count - 1 for count in self._counts[start : start + self._workers] if count)

    def tell_busy(self, slot: int, direction: int, count: int) -> None:
        """Publish how many connections use their share in a direction, 0 or 1."""
        self._busy[2 * (slot * self._workers + self._index) + direction] = count

    def busy(self, slot: int, direction: int) -> int:
        """Return how many do so in all workers."""
        start = 2 * slot * self._workers
        return sum(self._busy[start + direction : start + 2 * self._workers : 2])

    def hand_over(self, slot: int, key: int, channel: int, accepted: socket.socket) -> bool:
        """Pass `accepted` to a worker with fewer connections; return False if it is to stay here."""
        if self._workers == 1:
            return False
        start = slot * self._workers
        mine = self._counts[start + self._index]
        if mine <= 1:
            return False
        now = time.monotonic()
        if now - self._last_hand_over > _FORGET_S:
            self._on_the_way.clear()  # they have been counted by those who got them
        best, fewest = -1, mine
        for other, count in enumerate(self._counts[start : start + self._workers]):
            expected = count + self._on_the_way.get((slot, other), 0)
            if count and expected < fewest:
                best, fewest = other, expected
        if best < 0:
            return False
        if not self.send(best, Arrival(key, channel, Handed.ACCEPTED, 0.0, accepted)):
            return False  # its inbox is full: it is busier than the counts say
        self._last_hand_over = now
        self._on_the_way[slot, best] = self._on_the_way.get((slot, best), 0) + 1
        return True

    def send(self, worker: int, handed: Arrival) -> bool:
        """Hand a connection over to another worker; return False if that cannot be."""
        header = _HEADER.pack(handed.key, handed.channel, handed.what, handed.due)
        try:
            socket.send_fds(self._balance.outboxes[worker], [header], [handed.sock.fileno()])
        except OSError:
            return False
        handed.sock.close()
        return True

    # --- what channels have ready ------------------------------------------------------------------------

    def count_ready(self, slot: int, channel: int, ready: int, coming: int) -> None:
        """Publish how many connections a channel has ready, less those that wait, and how many come."""
        place = self._place(self.index, slot, channel)
        self._ready[place], self._ready[place + 1] = ready, coming

    def richest(self, slot: int, channel: int) -> int | None:
        """Return which other worker has most connections of a channel ready; None if none has any."""
        others = [other for other in self._listening(slot) if other != self.index]
        best = max(others, key=lambda other: self._ready[self._place(other, slot, channel)], default=None)
        return best if best is not None and self._ready[self._place(best, slot, channel)] > 0 else None

    def neediest(self, slot: int, channel: int) -> int:
        """Return which worker has, or is about to have, fewest connections of a channel ready."""

        def has(worker: int) -> tuple[int, bool]:
            place = self._place(worker, slot, channel)
            return self._ready[place] + self._ready[place + 1], worker != self.index

        return min(self._listening(slot), key=has, default=self.index)

    def expect(self, worker: int, slot: int, channel: int) -> None:
        """Publish for another worker that one more comes, which it does not know yet."""
        self._ready[self._place(worker, slot, channel) + 1] += 1

    def take_one(self, worker: int, slot: int, channel: int) -> None:
        """Publish for another worker that one more waits there, which it does not know yet."""
        self._ready[self._place(worker, slot, channel)] -= 1

    def _listening(self, slot: int) -> list[int]:
        start = slot * self._workers
        return [worker for worker in range(self._workers) if self._counts[start + worker]]

    @staticmethod
    def _place(worker: int, slot: int, channel: int) -> int:
        return 2 * (worker * _CELLS + (slot * 1031 + channel) % _CELLS)

    # --- the inbox -----------------------------------------------------------------------------------------

    def receive(self) -> Arrival | None:
        """Return the next connection that was handed over; None if there is none."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self.inbox, _HEADER.size, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return None
            if len(data) != _HEADER.size or not descriptors:
                return None
            accepted = socket.socket(fileno=descriptors[0])
            accepted.setblocking(False)
            key, channel, what, due = _HEADER.unpack(data)
            return Arrival(key, channel, Handed(what), due, accepted)


def sockets_to_close(balance: Balance, index: int) -> Sequence[socket.socket]:
    """Return what worker `index` does not need after the fork: the others' inboxes."""
    return [inbox for place, inbox in enumerate(balance.inboxes) if place != index]
