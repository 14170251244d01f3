"""Serving workers of the APS streaming mini-app: one address for each rank, one projection per round trip.

Its workers ask (ZeroMQ REQ) and get an answer to each question. Rank r asks at the port of rank 0 plus r;
only rank 0 tells how many there are, so the others' ports are bound when it has. What is answered, and when,
is the application's: see `ministream.stages.ranks`.

The sockets are ROUTERs. To the worker that is the same as REP, but it shows who asks: a second worker of a
rank cannot get between the first one's questions. It waits, and takes the first one's place if that goes.

The protocol knows no refusal. A worker that asks wrongly is told that this was all (FIN), which ends it; one
whose first message cannot be used is not answered, since it would take any answer for its share. Both are in
the log.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import parse_monitor_message

from ministream.errors import ConnectionFailed, ProtocolError
from ministream.transport.sockets import bound_address, make_router
from ministream.wire import tmq

logger = logging.getLogger(__name__)

RANKS_LIMIT = 1024
_MOST_WAITING = 8
"""Other workers of a rank that are remembered."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A worker of this rank is there; it waits for its share (`RankServer.inform`)."""

    rank: int


@dataclass(frozen=True, slots=True)
class Asked:
    """It wants a projection, and has the last one; it waits for `RankServer.send` or `finish`."""

    rank: int


@dataclass(frozen=True, slots=True)
class Departed:
    """It is gone, or no longer served; `finished` says that it had been told that this was all."""

    rank: int
    reason: str
    finished: bool


RankEvent = Arrived | Asked | Departed


@dataclass(slots=True)
class _Peer:
    """One connection of a worker; `sequence` is that of the message that comes next, from either side."""

    identity: bytes
    descriptor: int
    hello: tmq.Hello
    sequence: int = 1
    waits: bool = True
    finished: bool = False


@dataclass(slots=True)
class _Port:
    """Where one rank asks."""

    rank: int
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    peer: _Peer | None = None
    waiting: deque[_Peer] = field(default_factory=lambda: deque(maxlen=_MOST_WAITING))


