"""Far ends of probes in threads of the test's process, and applications that are none."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scistream.client.probe import FarEnd, FarEvent
from scistream.core.endpoint import Endpoint

TIMEOUT_S = 30


@dataclass
class RunningFarEnd:
    """A far end that serves in a thread."""

    listeners: list[Endpoint]
    far_end: FarEnd
    events: list[FarEvent]
    returned: list[FarEvent | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> None:
        self.returned.append(self.far_end.serve())
        self.ended.set()

    def result(self) -> FarEvent | None:
        """What `serve` returned, once it has."""
        assert self.ended.wait(TIMEOUT_S)
        return self.returned[0]


@contextlib.contextmanager
def serving(*, once: bool = False, listeners: int = 1) -> Iterator[RunningFarEnd]:
    """Serve a far end; afterwards none of its threads may be left."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(listeners)]
    endpoints = [Endpoint(*one.getsockname()) for one in sockets]
    events: list[FarEvent] = []
    running = RunningFarEnd(endpoints, FarEnd(sockets, notify=events.append, once=once), events)
    thread = threading.Thread(target=running.serve)
    thread.start()
    try:
        yield running
    finally:
        running.far_end.stop()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert not [one.name for one in threading.enumerate() if one.name.startswith("probe-")]


@contextlib.contextmanager
def application(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """An application that treats its connections, one after the other, as `answer` does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT_S)
            with connection, contextlib.suppress(ConnectionError):
                answer(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Endpoint(*listener.getsockname())
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def read_to_end(connection: socket.socket) -> bytes:
    """All that still comes, until the other side closes or resets the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received
