"""The sending end of flows: binds one address, serves any number of receivers, sends only against credits.

Each receiver says how many messages may be on their way to it and not acknowledged. So neither end's memory
grows, many messages are in flight per round trip, and a receiver that stops acknowledging stops its sender.
Messages that are not acknowledged are kept. A flow is bound to its connections: when one is lost, so is the
flow.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import zmq

from ministream.errors import ConnectionFailed, ProtocolError
from ministream.transport.flow import Acknowledged, Deadline, FlowEvent, Joined, Left
from ministream.transport.sockets import ConnectionMonitor, bound_address, make_router
from ministream.wire import messages
from ministream.wire.timage import Buffer

logger = logging.getLogger(__name__)

_POLL_STEP_S = 0.5
# after a connection has gone, ZeroMQ needs a moment until sending to it fails
_PROBE_INTERVAL_S = 0.05
_PROBE_PERIOD_S = 2.0


@dataclass(slots=True)
class _Connection:
    identity: bytes
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class _Flow:
    """The sender's state of one flow."""

    name: str
    receiver: str
    size: int
    credits: int
    attributes: Mapping[str, Any]
    connections: dict[int, _Connection] = field(default_factory=dict)
    kept: deque[Buffer] = field(default_factory=deque)
    next_sequence: int = 0
    acknowledged: int = 0
    next_notice: int = 0
    notices_acknowledged: int = 0
    finished: bool = False

    @property
    def complete(self) -> bool:
        return len(self.connections) == self.size

    @property
    def has_credit(self) -> bool:
        return self.complete and self.next_sequence < self.acknowledged + self.credits

    def fastest(self) -> _Connection:
        """Return the connection with the fewest messages on their way; ties go in turn."""
        return min(
            self.connections.values(),
            key=lambda connection: (connection.sent - connection.received, connection.sent),
        )


