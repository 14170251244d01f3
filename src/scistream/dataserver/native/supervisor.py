"""The parent of a gateway's workers: starts them, passes requests on, notices who dies.

::

    control server process          supervisor                 worker 0 .. n-1
    NativeBackend  <--SEQPACKET-->  one request fanned out  <--SEQPACKET-->  sessions
                                    to all, one reply back

The tree has one life: if a worker dies, its connections are lost, so the supervisor reports that and ends
everything rather than go on with a part. It ends as well when the control server's end of the socket closes,
so that nothing is left when that process is killed.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from scistream.dataserver.native.balance import Balance
from scistream.dataserver.native.messages import Message, MessageSocket
from scistream.dataserver.native.tls import load_engine
from scistream.dataserver.native.worker import WorkerOptions, run_worker
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

END_LIMIT_S = 3.0
"""How long workers may take to end before they are killed."""


@dataclass(slots=True)
class _Child:
    pid: int
    control: MessageSocket


@dataclass(slots=True)
class _Pending:
    """A request that some workers have not answered."""

    missing: set[int]
    results: list[Any] = field(default_factory=list)
    error: str | None = None


class Supervisor:
    """Runs a tree of `workers` processes for whoever holds the other end of `control`."""

    def __init__(self, control: socket.socket, workers: int, options: WorkerOptions) -> None:
        self._control = MessageSocket(control)
        self._workers = workers
        self._options = options
        self._children: dict[int, _Child] = {}
        self._pending: dict[int, _Pending] = {}
        self._poll = select.epoll()
        self._stopping = False

    def run(self) -> bool:
        """Serve until the control socket ends or a signal comes; return False if a worker died."""
        raise_descriptor_limit()
        healthy = True
        # a signal only has to wake the poll: its handler sets the flag
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            self._fork_workers((reading, writing))
            self._poll.register(reading, select.EPOLLIN)
            self._poll.register(self._control.fileno(), select.EPOLLIN)
            self._send_control({"event": "ready", "pids": [child.pid for child in self._children.values()]})
            while not self._stopping and healthy:
                healthy = self._turn()
        finally:
            self._end_children()
            signal.set_wakeup_fd(-1)
            os.close(reading)
            os.close(writing)
            with contextlib.suppress(OSError):
                self._control.flush()
            self._control.close()
            self._poll.close()
        return healthy

    def _on_signal(self, _signum: int, _frame: object) -> None:
        self._stopping = True

    def _fork_workers(self, wakeup: tuple[int, int]) -> None:
        balance = Balance(self._workers)
        load_engine(self._options.tls_engine)
        gc.collect()
        gc.freeze()  # the workers share what was loaded, as long as nobody writes to it
        for index in range(self._workers):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                self._be_worker(index, ours, theirs, balance, wakeup)
            theirs.close()
            self._children[index] = _Child(pid, MessageSocket(ours))
            self._poll.register(ours.fileno(), select.EPOLLIN)
        balance.close()

    def _be_worker(
        self,
        index: int,
        ours: socket.socket,
        theirs: socket.socket,
        balance: Balance,
        wakeup: tuple[int, int],
    ) -> None:
        """Become a worker; does not return."""
        code = 1
        try:
            # who ends a worker is the supervisor, by its control socket
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.close(wakeup[0])
            os.close(wakeup[1])
            ours.close()
            self._poll.close()
            self._control.close()
            for child in self._children.values():
                child.control.close()
            run_worker(index, theirs, balance, self._options)
            code = 0
        except Exception:
            logger.exception("worker %d failed", index)
        finally:
            os._exit(code)

    def _turn(self) -> bool:
        """Handle one round of events; return False if a worker has died."""
        by_descriptor = {child.control.fileno(): index for index, child in self._children.items()}
        for descriptor, events in self._poll.poll():
            if descriptor == self._control.fileno():
                self._on_control(events)
            elif descriptor in by_descriptor:
                index = by_descriptor[descriptor]
                child = self._children[index]
                if events & select.EPOLLOUT:
                    child.control.flush()
                for message in child.control.receive():
                    self._on_reply(index, message)
                if child.control.ended:
                    self._report_death(index)
                    return False
        self._rearm(self._control)
        for child in self._children.values():
            self._rearm(child.control)
        return True

    def _rearm(self, control: MessageSocket) -> None:
        self._poll.modify(control.fileno(), select.EPOLLIN | (select.EPOLLOUT if control.unsent else 0))

    def _on_control(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._control.flush()
        for message in self._control.receive():
            self._pending[int(message.body["id"])] = _Pending(set(self._children))
            for child in self._children.values():
                child.control.send(message.body, message.descriptors)
            for descriptor in message.descriptors:
                os.close(descriptor)
        if self._control.ended:
            self._controller_is_gone()

    def _controller_is_gone(self) -> None:
        """End: this is the one place that decides what a tree does without its control server."""
        logger.debug("the control server is gone: the data server ends")
        self._stopping = True

    def _on_reply(self, index: int, message: Message) -> None:
        identity = int(message.body["reply"])
        pending = self._pending[identity]
        pending.missing.discard(index)
        pending.error = pending.error or message.body.get("error")
        pending.results.append(message.body.get("result"))
        if pending.missing:
            return
        del self._pending[identity]
        reply: dict[str, Any] = {"reply": identity, "results": pending.results}
        if pending.error is not None:
            reply["error"] = pending.error
        self._send_control(reply)

    def _send_control(self, body: dict[str, Any]) -> None:
        self._control.send(body)

    def _report_death(self, index: int) -> None:
        child = self._children.pop(index)
        child.control.close()
        status = _wait_for(child.pid, END_LIMIT_S)
        reason = f"data server worker {index} (pid {child.pid}) {_describe(status)}"
        logger.error("%s; its connections are lost, the tree ends", reason)
        with contextlib.suppress(DataServerError):
            self._send_control({"event": "died", "reason": reason})

    def _end_children(self) -> None:
        for child in self._children.values():
            child.control.close()
        for child in self._children.values():
            if _wait_for(child.pid, END_LIMIT_S) is None:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)


def _wait_for(pid: int, limit_s: float) -> int | None:
    """Return the child's wait status; None if it has not ended in time."""
    descriptor = os.pidfd_open(pid)
    try:
        deadline = time.monotonic() + limit_s
        while not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if time.monotonic() >= deadline:
                return None
    finally:
        os.close(descriptor)
    return os.waitpid(pid, 0)[1]


def _describe(status: int | None) -> str:
    if status is None:
        return "closed its control socket"
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def raise_descriptor_limit() -> None:
    """Use all the open files that the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
