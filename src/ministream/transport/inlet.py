"""The receiving end of a flow: several connections, one ordered stream in which everything is once.

What arrives early waits until its turn; what arrives twice is dropped and counted. The memory needed is
bounded by the credits: the sender may have that many messages on their way that are not acknowledged.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import zmq

from ministream.errors import ConnectionFailed, InputError, ProtocolError
from ministream.transport.flow import Deadline, Ended, Message, Notice
from ministream.transport.sockets import ConnectionMonitor, make_dealer
from ministream.wire import messages

logger = logging.getLogger(__name__)

_POLL_STEP_S = 0.5
_FAREWELL_WAIT_S = 2.0
"""How long after a sender's farewell on one connection what it had sent on the others may take."""


class _Connection:
    """One connection of the flow."""

    def __init__(self, address: str, socket: zmq.Socket[bytes]) -> None:
        self.address = address
        self.socket = socket
        self.monitor = ConnectionMonitor(socket)
        self.received = 0
        self.welcome = False
        self.established = False
        self.lost = False
        self.farewell = False

    def read_monitor(self) -> None:
        for came in self.monitor.events():
            # a relay may accept and hang up before the far end is there: that is no loss, ZeroMQ dials again
            self.lost = self.lost or (not came and self.established)
            self.established = self.established or came

    def close(self, linger_s: float | None = None) -> None:
        self.monitor.close()
        self.socket.close(linger=None if linger_s is None else int(linger_s * 1000))