class Outlet:
    """Sends messages to any number of flows, each at its own pace, from one thread.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` to listen at; port 0 takes a free one.
    description : mapping
        What every receiver is told when it joins; JSON.
    heartbeat_s, silence_limit_s : float
        How often an idle connection is tried, and after how much silence it is lost.

    Attributes
    ----------
    address : str
        Where it listens, with the real port.
    socket : zmq.Socket
        The ROUTER, for polling together with other sockets; use nothing else of it.

    Raises
    ------
    InputError
        The address is not of that form.
    PortInUse, ConnectionFailed
        It cannot be bound.
    """

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:0",
        *,
        description: Mapping[str, Any],
        heartbeat_s: float = 1.0,
        silence_limit_s: float = 10.0,
    ) -> None:
        self.description = dict(description)
        self._flows: dict[str, _Flow] = {}
        self._flow_of: dict[bytes, str] = {}
        self._events: list[FlowEvent] = []
        self._probe_until_s = 0.0
        self._probed_at_s = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self.socket = make_router(
                self._context, address, heartbeat_s=heartbeat_s, silence_limit_s=silence_limit_s
            )
        except BaseException:
            self._context.term()
            raise
        self._monitor = ConnectionMonitor(self.socket)
        self.address = bound_address(self.socket)

    def __enter__(self) -> Outlet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ the application's side

    @property
    def flows(self) -> tuple[str, ...]:
        """Names of the flows that have joined and not left."""
        return tuple(flow.name for flow in self._flows.values() if flow.complete)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What `ministream.transport.wait_any` waits for."""
        return [self.socket, self._monitor.socket]

    @property
    def pending(self) -> bool:
        """`poll` has events to return without waiting."""
        return bool(self._events)

    def poll(self, timeout_s: float) -> list[FlowEvent]:
        """Serve the receivers, and return what has happened, in order; empty when the time is over.

        Call it at least once a second, whether or not there is something to send.
        """
        deadline = Deadline(timeout_s)
        while True:
            self._read_all()
            self._probe()
            if self._events or deadline.is_over:
                events, self._events = self._events, []
                return events
            poller = zmq.Poller()
            for socket in self.sockets:
                poller.register(socket, zmq.POLLIN)
            step_s = _PROBE_INTERVAL_S if time.monotonic() < self._probe_until_s else _POLL_STEP_S
            poller.poll(int(min(deadline.remaining_s, step_s) * 1000) + 1)

    def can_send(self, flow: str) -> bool:
        """Whether `send` would take a message for `flow` now; False also when it is gone."""
        found = self._flows.get(flow)
        return found is not None and found.has_credit and not found.finished

    def send(self, flow: str, payload: Buffer) -> int:
        """Send one message and return its sequence number in the flow: 0, 1, 2, ...

        The payload is kept until it is acknowledged, and must not be changed until then.

        Raises
        ------
        ConnectionFailed
            The flow is gone or finished, or has no credit; ask `can_send` first.
        """
        found = self._open(flow)
        if not found.has_credit:
            raise ConnectionFailed(
                f"flow {flow!r} has no credit: {self.outstanding(flow)} messages wait for acknowledgement"
            )
        connection = found.fastest()
        sequence = found.next_sequence
        self._send_or_lose(found, connection, messages.Data(sequence=sequence), payload)
        connection.sent += 1
        found.kept.append(payload)
        found.next_sequence += 1
        return sequence

    def notify(self, flow: str, message: Mapping[str, Any], payload: bytes = b"") -> None:
        """Send a small message beside the stream; it is delivered before whatever is sent later.

        It needs no credit; there is a limit of 1024 that are not delivered.

        Raises
        ------
        ConnectionFailed
            The flow is gone or finished, or takes no notices any more.
        """
        found = self._open(flow)
        if found.next_notice - found.notices_acknowledged >= messages.NOTICES_LIMIT:
            raise ConnectionFailed(f"flow {flow!r} has not taken {messages.NOTICES_LIMIT} notices")
        header = messages.Notice(
            notice=found.next_notice, before_sequence=found.next_sequence, message=dict(message)
        )
        self._send_or_lose(found, found.fastest(), header, payload)
        found.next_notice += 1

    def finish(self, flow: str) -> None:
        """End the stream of `flow` after what has been sent; its receiver still acknowledges, and leaves.

        Raises
        ------
        ConnectionFailed
            The flow is gone, or finished already.
        """
        found = self._open(flow)
        end = messages.End(next_sequence=found.next_sequence, next_notice=found.next_notice)
        self._send_or_lose(found, found.fastest(), end)
        found.finished = True

    def dismiss(self, flow: str, reason: str) -> None:
        """Refuse a flow that has joined: its receiver is told why, and it is forgotten without an event."""
        found = self._flows.get(flow)
        if found is None:
            return
        for connection in found.connections.values():
            self._refuse(connection.identity, reason)
            self._flow_of.pop(connection.identity, None)
        del self._flows[flow]

    def outstanding(self, flow: str) -> int:
        """Return how many messages of `flow` were sent and are not acknowledged; 0 when it is gone."""
        found = self._flows.get(flow)
        return 0 if found is None else found.next_sequence - found.acknowledged

    def close(self) -> None:
        """Tell the receivers of unfinished flows, and close. Idempotent; waits two seconds at most."""
        if self.socket.closed:
            return
        for flow in list(self._flows.values()):
            if not flow.finished:
                leave = messages.Leave(
                    next_sequence=flow.next_sequence, reason="it was closed before its end"
                )
                for connection in flow.connections.values():
                    self._send(connection.identity, leave)
        self._monitor.close()
        self.socket.close()
        self._context.term()

    # ------------------------------------------------------------------ receivers' messages

    def _read_all(self) -> None:
        if False in list(self._monitor.events()):
            self._probe_until_s = time.monotonic() + _PROBE_PERIOD_S
        self._read_messages()

    def _read_messages(self) -> None:
        while True:
            try:
                identity, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(identity, messages.parse(b"".join(parts)))
            except ProtocolError as error:
                self._reject(identity, str(error))

    def _take(self, identity: bytes, header: messages.Header) -> None:
        if isinstance(header, messages.Join):
            self._join(identity, header)
            return
        flow = self._flows.get(self._flow_of.get(identity, ""))
        if flow is None:
            # the last words of a flow that is gone
            logger.debug("%s: %s from no flow", self.address, type(header).__name__)
        elif isinstance(header, messages.Acknowledge):
            self._acknowledge(flow, header)
        elif isinstance(header, messages.Leave):
            self._advance(flow, header.next_sequence)
            self._drop(flow, header.reason, lost=False)
        else:
            raise ProtocolError(f"a receiver does not send {type(header).__name__}")

    def _join(self, identity: bytes, join: messages.Join) -> None:
        if join.protocol != messages.PROTOCOL:
            self._refuse(
                identity, f"it speaks version {messages.PROTOCOL} of the protocol, not {join.protocol}"
            )
            return
        flow = self._flows.get(join.flow)
        if flow is None:
            if join.next_sequence != 0:
                self._refuse(identity, f"it does not know flow {join.flow!r}, so cannot resume it")
                return
            flow = _Flow(join.flow, join.receiver, join.connections, join.credits, join.attributes)
            self._flows[join.flow] = flow
        elif flow.receiver != join.receiver:
            self._refuse(identity, f"flow {join.flow!r} has a receiver already; give this one another name")
            return
        elif join.connection in flow.connections or join.connections != flow.size:
            raise ProtocolError(f"flow {join.flow!r} joins twice as connection {join.connection}")
        self._flow_of[identity] = join.flow
        flow.connections[join.connection] = _Connection(identity)
        welcome = messages.Welcome(protocol=messages.PROTOCOL, description=self.description)
        if not self._send(identity, welcome):
            self._drop(flow, "it was gone before it was welcome", lost=True)
        elif flow.complete:
            logger.info("%s: flow %s joined with %d connections", self.address, flow.name, flow.size)
            self._events.append(Joined(flow.name, flow.attributes))

    def _acknowledge(self, flow: _Flow, header: messages.Acknowledge) -> None:
        if header.next_notice > flow.next_notice or len(header.received) != flow.size:
            raise ProtocolError(f"flow {flow.name!r} acknowledges what was not sent")
        # acknowledgements travel on all connections and may overtake each other
        flow.notices_acknowledged = max(flow.notices_acknowledged, header.next_notice)
        for index, received in enumerate(header.received):
            connection = flow.connections.get(index)
            if connection is not None:
                connection.received = max(connection.received, min(received, connection.sent))
        self._advance(flow, header.next_sequence)

    def _advance(self, flow: _Flow, next_sequence: int) -> None:
        if next_sequence > flow.next_sequence:
            raise ProtocolError(
                f"flow {flow.name!r} acknowledges message {next_sequence - 1} of {flow.next_sequence}"
            )
        if next_sequence > flow.acknowledged:
            for _ in range(next_sequence - flow.acknowledged):
                flow.kept.popleft()
            flow.acknowledged = next_sequence
            self._events.append(Acknowledged(flow.name, next_sequence - 1))

    def _reject(self, identity: bytes, reason: str) -> None:
        """Do without a peer that does not keep to the protocol."""
        logger.warning("%s: a peer is refused: %s", self.address, reason)
        flow = self._flows.get(self._flow_of.get(identity, ""))
        if flow is not None:
            self._drop(flow, reason, lost=True)
        self._refuse(identity, reason)

    def _refuse(self, identity: bytes, reason: str) -> None:
        self._send(identity, messages.Refuse(reason=reason[:1000]))

    # ------------------------------------------------------------------ connections

    def _open(self, name: str) -> _Flow:
        flow = self._flows.get(name)
        if flow is None or not flow.complete:
            raise ConnectionFailed(f"flow {name!r} is not there (any more)")
        if flow.finished:
            raise ConnectionFailed(f"flow {name!r} is finished")
        return flow

    def _send_or_lose(
        self, flow: _Flow, connection: _Connection, header: messages.Header, payload: Buffer | None = None
    ) -> None:
        if not self._send(connection.identity, header, payload):
            self._lose(flow)
            raise ConnectionFailed(f"flow {flow.name!r}: the connection to its receiver was lost")

    def _send(self, identity: bytes, header: messages.Header, payload: Buffer | None = None) -> bool:
        """Send to one connection; return whether it is still there."""
        parts: list[Any] = [identity, messages.encode(header)]
        if payload is not None:
            parts.append(payload)
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise ConnectionFailed(f"cannot send from {self.address}: {error.strerror}") from error
            return False
        return True

    def _probe(self) -> None:
        """Find out which connections are gone, for a while after one was."""
        now_s = time.monotonic()
        if now_s > self._probe_until_s or now_s < self._probed_at_s + _PROBE_INTERVAL_S:
            return
        self._probed_at_s = now_s
        probe = messages.Probe()
        for flow in list(self._flows.values()):
            if not all(self._send(connection.identity, probe) for connection in flow.connections.values()):
                self._lose(flow)

    def _lose(self, flow: _Flow) -> None:
        """Give up a flow whose connection has gone, unless its receiver has taken leave before that."""
        # its last words are in the socket by now: ZeroMQ keeps what came before a connection went
        self._read_messages()
        if flow.finished and flow.acknowledged == flow.next_sequence:
            # it has everything, knows that this was all, and has said so: only its farewell is missing
            self._drop(flow, "it has gone, with everything acknowledged", lost=False)
        else:
            self._drop(flow, "the connection was lost", lost=True)

    def _drop(self, flow: _Flow, reason: str, *, lost: bool) -> None:
        if self._flows.get(flow.name) is not flow:
            return
        del self._flows[flow.name]
        leave = messages.Leave(next_sequence=flow.next_sequence, reason="another connection was lost")
        for connection in flow.connections.values():
            self._flow_of.pop(connection.identity, None)
            if lost:
                self._send(connection.identity, leave)
        logger.info("%s: flow %s left: %s", self.address, flow.name, reason)
        if flow.complete:
            waiting = flow.next_sequence - flow.acknowledged
            self._events.append(Left(flow.name, reason, lost, waiting))
