"""The far end of a probe: it listens where the producer's application will, and does what the near end asks.

Each connection has a thread. A stranger gets no answer: the connection is closed and a `FarEvent` says so.

The near end opens connections anew for each thing that it measures, as idle ones would have a share of a
session's rate; its last ones say QUIT. If none is open for a while and QUIT has not come, it has broken off.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue

from scistream.client.probe.protocol import (
    FAR_GREETING,
    GREETING_TIMEOUT_S,
    MAX_ECHO_BYTES,
    MAX_SECONDS,
    NEAR_GREETING,
    Frame,
    Kind,
    NotAProbe,
    expect_greeting,
    prepare,
    receive_frame,
    receive_payload,
    send_bytes,
    take_bytes,
    throw_away_when_closed,
)
from scistream.core.endpoint import Endpoint

# Below the usual limit of 1024 descriptors.
_MAX_CONNECTIONS = 512
# How much longer than asked for bytes are sent and taken: the near end ends it, unless it has vanished.
_GRACE_S = 5.0
# How long a near end may say nothing in a conversation.
_IDLE_TIMEOUT_S = 60.0
# How long it may have no connection before it says QUIT.
_PATIENCE_S = 5.0


class FarEventKind(StrEnum):
    """What has happened at a far end."""

    PROBED = "probed"
    BROKEN_OFF = "broken_off"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class FarEvent:
    """Something that whoever runs a far end wants to know.

    Parameters
    ----------
    peer : str
        Address of the other end, which is most often the gateway.
    to_peer_gbps, from_peer_gbps : float or None
        What was measured, where a probe has come to its end.
    """

    kind: FarEventKind
    peer: str
    message: str
    to_peer_gbps: float | None = None
    from_peer_gbps: float | None = None


class FarEnd:
    """Answers near ends, one after the other or several at once.

    Parameters
    ----------
    listeners : sequence of socket
        Listening sockets; `serve` closes them.
    notify : callable, optional
        Called by `serve` with every `FarEvent`.
    once : bool
        Whether `serve` returns after the first probe.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        *,
        notify: Callable[[FarEvent], None] | None = None,
        once: bool = False,
    ) -> None:
        self._listeners = listeners
        self._notify = notify or (lambda _: None)
        self._once = once
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, socket.socket] = {}
        self._open = self._conversations = 0
        self._peer: str | None = None  # of the probe that goes on
        self._deadline_s: float | None = None
        self._outcome: FarEvent | None = None
        self._events: SimpleQueue[FarEvent] = SimpleQueue()
        self._stopping = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)

    def serve(self) -> FarEvent | None:
        """Answer near ends until `stop`, or with `once` until a probe has ended.

        Returns
        -------
        FarEvent or None
            With `once`, how the probe ended.
        """
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            for one in (self._wake_in, self._wake_out, *self._listeners):
                stack.enter_context(one)
            stack.callback(self._end_connections)
            selector.register(self._wake_out, selectors.EVENT_READ)
            for listener in self._listeners:
                listener.setblocking(False)
                selector.register(listener, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(self._left_s())]
                if self._wake_out in ready:
                    self._wake_out.recv(4096)
                for listener in self._listeners:
                    if listener in ready:
                        self._accept(listener)
                self._give_up()
                while not self._events.empty():
                    event = self._events.get()
                    self._notify(event)
                    if self._once and event.kind is not FarEventKind.REFUSED:
                        return event
                if self._stopping:
                    return None

    def stop(self) -> None:
        """Let `serve` end its connections and return; from any thread. Idempotent."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has been woken enough, or has returned
            self._wake_in.send(b"\0")

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, address = listener.accept()
        except (ConnectionError, BlockingIOError):  # who connected has gone again
            return
        peer = str(Endpoint(*address[:2]))
        thread = threading.Thread(
            target=self._answer, args=(connection, peer), name=f"probe-{peer}", daemon=True
        )
        with self._lock:
            full = len(self._threads) >= _MAX_CONNECTIONS
            if not full:
                thread.start()
                self._threads[thread] = connection
        if full:
            self._tell(FarEvent(FarEventKind.REFUSED, peer, f"{_MAX_CONNECTIONS} connections are open"))
            connection.close()

    def _end_connections(self) -> None:
        with self._lock:
            left = dict(self._threads)
        for connection in left.values():
            with contextlib.suppress(OSError):  # it has just ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        for thread in left:
            thread.join()

    def _answer(self, connection: socket.socket, peer: str) -> None:
        try:
            with connection:
                prepare(connection)
                if self._is_near_end(connection, peer):
                    self._obey(connection, peer)
        finally:
            with self._lock:
                self._threads.pop(threading.current_thread(), None)

    def _is_near_end(self, connection: socket.socket, peer: str) -> bool:
        try:
            # False: somebody has looked whether anything listens here
            return expect_greeting(connection, NEAR_GREETING, time.monotonic() + GREETING_TIMEOUT_S)
        except (NotAProbe, OSError) as error:
            self._tell(FarEvent(FarEventKind.REFUSED, peer, f"this is no near end: {error}"))
            return False

    def _obey(self, connection: socket.socket, peer: str) -> None:
        with self._lock:
            self._open += 1
            self._conversations += 1
            self._peer, self._deadline_s = peer, None
        try:
            order = self._converse(connection, peer)
            if order is not None:
                _carry(connection, order)
        finally:
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._deadline_s = time.monotonic() + _PATIENCE_S
            self._wake()

    def _converse(self, connection: socket.socket, peer: str) -> Frame | None:
        """Answer what comes; return the order that makes of the conversation a stream of bytes."""
        outcome = None
        try:
            last = _last_message(connection)
            if last.kind is not Kind.QUIT:
                return last
            outcome = _probed(peer, last)
        except NotAProbe as error:
            outcome = FarEvent(FarEventKind.BROKEN_OFF, peer, str(error))
        except OSError:  # the near end goes on with other connections, or has gone
            pass
        finally:
            with self._lock:
                self._conversations -= 1
                self._outcome = outcome or self._outcome
                over = self._conversations == 0 and self._outcome is not None
            if over:
                self._end_probe()
        return None

    def _left_s(self) -> float | None:
        """Return how long the near end may still have no connection."""
        with self._lock:
            if self._peer is None or self._deadline_s is None:
                return None
            return max(0.0, self._deadline_s - time.monotonic())

    def _give_up(self) -> None:
        with self._lock:
            if self._peer is None or self._deadline_s is None or time.monotonic() < self._deadline_s:
                return
            message = f"the near end broke off: no connection for {_PATIENCE_S:g} s"
            self._outcome = FarEvent(FarEventKind.BROKEN_OFF, self._peer, message)
        self._end_probe()

    def _end_probe(self) -> None:
        with self._lock:
            ended, self._outcome, self._peer = self._outcome, None, None
        if ended is not None:
            self._tell(ended)

    def _tell(self, event: FarEvent) -> None:
        self._events.put(event)
        self._wake()


def _last_message(connection: socket.socket) -> Frame:
    """Greet, answer pings and echo messages; return the message that ends the conversation."""
    connection.settimeout(_IDLE_TIMEOUT_S)
    connection.sendall(FAR_GREETING)
    while True:
        frame = receive_frame(connection)
        if frame.kind is Kind.PING:
            Frame(Kind.PONG, frame.first).send(connection)
        elif frame.kind is Kind.ECHO and frame.first <= MAX_ECHO_BYTES:
            frame.send(connection, receive_payload(connection, frame.first))
        elif frame.kind is Kind.QUIT:
            frame.send(connection)
            return frame
        elif frame.kind in {Kind.SEND, Kind.TAKE} and frame.first <= MAX_SECONDS * 1000:
            return frame
        else:
            raise NotAProbe(f"a near end does not say {frame.kind.name} {frame.first}")


def _carry(connection: socket.socket, order: Frame) -> None:
    """Send or take bytes until the near end cuts the connection: that is how it ends."""
    throw_away_when_closed(connection)
    connection.settimeout(_GRACE_S)
    deadline_s = time.monotonic() + order.first / 1000 + _GRACE_S
    with contextlib.suppress(OSError):
        if order.kind is Kind.SEND:
            send_bytes(connection, deadline_s)
        else:
            take_bytes(
                connection,
                deadline_s,
                lambda total, time_ns: Frame(Kind.TOOK, total, time_ns).send(connection),
            )


def _probed(peer: str, quit_frame: Frame) -> FarEvent:
    to_peer_gbps, from_peer_gbps = quit_frame.first / 1e9, quit_frame.second / 1e9
    return FarEvent(
        FarEventKind.PROBED,
        peer,
        f"{to_peer_gbps:.3g} Gb/s from here, {from_peer_gbps:.3g} Gb/s to here",
        to_peer_gbps,
        from_peer_gbps,
    )
