"""One worker process: a loop, its part of every session, and the answers to the supervisor's requests.

It has no thread, and nothing in it blocks. It ends when its control socket ends.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scistream.dataserver.multipath import why_no_multipath
from scistream.dataserver.native.balance import (
    Arrival,
    Balance,
    BalanceOfWorker,
    Handed,
    sockets_to_close,
)
from scistream.dataserver.native.crowd import Crowd
from scistream.dataserver.native.dead_peers import DeadPeers
from scistream.dataserver.native.long_path import LongPath, permitted_long_path
from scistream.dataserver.native.loop import Loop
from scistream.dataserver.native.pacing import ADJUST_S, Pacer
from scistream.dataserver.native.reverse_times import ReverseTimes
from scistream.dataserver.native.session import Channel, Session
from scistream.dataserver.native.sockets import reset, why_no_congestion_control
from scistream.dataserver.tree.logs import MAX_WAITING, log_to
from scistream.dataserver.tree.messages import Message, MessageSocket
from scistream.errors import ResourceExhausted, SciStreamError

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Relay

logger = logging.getLogger(__name__)

DESCRIPTORS_PER_CONNECTION = 6
"""Two sockets, and a pipe in each direction while both receivers are slow."""
DESCRIPTORS_IN_RESERVE = 200
LEAST_CONNECTIONS = 10
"""With open files for fewer there is no sense in starting."""
RESUME_S = 0.1
"""How often a worker without descriptors looks whether the system has some again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What all sessions of a tree have in common; `NativeBackend` says what each means.

    The TLS engine has been chosen.
    """

    congestion_lan: str | None
    congestion_wan: str | None
    wan_buffer_bytes: int | None
    dscp: int | None
    mptcp: bool
    peer_timeout_s: float
    tls_engine: str

    def permitted(self) -> WorkerOptions:
        """Return what of it this process may use; a warning says what it may not."""
        congestion_lan, mptcp = self.congestion_lan, self.mptcp
        if congestion_lan and (reason := why_no_congestion_control(congestion_lan)):
            logger.warning(
                "congestion_lan: the congestion control %r cannot be used (%s), so the kernel's default is; "
                "the sysctl net.ipv4.tcp_allowed_congestion_control lists what is allowed",
                congestion_lan,
                reason,
            )
            congestion_lan = None
        if mptcp and (reason := why_no_multipath()):
            logger.warning(
                "mptcp: not used (%s); as root, if the kernel has it: sysctl -w net.mptcp.enabled=1", reason
            )
            mptcp = False
        return replace(self, congestion_lan=congestion_lan, mptcp=mptcp)

    def long_path(self) -> LongPath:
        """Return how wide-area legs are treated; log lines say what this process may not."""
        return permitted_long_path(self.congestion_wan, self.wan_buffer_bytes, self.dscp)


class Worker:
    """The worker with this index in the tree."""

    def __init__(
        self,
        index: int,
        control: socket.socket,
        balance: Balance,
        options: WorkerOptions,
        long_path: LongPath,
    ) -> None:
        self.options = options
        self.long_path = long_path
        self.loop = Loop()
        self._control = MessageSocket(control)
        self.balance = BalanceOfWorker(balance, index)
        self._sessions: dict[int, Session] = {}
        self._connections = 0
        self._spares = 0
        self.reverse = ReverseTimes(self.loop)
        self._listeners = 0
        self.descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._paused = False
        self._resume = self.loop.deadlines(RESUME_S, Worker._try_to_resume)
        self.pacing = self.loop.deadlines(ADJUST_S, Pacer.adjust)
        self.crowd = Crowd(self._open_relays)
        self.dead_peers = DeadPeers(self.loop, options.peer_timeout_s, self._open_relays)
        self.loop.watch(self._control.fileno(), select.EPOLLIN, self._on_control, self)
        self.loop.watch(self.balance.inbox.fileno(), select.EPOLLIN, self._on_inbox, self)

    def run(self) -> None:
        """Serve until the control socket ends; then reset what is left."""
        try:
            self.loop.run()
        finally:
            for key in list(self._sessions):
                self._stop(key)
            self.loop.close()

    def tell(self, body: dict[str, Any]) -> None:
        """Send the supervisor what it has not asked for; too much of it is left out."""
        control = self._control
        if not control.ended and control.unsent < MAX_WAITING:
            control.send(body)
            if control.unsent:
                self.loop.change(control.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def abort(self) -> None:
        """End after a bug in the handling of control messages: the supervisor sees it."""
        self.loop.stopping = True

    # --- room for connections ---------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Return whether descriptors for one more connection are certain."""
        used = self._listeners + self._spares + DESCRIPTORS_IN_RESERVE
        used += self._connections * DESCRIPTORS_PER_CONNECTION
        return used + DESCRIPTORS_PER_CONNECTION <= self.descriptors

    def pause_accepting(self) -> None:
        """Leave all new connections in the kernel's queues until there is room."""
        if not self._paused:
            self._paused = True
            self._resume.add(self)
            logger.warning(
                "accepting pauses at %d connections: the limit is %d open files (ulimit -n)",
                self._connections,
                self.descriptors,
            )
            for session in self._sessions.values():
                for channel in session.channels:
                    channel.pause()
                    if channel.room is not None:
                        channel.room.lose_silent()  # strangers, most likely

    def _try_to_resume(self) -> None:
        if not self.has_room():
            self._resume.add(self)
            return
        self._paused = False
        for session in self._sessions.values():
            session.listen()  # the first ones may use the room up

    @property
    def paused(self) -> bool:
        """Whether there was no room when it was looked last."""
        return self._paused

    def connection_begins(self, session: Session) -> None:
        """Count it."""
        self._connections += 1
        self._share()
        self.balance.count(session.slot, 1)

    def connection_ends(self, session: Session) -> None:
        """Count it."""
        self._connections -= 1
        self._share()
        self.balance.count(session.slot, -1)

    def _share(self) -> None:
        self.crowd.count(self._connections)
        self.loop.share_bytes = self.crowd.share_bytes

    def spare_begins(self) -> None:
        """Count a connection between the gateways that carries nothing yet."""
        self._spares += 1

    def spare_ends(self) -> None:
        """Count it."""
        self._spares -= 1

    def open_connections(self, session: Session) -> int:
        """Return how many connections it has in all workers."""
        return self.balance.total(session.slot)

    def _open_relays(self) -> list[Relay]:
        return [
            relay
            for session in self._sessions.values()
            for channel in session.channels
            for relay in channel.open_relays
        ]

    def hand_over(self, channel: Channel, accepted: socket.socket) -> bool:
        """Pass a new connection to a worker that has fewer; return False if it stays here."""
        session = channel.session
        return self.balance.hand_over(session.slot, session.key, channel.index, accepted)

    # --- reverse channels ---------------------------------------------------------------------------------

    def publish_ready(self, channel: Channel, ready: int, *, coming: int) -> None:
        """Let the others know how many connections of the other gateway a channel has, and will have."""
        self.balance.count_ready(channel.session.slot, channel.index, ready, coming)

    def richest(self, channel: Channel) -> int | None:
        """Return which other worker has connections of the other gateway ready; None if none has."""
        return self.balance.richest(channel.session.slot, channel.index)

    def hand_over_spare(self, channel: Channel, accepted: socket.socket) -> bool:
        """Pass one of the other gateway's to a worker that has fewer; return False if it stays here."""
        session = channel.session
        worker = self.balance.neediest(session.slot, channel.index)
        if worker == self.balance.index:
            return False
        if not self.balance.send(worker, Arrival(session.key, channel.index, Handed.SPARE, 0.0, accepted)):
            return False
        self.balance.expect(worker, session.slot, channel.index)
        return True

    def move(self, channel: Channel, accepted: socket.socket, worker: int, due: float) -> bool:
        """Pass a connection that waits to another worker; return False if it stays here."""
        session = channel.session
        handed = Arrival(session.key, channel.index, Handed.WAITING, due, accepted)
        if not self.balance.send(worker, handed):
            return False
        self.balance.take_one(worker, session.slot, channel.index)
        return True

    def _on_inbox(self, _events: int) -> None:
        while (handed := self.balance.receive()) is not None:
            session = self._sessions.get(handed.key)
            channel = None if session is None else session.channels[handed.channel]
            if channel is None:
                reset(handed.sock)
            elif handed.what is Handed.SPARE and channel.room is not None:
                channel.room.adopt(handed.sock)
            else:
                channel.adopt(handed.sock, handed.due if handed.what is Handed.WAITING else None)

    # --- requests -----------------------------------------------------------------------------------------

    def _on_control(self, events: int) -> None:
        control = self._control
        if events & select.EPOLLOUT:
            control.flush()
        for message in control.receive():
            reply: dict[str, Any] = {"reply": message.body.get("id")}
            try:
                reply["result"] = self._answer(message)
            except (SciStreamError, OSError) as error:
                reply["error"] = str(error)
            control.send(reply)
        if control.ended:
            self.loop.stopping = True
        else:
            self.loop.change(control.fileno(), select.EPOLLIN | (select.EPOLLOUT if control.unsent else 0))

    def _answer(self, message: Message) -> object:
        body = message.body
        operation, key = body["operation"], int(body["key"])
        if operation == "start":
            self._start(body, message.descriptors)
            return None
        for descriptor in message.descriptors:
            os.close(descriptor)
        if operation == "stop":
            self._stop(key)
            return None
        session = self._sessions.get(key)
        if session is None:
            raise SciStreamError(f"no session with key {key} is here")
        if operation == "retarget":
            session.retarget(body)
            return None
        if operation == "statistics":
            return [channel.statistics() for channel in session.channels]
        raise SciStreamError(f"unknown operation {operation!r}")

    def _start(self, body: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        needed = least_descriptors(self._listeners + len(descriptors))
        if needed > self.descriptors:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ResourceExhausted(
                f"{len(descriptors)} channels more are too many for {self.descriptors} open files: not one "
                f"connection could be carried; start with 'ulimit -n {needed}' at least"
            )
        session = Session(self, body, [socket.socket(fileno=descriptor) for descriptor in descriptors])
        self._sessions[session.key] = session
        self._listeners += session.listeners
        self.balance.open(session.slot)
        session.listen()
        logger.debug("session %s: %d channels", session.uid, len(session.channels))

    def _stop(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            self.balance.close(session.slot, len(session.channels))
            self._listeners -= session.listeners
            session.close()


def least_descriptors(listeners: int) -> int:
    """Return how many open files a worker needs to carry `LEAST_CONNECTIONS` of so many channels."""
    return DESCRIPTORS_IN_RESERVE + listeners + LEAST_CONNECTIONS * DESCRIPTORS_PER_CONNECTION


def run_worker(
    index: int, control: socket.socket, balance: Balance, options: WorkerOptions, long_path: LongPath
) -> None:
    """Be worker `index` in this process, until its control socket ends."""
    for sock in sockets_to_close(balance, index):
        sock.close()
    worker = Worker(index, control, balance, options, long_path)
    log_to(worker.tell)
    worker.run()
    balance.close()