class RankServer:
    """Answers the workers of all ranks, from one thread. A context manager.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` of rank 0; port 0 takes a free one.
    heartbeat_s, silence_limit_s : float
        How often an idle connection is tried, and after how much silence it is lost.

    Attributes
    ----------
    address : str
        With the real port.
    ranks : int or None
        How many there are; None until rank 0 has told.

    Raises
    ------
    InputError
        The address is not of that form.
    PortInUse, ConnectionFailed
        It cannot be bound.
    """

    def __init__(self, address: str, *, heartbeat_s: float = 1.0, silence_limit_s: float = 10.0) -> None:
        self.ranks: int | None = None
        self._heartbeat_s, self._silence_limit_s = heartbeat_s, silence_limit_s
        self._events: list[RankEvent] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ports: list[_Port] = []
        try:
            self._bind(address)
        except BaseException:
            self._context.term()
            raise
        self.address = bound_address(self._ports[0].socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What `ministream.transport.wait_any` waits for."""
        return [socket for port in self._ports for socket in (port.socket, port.monitor)]

    @property
    def pending(self) -> bool:
        """`poll` has events to return without waiting."""
        return bool(self._events)

    def poll(self) -> list[RankEvent]:
        """Return what has happened, in order. Does not wait.

        Raises
        ------
        PortInUse, ConnectionFailed
            Rank 0 has told how many there are, and the port of one of them cannot be bound.
        """
        # ports that are bound while it goes on are in turn, too
        for port in self._ports:
            gone = self._disconnected(port)
            self._read(port)
            # after its last words
            self._forget(port, gone)
        events, self._events = self._events, []
        return events

    def inform(self, rank: int, share: tmq.Share) -> None:
        """Answer a worker's first message; as `send` and `finish` only after the last `poll` has told of it.

        Raises
        ------
        ConnectionFailed
            It waits for no answer.
        """
        self._reply(self._ports[rank], share)

    def send(self, rank: int, view: tmq.View) -> None:
        """Answer a worker that has asked, with the next projection."""
        self._reply(self._ports[rank], view)

    def finish(self, rank: int) -> None:
        """Answer a worker that has asked: this was all."""
        peer = self._ports[rank].peer
        if peer is not None:
            peer.finished = True
        self._reply(self._ports[rank], tmq.Fin())

    def close(self) -> None:
        """Close all sockets, after what has been sent. Idempotent."""
        for port in self._ports:
            port.socket.disable_monitor()
            port.monitor.close(linger=0)
            port.socket.close()
        self._ports.clear()
        self._context.term()

    # ------------------------------------------------------------------ sockets

    def _bind(self, address: str) -> None:
        socket = make_router(
            self._context, address, heartbeat_s=self._heartbeat_s, silence_limit_s=self._silence_limit_s
        )
        monitor: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._ports.append(_Port(len(self._ports), socket, monitor))

    def _bind_others(self, ranks: int) -> None:
        parts = urlsplit(self.address)
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        first = int(parts.port or 0)
        if first + ranks - 1 > 0xFFFF:
            raise ConnectionFailed(
                f"{ranks} ranks from port {first} on: there are no ports above 65535; choose another --tmq"
            )
        for rank in range(len(self._ports), ranks):
            self._bind(f"tcp://{host}:{first + rank}")
        self.ranks = ranks
        logger.info("%s: %d ranks, at ports %d to %d", self.address, ranks, first, first + ranks - 1)

    @staticmethod
    def _disconnected(port: _Port) -> set[int]:
        """Return which connections have gone since the last call, by their descriptors."""
        gone = set()
        while port.monitor.poll(0):
            gone.add(int(parse_monitor_message(port.monitor.recv_multipart())["value"]))
        return gone

    def _forget(self, port: _Port, gone: set[int]) -> None:
        for spare in [spare for spare in port.waiting if spare.descriptor in gone]:
            port.waiting.remove(spare)
        if port.peer is not None and port.peer.descriptor in gone:
            self._depart(port, "the connection was lost")

    # ------------------------------------------------------------------ messages

    def _read(self, port: _Port) -> None:
        while True:
            try:
                parts = port.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            identity = parts[0].bytes
            if len(parts) != 3 or len(parts[1].bytes):
                logger.warning(
                    "%s: who asks for rank %d is no worker of the mini-app", self.address, port.rank
                )
                continue
            try:
                sequence, message = tmq.parse(parts[2].bytes)
            except ProtocolError as error:
                self._blame(port, identity, None, str(error))
                continue
            self._take(port, identity, int(parts[2].get(zmq.SRCFD)), sequence, message)

    def _take(
        self, port: _Port, identity: bytes, descriptor: int, sequence: int, message: tmq.Message
    ) -> None:
        peer = port.peer
        own = peer is not None and peer.identity == identity
        if isinstance(message, tmq.Hello) and not own:
            self._greet(port, _Peer(identity, descriptor, message), sequence)
        elif peer is None or not own:
            if not isinstance(message, tmq.Fin):
                self._blame(port, identity, sequence, "it asks without having begun")
        elif sequence != peer.sequence:
            self._blame(port, identity, sequence, f"its message is number {sequence}, not {peer.sequence}")
        elif isinstance(message, tmq.Next) and not peer.waits and not peer.finished:
            peer.sequence, peer.waits = sequence + 1, True
            self._events.append(Asked(port.rank))
        elif isinstance(message, tmq.Fin):
            self._depart(port, "it has finished" if peer.finished else "it has left before the end")
        else:
            self._blame(port, identity, sequence, f"{type(message).__name__.lower()} is out of place")

    def _greet(self, port: _Port, new: _Peer, sequence: int) -> None:
        hello = new.hello
        wrong = None
        if sequence != 0:
            wrong = f"it begins with message {sequence}, not 0"
        elif hello.rank != port.rank:
            wrong = f"it is rank {hello.rank}"
        elif hello.ranks > RANKS_LIMIT:
            wrong = f"it is one of {hello.ranks}; at most {RANKS_LIMIT} can be served"
        elif self.ranks not in (None, hello.ranks):
            wrong = f"it is one of {hello.ranks}, and rank 0 was one of {self.ranks}"
        if wrong is not None:
            logger.warning("%s: a worker at rank %d is not served: %s", self.address, port.rank, wrong)
            return
        if port.peer is not None:
            # it may have gone before this one came
            self._forget(port, self._disconnected(port))
        if port.peer is not None:
            logger.warning(
                "%s: a second worker of rank %d has come; it waits, and is served if the first one goes",
                *(self.address, port.rank),
            )
            port.waiting.append(new)
            return
        self._accept(port, new)

    def _accept(self, port: _Port, new: _Peer) -> None:
        port.peer = new
        logger.info("%s: rank %d of %d has come", self.address, port.rank, new.hello.ranks)
        if self.ranks is None:
            self._bind_others(new.hello.ranks)
        self._events.append(Arrived(port.rank))

    def _blame(self, port: _Port, identity: bytes, sequence: int | None, reason: str) -> None:
        """Do without a worker that does not keep to the protocol; end it, if its sequence number is known."""
        logger.warning("%s: a worker at rank %d is not served: %s", self.address, port.rank, reason)
        if sequence is not None:
            self._send(port, identity, sequence + 1, tmq.Fin())
        if port.peer is not None and port.peer.identity == identity:
            self._depart(port, reason)

    def _reply(self, port: _Port, message: tmq.Message) -> None:
        peer = port.peer
        if peer is None or not peer.waits:
            raise ConnectionFailed(f"rank {port.rank} has not asked, or is gone")
        sequence, peer.sequence, peer.waits = peer.sequence, peer.sequence + 1, False
        self._send(port, peer.identity, sequence, message)

    def _send(self, port: _Port, identity: bytes, sequence: int, message: tmq.Message) -> None:
        try:
            port.socket.send_multipart([identity, b"", tmq.encode(sequence, message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise ConnectionFailed(f"cannot send from {self.address}: {error.strerror}") from error
            # that it has gone is among the events that come next

    def _depart(self, port: _Port, reason: str) -> None:
        peer, port.peer = port.peer, None
        if peer is not None:
            self._events.append(Departed(port.rank, reason, peer.finished))
        if port.waiting:
            self._accept(port, port.waiting.popleft())
