"""The parent of a gateway's workers: passes requests on, replaces workers that die, outlives control servers.

::

    control server process          supervisor                 worker 0 .. n-1
    NativeBackend  <--SEQPACKET-->  one request fanned out  <--SEQPACKET-->  sessions
                                    to all, one reply back

A worker that dies takes its connections with it. Its place is taken by a new one, which is given every
session on the same listening sockets; `kept` has what that needs. When the control server's end of the socket
closes, the tree ends, or waits for another control server (`controller`), as it was told when it was started.

No request is known by the number that a control server gave it: an answer finds who asked, or nobody.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scistream.dataserver.descriptors import raise_descriptor_limit
from scistream.dataserver.tree.children import DEATHS_WITHIN_S, Child, Children
from scistream.dataserver.tree.controller import Controller
from scistream.dataserver.tree.logs import log_to
from scistream.dataserver.tree.messages import MessageSocket
from scistream.dataserver.tree.rendezvous import MeetingPlace
from scistream.dataserver.tree.service import Service
from scistream.dataserver.tree.work import Work
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)


class Supervisor:
    """Runs a tree of processes.

    Parameters
    ----------
    control : socket.socket
        The connection to the control server that starts it.
    work : Work
        What the workers do.
    settings : mapping
        What a control server that finds the tree is told of how it was started.
    directory : Path or None
        Where other control servers find the tree when that one is gone; None if it ends then.
    """

    def __init__(
        self,
        control: socket.socket,
        work: Work,
        settings: Mapping[str, Any],
        directory: Path | None = None,
    ) -> None:
        raise_descriptor_limit()  # at first: whether it is enough is looked at when the work is prepared
        link = MessageSocket(control)
        self._work = work
        self._tree = uuid.uuid4().hex
        self._settings = settings
        self._place = None if directory is None else MeetingPlace(directory)
        self._controller = Controller(link, self._place, self._greeting)
        log_to(self._controller.log)
        self._children = Children(work, self._in_worker)
        self._service = Service(work, self._children, self._controller, self._stop)
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._sockets: dict[int, MessageSocket] = {}
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._failed = False

    def run(self) -> bool:
        """Serve until there is nobody left to serve, or a signal comes; return False after a failure."""
        # a signal only has to wake the poll: its handler sets the flag
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        try:
            for index in range(self._work.workers):
                self._watch_child(self._children.fork(index))
            self._poll.register(self._wakeup[0], select.EPOLLIN)
            if self._place is not None:
                self._poll.register(self._place.socket.fileno(), select.EPOLLIN)
                self._handlers[self._place.socket.fileno()] = self._on_newcomer
            if self._controller.link is not None:
                self._watch(self._controller.link, self._on_controller)
                self._controller.greet()
            while not self._stopping:
                self._turn()
        except Exception as error:
            logger.exception("the data server's supervisor failed")
            self._fail(f"the data server's supervisor failed: {error!r}")
        finally:
            self._end()
        return not self._failed

    def _on_signal(self, _signum: int, _frame: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._stopping = True

    def _end(self) -> None:
        if self._place is not None:
            self._place.leave()
        self._children.end()
        signal.set_wakeup_fd(-1)
        for descriptor in self._wakeup:
            os.close(descriptor)
        self._controller.close()
        self._service.close()
        self._poll.close()
        if self._place is not None:
            self._place.close()  # and with it the lock, last of all

    def _fail(self, reason: str) -> None:
        """End everything, because going on makes no sense."""
        self._failed = self._stopping = True
        self._controller.tell({"event": "died", "reason": reason})

    def _in_worker(self) -> None:
        """Close in a new worker's process what belongs to the supervisor."""
        self._poll.close()
        for descriptor in self._wakeup:
            os.close(descriptor)
        if self._controller.link is not None:
            self._controller.link.close()
        if self._place is not None:
            self._place.close()
        self._service.close()

    # --- events -----------------------------------------------------------------------------------------

    def _watch(self, sock: MessageSocket, handler: Callable[[int], None]) -> None:
        self._poll.register(sock.fileno(), select.EPOLLIN)
        self._handlers[sock.fileno()] = handler
        self._sockets[sock.fileno()] = sock

    def _forget(self, sock: MessageSocket) -> None:
        self._poll.unregister(sock.fileno())
        del self._handlers[sock.fileno()], self._sockets[sock.fileno()]

    def _watch_child(self, child: Child) -> None:
        self._watch(child.control, partial(self._on_child, child))

    def _turn(self) -> None:
        """Handle one round of events."""
        now_s = time.monotonic()
        self._service.kill_hung(now_s)
        orphan_left_s = self._controller.orphan_left_s(now_s)
        if orphan_left_s <= 0:
            logger.warning("no control server has come in time: the data server ends")
            self._stopping = True
            return
        left_s = min(orphan_left_s, self._service.left_s(now_s))
        for descriptor, events in self._poll.poll(None if left_s == math.inf else left_s):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events)
        self._look_after_controller()
        for sock in self._sockets.values():
            self._poll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if sock.unsent else 0))

    def _look_after_controller(self) -> None:
        """End or wait for another control server, if there is none any more."""
        link = self._controller.link
        if link is None or not link.ended:
            return
        self._forget(link)
        if not self._controller.lose():
            logger.debug("the control server is gone: the data server ends")
            self._stopping = True
        elif not self._service:
            logger.debug("the control server is gone, and no session is left: the data server ends")
            self._stopping = True
        else:
            logger.info("the control server is gone: %d sessions go on without one", len(self._service))

    def _on_newcomer(self, _events: int) -> None:
        # the one before may have gone just now
        self._on_controller(0)
        self._look_after_controller()
        newcomer = self._controller.meet()
        if newcomer is not None:
            self._watch(newcomer, self._on_controller)

    def _on_controller(self, events: int) -> None:
        if events & select.EPOLLOUT and self._controller.link is not None:
            self._controller.link.flush()
        for message in self._controller.receive():
            try:
                self._service.on_request(message)
            except (KeyError, TypeError, ValueError):
                # not the streams' fault: this control server is not listened to any more
                logger.exception("the control server has sent a request that makes no sense")
                if self._controller.link is not None:
                    self._controller.link.ended = True

    def _on_child(self, child: Child, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                child.control.flush()
            messages = child.control.receive()
        except DataServerError as error:
            child.kill(str(error))
            messages, child.control.ended = [], True
        for message in messages:
            event = message.body.get("event")
            if event == "log":
                self._controller.log(message.body)
            elif event is not None:
                self._service.on_event(message.body)
            else:
                self._service.on_reply(child.index, message.body)
        if child.control.ended:
            self._replace(child)

    def _replace(self, child: Child) -> None:
        """Put a new worker in the place of one that has died."""
        self._forget(child.control)
        reason = self._children.bury(child)
        self._service.worker_died(child.index)
        if self._children.dies_too_often(child.index):
            reason = f"{reason}, once more within {DEATHS_WITHIN_S:g} s: it is not replaced again"
            logger.error("%s; the data server ends", reason)
            self._fail(reason)
            return
        logger.error("%s; its connections are lost, another one takes its place", reason)
        self._watch_child(self._children.fork(child.index))
        self._controller.tell({"event": "workers", "pids": [os.getpid(), *self._children.pids]})
        self._service.worker_replaced(child.index, reason)

    def _greeting(self) -> dict[str, Any]:
        return {
            "tree": self._tree,
            "pids": [os.getpid(), *self._children.pids],
            "settings": dict(self._settings),
            **self._service.description(),
        }