class Inlet:
    """Receives one flow over one or more connections, in order, each message once, from one thread.

    Parameters
    ----------
    addresses : sequence of str
        ``tcp://HOST:PORT``, one for each connection; all lead to the same `Outlet`, directly or through
        relays.
    flow : str
        The flow's name at the sender; one receiver at a time may have it.
    credits : int
        How many messages may be on their way or here, and not acknowledged.
    attributes : mapping
        What the sender's application is told about this receiver; JSON.
    connect_timeout_s : float
        How long the sender may take to be there and to answer.
    heartbeat_s, silence_limit_s : float
        How often an idle connection is tried, and after how much silence it is lost.

    Raises
    ------
    InputError
        There is no address, or one is not of that form, or the credits are not between 1 and 65536.
    ConnectionFailed
        An address cannot be one.

    Notes
    -----
    The constructor does not wait: that nobody answers shows in `receive` and `await_description`.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        flow: str,
        credits: int = 64,
        attributes: Mapping[str, Any] | None = None,
        connect_timeout_s: float = 30.0,
        heartbeat_s: float = 1.0,
        silence_limit_s: float = 10.0,
    ) -> None:
        if not 1 <= len(addresses) <= messages.CONNECTIONS_LIMIT:
            raise InputError(f"{len(addresses)} addresses: 1 to {messages.CONNECTIONS_LIMIT} are needed")
        if not 1 <= credits <= messages.CREDITS_LIMIT:
            raise InputError(f"{credits} credits: 1 to {messages.CREDITS_LIMIT} are possible")
        self.flow = flow
        self.duplicates = 0
        """Messages that came a second time, and were dropped."""
        self._credits = credits
        self._connect_timeout_s = connect_timeout_s
        self._connect_deadline = Deadline(connect_timeout_s)
        self._description: Mapping[str, Any] | None = None
        self._early: dict[int, memoryview] = {}
        self._notices: dict[int, tuple[int, Notice]] = {}
        self._next_sequence = 0
        self._next_notice = 0
        self._acknowledged = 0
        self._acknowledgement_sent = (0, 0)
        self._end: messages.End | None = None
        self._farewell: str | None = None
        self._farewell_deadline = Deadline(0)
        self._turn = 0
        self._closed = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connections: list[_Connection] = []
        try:
            for address in addresses:
                dealer = make_dealer(
                    self._context, address, heartbeat_s=heartbeat_s, silence_limit_s=silence_limit_s
                )
                self._connections.append(_Connection(address, dealer))
        except BaseException:
            self._close_sockets(linger_s=0)
            raise
        receiver = uuid.uuid4().hex
        for index, connection in enumerate(self._connections):
            join = messages.Join(
                protocol=messages.PROTOCOL,
                flow=flow,
                receiver=receiver,
                connection=index,
                connections=len(addresses),
                credits=credits,
                next_sequence=0,
                attributes=dict(attributes or {}),
            )
            connection.socket.send(messages.encode(join))

    def __enter__(self) -> Inlet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ the application's side

    @property
    def description(self) -> Mapping[str, Any]:
        """What the sender tells about its stream.

        Raises
        ------
        ConnectionFailed
            It has not told yet; see `await_description`.
        """
        if self._description is None:
            raise ConnectionFailed(f"{self._name}: the sender has not answered yet")
        return self._description

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What `ministream.transport.wait_any` waits for."""
        return [
            socket
            for connection in self._connections
            for socket in (connection.socket, connection.monitor.socket)
        ]

    @property
    def pending(self) -> bool:
        """`receive` has something to return without waiting."""
        return self._next_is_here()

    def await_description(self, timeout_s: float | None = None) -> Mapping[str, Any]:
        """Wait until the sender has answered on every connection, and return its description.

        Parameters
        ----------
        timeout_s : float or None
            None is as long as the connection may take.

        Raises
        ------
        ConnectionFailed
            It has not answered in time, or refused.
        ProtocolError
            It answered what cannot be understood.
        """
        if not self.await_welcome(self._connect_timeout_s if timeout_s is None else timeout_s):
            raise self._no_answer(timeout_s)
        return self.description

    def await_welcome(self, timeout_s: float) -> bool:
        """Wait until the sender has answered on every connection; tell whether it has within `timeout_s`.

        Raises
        ------
        ConnectionFailed
            It has not answered as long as the connection may take, or refused.
        ProtocolError
            It answered what cannot be understood.
        """
        deadline = Deadline(timeout_s)
        while True:
            self._read_all()
            # before the check: a sender that has failed meanwhile has left messages to be received
            if all(connection.welcome for connection in self._connections):
                return True
            self._check()
            if deadline.is_over:
                return False
            self._wait(deadline)

    def receive(self, timeout_s: float) -> Message | Notice | Ended | None:
        """Return what comes next in the flow; None if it does not come within `timeout_s`.

        Everything is returned once and in the order in which it was sent; after the end always `Ended`.

        Raises
        ------
        ConnectionFailed
            The sender is not there, refused, left before the end, or a connection was lost; what had come
            before is returned first.
        ProtocolError
            The sender sent what cannot be understood.
        """
        deadline = Deadline(timeout_s)
        while True:
            # also with messages at hand: what is read here is bounded by the credits
            if not self._next_is_here():
                self._read_all()
            item = self._take_next()
            if item is not None:
                return item
            self._send_acknowledgement()
            self._check()
            if deadline.is_over:
                return None
            self._wait(deadline)

    def acknowledge(self, sequence: int) -> None:
        """Say that the application has done with all messages up to and including `sequence`.

        The sender gets the credits back, a quarter of them at a time, or when `receive` has nothing.

        Raises
        ------
        ValueError
            That message has not been received.
        """
        if sequence >= self._next_sequence:
            raise ValueError(f"message {sequence} is acknowledged, {self._next_sequence} have been received")
        self._acknowledged = max(self._acknowledged, sequence + 1)
        if self._acknowledged - self._acknowledgement_sent[0] >= max(1, self._credits // 4):
            self._send_acknowledgement()

    def close(self, reason: str = "it was closed") -> None:
        """Take leave and close. Idempotent; waits two seconds at most."""
        if self._closed:
            return
        leave = messages.encode(messages.Leave(next_sequence=self._acknowledged, reason=reason))
        for connection in self._connections:
            connection.read_monitor()
            reachable = connection.established and not connection.lost
            if reachable:
                connection.socket.send(leave)
            connection.close(None if reachable else 0)
        self._closed = True
        self._context.term()

    # ------------------------------------------------------------------ the order of things

    def _next_is_here(self) -> bool:
        if self._next_notice in self._notices:
            return self._notices[self._next_notice][0] <= self._next_sequence or (
                self._next_sequence in self._early
            )
        return self._next_sequence in self._early or self._is_complete()

    def _is_complete(self) -> bool:
        end = self._end
        return (
            end is not None
            and self._next_sequence == end.next_sequence
            and self._next_notice == end.next_notice
        )

    def _take_next(self) -> Message | Notice | Ended | None:
        if self._next_notice in self._notices and self._notices[self._next_notice][0] <= self._next_sequence:
            _, notice = self._notices.pop(self._next_notice)
            self._next_notice += 1
            return notice
        if self._next_sequence in self._early:
            sequence = self._next_sequence
            self._next_sequence += 1
            return Message(sequence, self._early.pop(sequence))
        if self._is_complete():
            self._send_acknowledgement()
            return Ended(self._next_sequence)
        return None

    # ------------------------------------------------------------------ the sender's messages

    def _read_all(self) -> None:
        for connection in self._connections:
            # the monitor first: what came before a loss is then in the socket already
            connection.read_monitor()
            while True:
                try:
                    header, *payload = connection.socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                if len(payload) > 1:
                    raise ProtocolError(f"{self._name}: a message of {len(payload) + 1} parts")
                content = payload[0].buffer if payload else memoryview(b"")
                try:
                    self._take(connection, messages.parse(header.buffer), content)
                except ProtocolError as error:
                    raise ProtocolError(f"{self._name}: {error}") from error

    def _take(self, connection: _Connection, header: messages.Header, payload: memoryview) -> None:
        match header:
            case messages.Data():
                connection.received += 1
                self._take_message(header.sequence, payload)
            case messages.Notice():
                if header.notice >= self._next_notice + messages.NOTICES_LIMIT:
                    raise ProtocolError(f"notice {header.notice} came before notice {self._next_notice}")
                if header.notice >= self._next_notice:
                    notice = Notice(header.message, bytes(payload))
                    self._notices[header.notice] = (header.before_sequence, notice)
            case messages.End():
                self._end = header
            case messages.Welcome():
                if header.protocol != messages.PROTOCOL:
                    raise ProtocolError(f"the sender speaks version {header.protocol} of the protocol")
                connection.welcome = True
                self._description = header.description
            case messages.Refuse():
                raise ConnectionFailed(f"{self._name}: the sender refuses: {header.reason}")
            case messages.Leave():
                connection.farewell = True
                if self._farewell is None:
                    self._farewell = header.reason
                    self._farewell_deadline = Deadline(_FAREWELL_WAIT_S)
            case messages.Probe():
                pass
            case _:
                raise ProtocolError(f"a sender does not send {type(header).__name__}")

    def _take_message(self, sequence: int, payload: memoryview) -> None:
        if sequence < self._next_sequence or sequence in self._early:
            self.duplicates += 1
        elif sequence >= self._acknowledged + self._credits:
            raise ProtocolError(
                f"message {sequence} came without credit ({self._credits} after {self._acknowledged})"
            )
        else:
            self._early[sequence] = payload

    # ------------------------------------------------------------------ connections

    @property
    def _name(self) -> str:
        return f"flow {self.flow!r} from {', '.join(c.address for c in self._connections)}"

    def _no_answer(self, timeout_s: float | None) -> ConnectionFailed:
        silent = next(c.address for c in self._connections if not c.welcome)
        limit_s = self._connect_timeout_s if timeout_s is None else timeout_s
        return ConnectionFailed(
            f"flow {self.flow!r}: nobody has answered at {silent} for {limit_s:g} s; "
            f"is the sender running, and is this its address?"
        )

    def _check(self) -> None:
        """Raise if what is missing will not come any more."""
        if self._is_complete():
            return
        if self._farewell is not None and (
            # it says so on every connection: what it had sent before on the others may be on its way
            all(connection.farewell or connection.lost for connection in self._connections)
            or self._farewell_deadline.is_over
        ):
            raise ConnectionFailed(f"{self._name}: the sender has left: {self._farewell}")
        for connection in self._connections:
            if connection.lost and self._farewell is None:
                raise ConnectionFailed(
                    f"flow {self.flow!r}: the connection to {connection.address} was lost "
                    f"after {self._next_sequence} messages; did the sender end?"
                )
        if self._connect_deadline.is_over and not all(c.welcome for c in self._connections):
            raise self._no_answer(None)

    def _wait(self, deadline: Deadline) -> None:
        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        poller.poll(int(min(deadline.remaining_s, _POLL_STEP_S) * 1000) + 1)

    def _send_acknowledgement(self) -> None:
        state = (self._acknowledged, self._next_notice)
        if state == self._acknowledgement_sent:
            return
        self._acknowledgement_sent = state
        header = messages.Acknowledge(
            next_sequence=self._acknowledged,
            next_notice=self._next_notice,
            received=tuple(connection.received for connection in self._connections),
        )
        self._turn = (self._turn + 1) % len(self._connections)
        self._connections[self._turn].socket.send(messages.encode(header))

    def _close_sockets(self, *, linger_s: float) -> None:
        for connection in self._connections:
            connection.close(linger_s)
        self._context.term()
