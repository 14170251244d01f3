"""The workers as their parent sees them: forked, found dead, forked again, ended."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scistream.dataserver.tree.exits import describe_exit, wait_for_exit
from scistream.dataserver.tree.messages import MessageSocket
from scistream.dataserver.tree.work import Work

logger = logging.getLogger(__name__)

END_LIMIT_S = 3.0
"""How long workers may take to end before they are killed."""
MAX_DEATHS = 5
DEATHS_WITHIN_S = 10.0
"""A worker that has died more than so often within this time is not replaced: it would die again."""


@dataclass(slots=True, eq=False)
class Child:
    """One worker, and the socket to it."""

    index: int
    pid: int
    control: MessageSocket
    killed: bool = False

    def kill(self, reason: str) -> None:
        """End one that can be talked to no more; that it has died is seen as of any other. Idempotent."""
        if self.killed:
            return
        self.killed = True
        logger.error("worker %d (pid %d) is killed: %s", self.index, self.pid, reason)
        os.kill(self.pid, signal.SIGKILL)


class Children:
    """All workers of a tree.

    Parameters
    ----------
    work : Work
        What they do.
    forked : callable
        Called in each new worker's process, to close there what belongs to the supervisor.
    """

    def __init__(self, work: Work, forked: Callable[[], None]) -> None:
        self._work = work
        self._forked = forked
        self._children: dict[int, Child] = {}
        self._deaths: dict[int, deque[float]] = {index: deque() for index in range(work.workers)}
        work.prepare()
        gc.collect()
        gc.freeze()  # the workers share what was loaded, as long as nobody writes to it

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    def __getitem__(self, index: int) -> Child:
        return self._children[index]

    @property
    def pids(self) -> list[int]:
        """The workers' processes, in the order of their indices."""
        return [self._children[index].pid for index in sorted(self._children)]

    def fork(self, index: int) -> Child:
        """Start the worker with this index, which has none."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._be_worker(index, ours, theirs)
        theirs.close()
        child = self._children[index] = Child(index, pid, MessageSocket(ours))
        return child

    def _be_worker(self, index: int, ours: socket.socket, theirs: socket.socket) -> None:
        """Become a worker; does not return."""
        code = 1
        try:
            # who ends a worker is the supervisor, by its control socket
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ours.close()
            for child in self._children.values():
                child.control.close()
            self._forked()
            self._work.run(index, theirs)
            code = 0
        except Exception:
            logger.exception("worker %d failed", index)
        finally:
            os._exit(code)

    def bury(self, child: Child) -> str:
        """Clear away a worker that is dead or has closed its socket; return what happened to it."""
        del self._children[child.index]
        child.control.close()
        status = wait_for_exit(child.pid, END_LIMIT_S)
        if status is None:
            child.kill("it does not end")
            os.waitpid(child.pid, 0)
        self._deaths[child.index].append(time.monotonic())
        return f"data server worker {child.index} (pid {child.pid}) {describe_exit(status)}"

    def dies_too_often(self, index: int) -> bool:
        """Return whether the worker with this index is not worth another try."""
        deaths = self._deaths[index]
        while deaths and deaths[0] < time.monotonic() - DEATHS_WITHIN_S:
            deaths.popleft()
        return len(deaths) > MAX_DEATHS

    def end(self) -> None:
        """End all workers: they end when their control sockets do."""
        for child in self:
            child.control.close()
        for child in self:
            if wait_for_exit(child.pid, END_LIMIT_S) is None:
                child.kill("it does not end")
                os.waitpid(child.pid, 0)
        self._children.clear()
        self._work.close()
