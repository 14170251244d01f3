"""What workers know of each other: how many connections each has, and how many use their share of a rate.

The kernel wakes one of the workers that wait on a listener, and under light load it is nearly always the
same one; a few long streams would then share one core. So every worker publishes how many connections of
each session it has, in memory that all share, and passes a new one on if another has fewer. A session that
is held to a rate divides it among those that use it. The figures are hints: nothing breaks if they are old.
"""

from __future__ import annotations

import mmap
import socket
import struct
import time
from collections.abc import Sequence

from scistream.dataserver.tree.work import MAX_SESSIONS

_COUNT_BYTES = 4
_FORGET_S = 0.02
_HEADER = struct.Struct("<QI")


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
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        self.inboxes = [pair[0] for pair in pairs]
        self.outboxes = [pair[1] for pair in pairs]
        for sock in (*self.inboxes, *self.outboxes):
            sock.setblocking(False)

    def forget(self, slot: int, index: int) -> None:
        """Worker `index` has died: it has no connection of the session in `slot` any more."""
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
        self._last_hand_over = 0.0
        self.inbox = balance.inboxes[index]

    def open(self, slot: int) -> None:
        """Others may hand over connections of the session in `slot`."""
        self._counts[slot * self._workers + self._index] = 1

    def close(self, slot: int) -> None:
        """They may no more."""
        self._balance.forget(slot, self._index)

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
        try:
            socket.send_fds(self._balance.outboxes[best], [_HEADER.pack(key, channel)], [accepted.fileno()])
        except OSError:
            return False  # its inbox is full: it is busier than the counts say
        self._last_hand_over = now
        self._on_the_way[slot, best] = self._on_the_way.get((slot, best), 0) + 1
        accepted.close()
        return True

    def receive(self) -> tuple[int, int, socket.socket] | None:
        """Return (session key, channel, connection) of the next one handed over; None if there is none."""
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
            key, channel = _HEADER.unpack(data)
            return key, channel, accepted


def sockets_to_close(balance: Balance, index: int) -> Sequence[socket.socket]:
    """Return what worker `index` does not need after the fork: the others' inboxes."""
    return [inbox for place, inbox in enumerate(balance.inboxes) if place != index]
