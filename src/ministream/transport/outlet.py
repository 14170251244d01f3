"""The sending end of flows: binds one address, serves any number of receivers, sends only against credits.

Each receiver says how many messages may be on their way to it and not acknowledged. So neither end's memory
grows, many messages are in flight per round trip, and a receiver that stops acknowledging stops its sender.

What is not acknowledged is kept (see `ministream.transport.outgoing`), so a flow outlives its connections:
what was on its way on one that is lost is sent again on the others, or when the receiver has dialled again.
A receiver whose last connection is lost has `reconnect_timeout_s` to come back; meanwhile another one may
take its name, and gets everything that was not acknowledged. A receiver that is there never loses its name.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import zmq

from ministream.errors import ConnectionFailed, ProtocolError
from ministream.transport.flow import RECONNECT_TIMEOUT_S, Acknowledged, Deadline, FlowEvent, Joined, Left
from ministream.transport.link_key import Doorkeeper, LinkKey
from ministream.transport.outgoing import Connection, Flow
from ministream.transport.sockets import ConnectionMonitor, bound_address, make_router
from ministream.wire import messages
from ministream.wire.timage import Buffer

logger = logging.getLogger(__name__)

_POLL_STEP_S = 0.5
# after a connection has gone, ZeroMQ needs a moment until sending to it fails
_PROBE_INTERVAL_S = 0.05
_PROBE_PERIOD_S = 2.0


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
    reconnect_timeout_s : float
        How long a receiver whose connections are lost is waited for.
    key : LinkKey or None
        Take only receivers who have it, and encrypt; None for everybody, in the clear.

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
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
        key: LinkKey | None = None,
    ) -> None:
        self._sender = uuid.uuid4().hex
        self._reconnect_timeout_s = reconnect_timeout_s
        self._retransmitted = 0
        self.description = dict(description)
        self._flows: dict[str, Flow] = {}
        self._flow_of: dict[bytes, str] = {}
        self._events: list[FlowEvent] = []
        self._probe_until_s = 0.0
        self._probed_at_s = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._doorkeeper = Doorkeeper(self._context, key)
        try:
            self.socket = make_router(
                self._context, address, heartbeat_s=heartbeat_s, silence_limit_s=silence_limit_s, key=key
            )
        except BaseException:
            self._doorkeeper.close()
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
        """Names of the flows that have joined and not left; some may be interrupted."""
        return tuple(flow.name for flow in self._flows.values() if flow.joined)

    @property
    def retransmitted(self) -> int:
        """How many messages were sent again, because a connection was lost."""
        return self._retransmitted + sum(flow.retransmitted for flow in self._flows.values())

    def is_interrupted(self, flow: str) -> bool:
        """Whether `flow` has lost its connections, and its receiver is waited for."""
        found = self._flows.get(flow)
        return found is not None and found.lost_at_s is not None

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
            self._give_up()
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
                f"flow {flow!r} has no credit: {found.outstanding} messages wait for acknowledgement"
            )
        sequence = found.add_message(payload)
        self._flush(found)
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
        found.add_notice(message, payload)
        self._flush(found)

    def finish(self, flow: str) -> None:
        """End the stream of `flow` after what has been sent; its receiver still acknowledges, and leaves.

        Raises
        ------
        ConnectionFailed
            The flow is gone, or finished already.
        """
        found = self._open(flow)
        found.finish()
        self._flush(found)

    def dismiss(self, flow: str, reason: str) -> None:
        """Refuse a flow that has joined: its receiver is told why, and it is forgotten without an event."""
        found = self._flows.get(flow)
        if found is None:
            return
        for connection in found.connections.values():
            self._refuse(connection.identity, reason)
        self._forget(found)

    def outstanding(self, flow: str) -> int:
        """Return how much of `flow` was sent and is not acknowledged: messages, and the end; 0 when gone."""
        found = self._flows.get(flow)
        return 0 if found is None else found.outstanding + (found.finished and not found.ended)

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
        self._doorkeeper.close()
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
            self._advance(flow, header.next_sequence, flow.notices_acknowledged)
            self._drop(flow, header.reason, lost=False)
        else:
            raise ProtocolError(f"a receiver does not send {type(header).__name__}")

    def _join(self, identity: bytes, join: messages.Join) -> None:
        if join.protocol != messages.PROTOCOL:
            self._refuse(
                identity, f"it speaks version {messages.PROTOCOL} of the protocol, not {join.protocol}"
            )
            return
        flow = self._flow_for(identity, join)
        if flow is None:
            return
        known = flow.connections.get(join.connection)
        if known is not None and known.identity == identity:
            # said twice: the first time was too late for the connection before
            known.confirm(join.arrived)
        else:
            if known is not None:
                # the receiver says again what it had last said there
                known.gone = True
                self._flow_of.pop(known.identity, None)
                flow.lose(known)
            flow.connections[join.connection] = Connection(identity, join.arrived)
            self._flow_of[identity] = join.flow
        self._welcome(flow, flow.connections[join.connection])

    def _flow_for(self, identity: bytes, join: messages.Join) -> Flow | None:
        """Return the flow that `join` belongs to, and take note of what it says; None if it is refused."""
        flow = self._flows.get(join.flow)
        if flow is None:
            if join.next_sequence or join.next_notice or join.arrived:
                reason = f"flow {join.flow!r} is not known here, so it cannot go on"
                self._refuse(identity, reason, messages.UNKNOWN)
                return None
            flow = Flow(join.flow, join.receiver, join.connections, join.credits, join.attributes)
            self._flows[join.flow] = flow
        elif flow.receiver != join.receiver:
            if flow.connections:
                # perhaps they are gone, and nobody has noticed yet: it will ask again
                self._probe_until_s = time.monotonic() + _PROBE_PERIOD_S
                reason = f"flow {join.flow!r} has a receiver already; give this one another name"
                self._refuse(identity, reason, messages.TAKEN)
                return None
            logger.warning("%s: flow %s: another receiver takes its place", self.address, flow.name)
            flow.hand_over(join)
        elif join.connections != flow.size:
            raise ProtocolError(f"flow {join.flow!r} has {flow.size} connections, not {join.connections}")
        elif join.next_sequence > flow.next_sequence or join.next_notice > flow.next_notice:
            raise ProtocolError(f"flow {join.flow!r} goes on after what was not sent")
        else:
            flow.note_arrived(join.next_sequence, join.next_notice)
        return flow

    def _welcome(self, flow: Flow, connection: Connection) -> None:
        welcome = messages.Welcome(
            protocol=messages.PROTOCOL,
            sender=self._sender,
            next_sequence=flow.acknowledged,
            next_notice=flow.notices_acknowledged,
            description=self.description,
        )
        if not self._send(connection.identity, welcome):
            self._lose(flow, connection)
            return
        if flow.lost_at_s is not None:
            away_s, flow.lost_at_s = time.monotonic() - flow.lost_at_s, None
            logger.warning("%s: flow %s is back after %.1f s", self.address, flow.name, away_s)
        if not flow.joined and flow.complete:
            flow.joined = True
            logger.info("%s: flow %s joined with %d connections", self.address, flow.name, flow.size)
            self._events.append(Joined(flow.name, flow.attributes))
        self._flush(flow)

    def _acknowledge(self, flow: Flow, header: messages.Acknowledge) -> None:
        if header.next_notice > flow.next_notice or len(header.received) != flow.size:
            raise ProtocolError(f"flow {flow.name!r} acknowledges what was not sent")
        # acknowledgements travel on all connections and may overtake each other
        for index, received in enumerate(header.received):
            connection = flow.connections.get(index)
            if connection is not None:
                connection.confirm(received)
        more = header.credits > flow.credits
        flow.credits = max(flow.credits, header.credits)
        self._advance(flow, header.next_sequence, header.next_notice)
        if more:
            self._flush(flow)
        flow.ended = flow.ended or (header.ended and flow.finished and not flow.outstanding)

    def _advance(self, flow: Flow, next_sequence: int, next_notice: int) -> None:
        if next_sequence > flow.next_sequence:
            raise ProtocolError(
                f"flow {flow.name!r} acknowledges message {next_sequence - 1} of {flow.next_sequence}"
            )
        if flow.acknowledge(next_sequence, next_notice):
            self._events.append(Acknowledged(flow.name, next_sequence - 1))
            self._flush(flow)

    def _reject(self, identity: bytes, reason: str) -> None:
        """Do without a peer that does not keep to the protocol."""
        logger.warning("%s: a peer is refused: %s", self.address, reason)
        flow = self._flows.get(self._flow_of.get(identity, ""))
        if flow is not None:
            self._drop(flow, reason, lost=True)
        self._refuse(identity, reason)

    def _refuse(self, identity: bytes, reason: str, cause: str = "") -> None:
        self._send(identity, messages.Refuse(reason=reason[:1000], cause=cause))

    # ------------------------------------------------------------------ connections

    def _open(self, name: str) -> Flow:
        flow = self._flows.get(name)
        if flow is None or not flow.joined:
            raise ConnectionFailed(f"flow {name!r} is not there (any more)")
        if flow.finished:
            raise ConnectionFailed(f"flow {name!r} is finished")
        return flow

    def _flush(self, flow: Flow) -> None:
        """Send what waits, as far as there are connections and credits."""
        while flow.joined and (connection := flow.fastest()) and (item := flow.next_item()):
            if self._send(connection.identity, *flow.content(item)):
                flow.note_sent(item, connection)
            else:
                self._lose(flow, connection)

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
            for connection in list(flow.connections.values()):
                if not self._send(connection.identity, probe):
                    self._lose(flow, connection)

    def _lose(self, flow: Flow, connection: Connection) -> None:
        """Do without a connection that has gone; its flow is interrupted if it was the last."""
        if connection.gone:
            return
        connection.gone = True
        # its last words are in the socket by now: ZeroMQ keeps what came before a connection went
        self._read_messages()
        self._flow_of.pop(connection.identity, None)
        flow.lose(connection)
        if self._flows.get(flow.name) is not flow:
            return
        if flow.ended:
            # it has everything, knows that this was all, and has said so: only its farewell is missing
            self._drop(flow, "it has gone, with everything acknowledged", lost=False)
        elif not flow.joined:
            if not flow.connections:
                self._forget(flow)
        elif flow.connections:
            logger.info("%s: flow %s has lost a connection", self.address, flow.name)
            self._flush(flow)
        elif flow.lost_at_s is None:
            flow.lost_at_s = time.monotonic()
            logger.warning(
                "%s: flow %s is interrupted, its connections were lost; it has %g s to come back",
                *(self.address, flow.name, self._reconnect_timeout_s),
            )

    def _give_up(self) -> None:
        """Drop the flows that have been interrupted for too long."""
        now_s = time.monotonic()
        for flow in list(self._flows.values()):
            if flow.lost_at_s is not None and now_s - flow.lost_at_s >= self._reconnect_timeout_s:
                lost = not flow.finished or flow.outstanding > 0
                self._drop(flow, "the connection was lost", lost=lost)

    def _drop(self, flow: Flow, reason: str, *, lost: bool) -> None:
        if self._flows.get(flow.name) is not flow:
            return
        if lost:
            leave = messages.Leave(next_sequence=flow.next_sequence, reason=reason[:1000])
            for connection in flow.connections.values():
                self._send(connection.identity, leave)
        self._forget(flow)
        logger.info("%s: flow %s left: %s", self.address, flow.name, reason)
        if flow.joined:
            self._events.append(Left(flow.name, reason, lost, flow.outstanding))

    def _forget(self, flow: Flow) -> None:
        for connection in flow.connections.values():
            self._flow_of.pop(connection.identity, None)
        self._retransmitted += flow.retransmitted
        del self._flows[flow.name]
