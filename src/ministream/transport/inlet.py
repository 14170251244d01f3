"""The receiving end of a flow: several connections, one ordered stream in which everything is once.

What arrives early waits until its turn; what arrives twice is dropped and counted. The memory needed is
bounded by the credits: the sender may have that many messages on their way that are not acknowledged.

A connection that is lost is dialled again (ZeroMQ does that), and joins the same flow again; the others go on
meanwhile. Only when none has been there for `reconnect_timeout_s` is the flow given up.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import zmq

from ministream.errors import ConnectionFailed, FlowUnknown, InputError, ProtocolError
from ministream.transport.flow import RECONNECT_TIMEOUT_S, Deadline, Ended, Message, Notice
from ministream.transport.incoming import IncomingConnection
from ministream.transport.link_key import LinkKey
from ministream.transport.sockets import make_dealer
from ministream.wire import messages

logger = logging.getLogger(__name__)

_POLL_STEP_S = 0.5
_FAREWELL_WAIT_S = 2.0
"""How long after a sender's farewell on one connection what it had sent on the others may take."""
_ASK_AGAIN_S = 0.5
"""After a refusal that may not last: another receiver has the name, and may be gone."""


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
    reconnect_timeout_s : float
        How long the sender is waited for when all connections are lost; 0 gives up at once.
    key : LinkKey or None
        Take only a sender who has it, and encrypt; None for anybody, in the clear.

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
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
        key: LinkKey | None = None,
    ) -> None:
        if not 1 <= len(addresses) <= messages.CONNECTIONS_LIMIT:
            raise InputError(f"{len(addresses)} addresses: 1 to {messages.CONNECTIONS_LIMIT} are needed")
        if not 1 <= credits <= messages.CREDITS_LIMIT:
            raise InputError(f"{credits} credits: 1 to {messages.CREDITS_LIMIT} are possible")
        self.flow = flow
        self.duplicates = 0
        """Messages that came a second time, and were dropped."""
        self.sender = ""
        """Which process the sender is; random, and empty until it has answered."""
        self._credits = credits
        self._receiver = uuid.uuid4().hex
        self._attributes = dict(attributes or {})
        self._reconnect_timeout_s = reconnect_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._connect_deadline = Deadline(connect_timeout_s)
        self._description: Mapping[str, Any] | None = None
        self._early: dict[int, memoryview] = {}
        self._notices: dict[int, tuple[int, Notice]] = {}
        self._next_sequence = 0
        self._next_notice = 0
        self._acknowledged = 0
        self._acknowledgement_sent = (0, 0, credits, False)
        self._interrupted_at_s: float | None = None
        self._placed = self._started = False
        self._refusal: messages.Refuse | None = None
        self._end: messages.End | None = None
        self._farewell: str | None = None
        self._farewell_deadline = Deadline(0)
        self._turn = 0
        self._closed = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connections: list[IncomingConnection] = []
        try:
            for index, address in enumerate(addresses):
                dealer = make_dealer(
                    self._context, address, heartbeat_s=heartbeat_s, silence_limit_s=silence_limit_s, key=key
                )
                self._connections.append(IncomingConnection(address, index, dealer))
        except BaseException:
            self._close_sockets(linger_s=0)
            raise
        for connection in self._connections:
            self._join(connection)

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
            if self._started:
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
            The sender is not there, refused, left before the end, or was lost and has not come back in time;
            what had come before is returned first.
        FlowUnknown
            Who answers there after a loss is not the same sender.
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

    def grant(self, credits: int) -> None:
        """Let so many messages be on their way or here, and not acknowledged, if that is more than before.

        For a receiver that learns only from the sender how large they are, see `credits_for`.
        """
        self._credits = max(self._credits, min(credits, messages.CREDITS_LIMIT))
        self._send_acknowledgement()

    def serve(self) -> None:
        """Read and answer what has come, and take nothing: for who is busy with something else for long.

        Raises
        ------
        ProtocolError
            The sender sent what cannot be understood.
        """
        self._read_all()
        self._send_acknowledgement()

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
            if reachable and not self._refusal:
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
            was_lost, came_back = connection.read_monitor()
            self._drain(connection)
            if was_lost:
                self._note_loss(connection)
            if came_back or time.monotonic() > connection.ask_again_at_s:
                self._join(connection)

    def _drain(self, connection: IncomingConnection) -> None:
        while True:
            try:
                header, *payload = connection.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if len(payload) > 1:
                raise ProtocolError(f"{self._name}: a message of {len(payload) + 1} parts")
            content = payload[0].buffer if payload else memoryview(b"")
            try:
                self._take(connection, messages.parse(header.buffer), content)
            except ProtocolError as error:
                raise ProtocolError(f"{self._name}: {error}") from error

    def _take(self, connection: IncomingConnection, header: messages.Header, payload: memoryview) -> None:
        match header:
            case messages.Data():
                connection.received += 1
                self._take_message(header.sequence, payload)
            case messages.Notice():
                connection.received += 1
                if header.notice >= self._next_notice + messages.NOTICES_LIMIT:
                    raise ProtocolError(f"notice {header.notice} came before notice {self._next_notice}")
                if header.notice >= self._next_notice:
                    notice = Notice(header.message, bytes(payload))
                    self._notices[header.notice] = (header.before_sequence, notice)
            case messages.End():
                connection.received += 1
                self._end = header
            case messages.Welcome():
                if header.protocol != messages.PROTOCOL:
                    raise ProtocolError(f"the sender speaks version {header.protocol} of the protocol")
                self._take_welcome(connection, header)
            case messages.Refuse():
                self._refusal = header
                if header.cause == messages.TAKEN and not self._started:
                    connection.ask_again_at_s = time.monotonic() + _ASK_AGAIN_S
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

    def _join(self, connection: IncomingConnection) -> None:
        connection.ask_again_at_s = float("inf")
        join = messages.Join(
            protocol=messages.PROTOCOL,
            flow=self.flow,
            receiver=self._receiver,
            connection=connection.index,
            connections=len(self._connections),
            credits=self._credits,
            next_sequence=self._next_sequence if self._started else 0,
            next_notice=self._next_notice if self._started else 0,
            arrived=connection.received,
            attributes=self._attributes,
        )
        connection.socket.send(messages.encode(join))

    def _take_welcome(self, connection: IncomingConnection, welcome: messages.Welcome) -> None:
        connection.welcome = True
        self._refusal = None
        self._description = welcome.description
        self.sender = welcome.sender
        if not self._placed:
            # 0, or where a receiver of the same name had got to; the first welcome comes before everything
            self._placed = True
            self._next_sequence = self._acknowledged = welcome.next_sequence
            self._next_notice = welcome.next_notice
            self._acknowledgement_sent = (self._acknowledged, self._next_notice, self._credits, False)
        if all(other.welcome for other in self._connections):
            self._started = True
        if self._interrupted_at_s is not None:
            away_s, self._interrupted_at_s = time.monotonic() - self._interrupted_at_s, None
            logger.warning(
                "flow %r: %s is back after %.1f s, going on with message %d",
                *(self.flow, connection.address, away_s, self._next_sequence),
            )
        if self._started:
            # what was said last may have been lost
            self._acknowledgement_sent = (-1, -1, 0, False)
            self._send_acknowledgement()

    def _note_loss(self, connection: IncomingConnection) -> None:
        self._acknowledgement_sent = (-1, -1, 0, False)
        if not self._started or self._farewell is not None or self._is_complete():
            return
        if any(other.welcome for other in self._connections):
            logger.info("flow %r: a connection to %s was lost", self.flow, connection.address)
        elif self._interrupted_at_s is None:
            self._interrupted_at_s = time.monotonic()
            logger.warning(
                "flow %r: the connection to %s was lost after %d messages; it has %g s to come back",
                *(self.flow, connection.address, self._next_sequence, self._reconnect_timeout_s),
            )

    @property
    def _name(self) -> str:
        return f"flow {self.flow!r} from {', '.join(c.address for c in self._connections)}"

    def _no_answer(self, timeout_s: float | None) -> ConnectionFailed:
        silent, monitor = next((c.address, c.monitor) for c in self._connections if not c.welcome)
        if monitor.keys_differ:
            return ConnectionFailed(
                f"flow {self.flow!r}: who answers at {silent} has another link key, or one of the two has "
                "none; give both the same --link-key"
            )
        limit_s = self._connect_timeout_s if timeout_s is None else timeout_s
        return ConnectionFailed(
            f"flow {self.flow!r}: nobody has answered at {silent} for {limit_s:g} s; "
            f"is the sender running, and is this its address?"
        )

    def _check(self) -> None:
        """Raise if what is missing will not come any more."""
        if self._is_complete():
            return
        if self._refusal is not None:
            self._check_refusal(self._refusal)
        if self._farewell is not None and (
            # it says so on every connection: what it had sent before on the others may be on its way
            all(connection.farewell or connection.lost for connection in self._connections)
            or self._farewell_deadline.is_over
        ):
            raise ConnectionFailed(f"{self._name}: the sender has left: {self._farewell}")
        if (
            self._interrupted_at_s is not None
            and self._farewell is None
            and time.monotonic() - self._interrupted_at_s >= self._reconnect_timeout_s
        ):
            raise ConnectionFailed(
                f"flow {self.flow!r}: the connection to {self._connections[0].address} was lost after "
                f"{self._next_sequence} messages, and has not come back for {self._reconnect_timeout_s:g} s; "
                f"did the sender end?"
            )
        if self._connect_deadline.is_over and not self._started:
            raise self._no_answer(None)

    def _check_refusal(self, refusal: messages.Refuse) -> None:
        reason = f"{self._name}: the sender refuses: {refusal.reason}"
        if refusal.cause == messages.UNKNOWN:
            raise FlowUnknown(reason)
        if refusal.cause != messages.TAKEN or self._started or self._connect_deadline.is_over:
            raise ConnectionFailed(reason)

    def _wait(self, deadline: Deadline) -> None:
        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        poller.poll(int(min(deadline.remaining_s, _POLL_STEP_S) * 1000) + 1)

    def _send_acknowledgement(self) -> None:
        state = (self._acknowledged, self._next_notice, self._credits, self._is_complete())
        there = [connection for connection in self._connections if connection.welcome]
        if state == self._acknowledgement_sent or not there:
            return
        self._acknowledgement_sent = state
        header = messages.Acknowledge(
            next_sequence=self._acknowledged,
            next_notice=self._next_notice,
            received=tuple(connection.received for connection in self._connections),
            credits=self._credits,
            ended=self._is_complete(),
        )
        self._turn += 1
        there[self._turn % len(there)].socket.send(messages.encode(header))

    def _close_sockets(self, *, linger_s: float) -> None:
        for connection in self._connections:
            connection.close(linger_s)
        self._context.term()
