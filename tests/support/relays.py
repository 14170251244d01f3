"""Two data servers in a row, as between two facilities, with a test at both ends of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import psutil

from scistream.auth.certificates import make_session_certificate
from scistream.core.endpoint import Endpoint
from scistream.dataserver import (
    ChannelStatistics,
    DataServer,
    DataServerBackend,
    DataServerSpec,
    Reverse,
    TlsCredentials,
    TlsLeg,
)

T = TypeVar("T")
TIMEOUT_S = 20.0
LOCALHOST = "127.0.0.1"


class LoopThread:
    """An event loop in a thread, for tests that have blocking sockets at the ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = TIMEOUT_S) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT_S)
        self.loop.close()


@dataclass(frozen=True)
class Identity:
    """A session's certificate and key on one side."""

    certificate: bytes
    key: bytes

    @classmethod
    def make(cls, uid: str = "session") -> Identity:
        return cls(*make_session_certificate(uid))


def credentials(leg: TlsLeg, own: Identity, peer: Identity, **more: bool) -> TlsCredentials:
    return TlsCredentials(
        leg=leg,
        certificate_pem=own.certificate,
        private_key_pem=own.key,
        peer_certificate_pem=peer.certificate,
        **more,
    )


def listening(host: str = LOCALHOST) -> socket.socket:
    """A listening socket on a free port, whose accept gives up in time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, 0), family=family, backlog=1024)
    sock.settimeout(TIMEOUT_S)
    return sock


def endpoint(sock: socket.socket) -> Endpoint:
    host, port = sock.getsockname()[:2]
    return Endpoint(host, port)


def free_port() -> int:
    """A port where nobody listens."""
    with socket.create_server((LOCALHOST, 0)) as sock:
        return int(sock.getsockname()[1])


def connect(to: socket.socket | Endpoint) -> socket.socket:
    at = endpoint(to) if isinstance(to, socket.socket) else to
    return socket.create_connection((at.host, at.port), timeout=TIMEOUT_S)


def accept(application: socket.socket) -> socket.socket:
    sock, _ = application.accept()
    sock.settimeout(TIMEOUT_S)
    return sock


def nobody_came(application: socket.socket) -> bool:
    """Whether no connection, not even one that is gone, waits at the application."""
    application.settimeout(0)
    try:
        sock, _ = application.accept()
    except BlockingIOError:
        return True
    finally:
        application.settimeout(TIMEOUT_S)
    sock.close()
    return False


def nothing_is_said(application: socket.socket) -> bool:
    """Whether whoever has come to the application, if anybody has, ends without a word."""
    application.settimeout(0)
    try:
        sock, _ = application.accept()
    except BlockingIOError:
        return True
    finally:
        application.settimeout(TIMEOUT_S)
    with sock:
        sock.settimeout(TIMEOUT_S)
        return receive_until_end(sock) == b""


def receive_all(sock: socket.socket) -> bytes:
    """What comes until the end of the stream."""
    data = bytearray()
    while chunk := sock.recv(1 << 20):
        data += chunk
    return bytes(data)


def receive(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length and (chunk := sock.recv(min(1 << 20, length - len(data)))):
        data += chunk
    return bytes(data)


def receive_until_reset(sock: socket.socket, *, saying: bytes = b"") -> bytes:
    """Say something, and return what comes until the reset; an end of the stream instead is an error."""
    data = bytearray()
    try:
        sock.sendall(saying)
        while chunk := sock.recv(1 << 20):
            data += chunk
    except (ConnectionResetError, BrokenPipeError):
        return bytes(data)
    raise AssertionError(f"the stream ended after {len(data)} bytes as if it were complete")


def receive_until_end(sock: socket.socket, *, saying: bytes = b"") -> bytes:
    """Say something, and return what comes until the stream ends, in whichever way."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(saying)
        while chunk := sock.recv(1 << 20):
            data += chunk
    return bytes(data)


def turned_away(listener: socket.socket | Endpoint, *, saying: bytes = b"", resets: bool = True) -> bool:
    """Whether a connection to `listener` is cut, at once or later, without one byte of an answer.

    With `resets` it must be cut by a reset, as the native data server does.
    """
    try:
        with connect(listener) as sock:
            until_cut = receive_until_reset if resets else receive_until_end
            return until_cut(sock, saying=saying) == b""
    except ConnectionResetError:
        return True


def cut(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fill(
    sock: socket.socket, *, chunk: bytes = bytes(1 << 16), quiet_s: float = 0.4, limit: int = 1 << 28
) -> int:
    """Send `chunk` again and again until the way takes no more for some time; return how many bytes."""
    sent = 0
    sock.settimeout(quiet_s)
    try:
        while sent < limit:
            sent += sock.send(chunk[sent % len(chunk) :])
    except TimeoutError:
        pass
    finally:
        sock.settimeout(TIMEOUT_S)
    return sent


class Background:
    """Something that runs in a thread; its result or error is had by `result`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._outcome = work()
            except BaseException as error:  # noqa: BLE001 - the test's own thread gets it
                self._error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "still running"
        if self._error is not None:
            raise self._error
        return self._outcome


def send_in_background(sock: socket.socket, data: bytes, *, end: bool = True) -> Background:
    def work() -> None:
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)

    return Background(work)


def random_bytes(length: int) -> bytes:
    """Bytes that do not repeat, quickly made."""
    seed = os.urandom(1 << 16)
    data = bytearray()
    while len(data) < length:
        data += hashlib.sha256(seed + len(data).to_bytes(8, "big")).digest() + seed
    return bytes(data[:length])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that nothing announces."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.005)


@dataclass
class Hop:
    """One data server's session."""

    path: Path
    server: DataServer
    listeners: list[socket.socket]

    def statistics(self) -> tuple[ChannelStatistics, ...]:
        return self.path.thread.run(self.server.statistics())

    def carried(self) -> tuple[ChannelStatistics, ...]:
        """What its channels have carried, whatever they have ready."""
        return tuple(replace(channel, connections_ready=0) for channel in self.statistics())

    def retarget(self, targets: Sequence[Endpoint], tls: TlsCredentials | None) -> None:
        dials = tuple(map(endpoint, self.listeners)) if self.path.reverse else ()
        self.path.thread.run(self.server.retarget(targets, tls, dials=dials))

    def stop(self) -> None:
        self.path.thread.run(self.server.stop())


@dataclass
class Path:
    """From the consumer's gateway to the producer's, and to an application there."""

    thread: LoopThread
    backend: DataServerBackend
    encrypted: bool
    resets: bool = True
    """Whether these data servers reset what is cut; others end it, as if it were complete."""
    reads_to_the_end: bool = True
    """Whether all arrives if both directions end at once; others may lose what they have not read by then."""
    producer_identity: Identity = field(default_factory=Identity.make)
    consumer_identity: Identity = field(default_factory=Identity.make)
    peer_omits_close_notify: bool = False
    rate_mbps: float = 0
    reverse: bool = False
    """Whether the producer's side dials. What are its listeners else belong to the consumer's side then."""
    hops: list[Hop] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def producer_tls(self) -> TlsCredentials | None:
        if not self.encrypted:
            return None
        return self._credentials(TlsLeg.LISTENER, self.producer_identity, self.consumer_identity)

    @property
    def consumer_tls(self) -> TlsCredentials | None:
        if not self.encrypted:
            return None
        return self._credentials(TlsLeg.TARGET, self.consumer_identity, self.producer_identity)

    def _credentials(self, leg: TlsLeg, own: Identity, peer: Identity) -> TlsCredentials:
        more = {"peer_omits_close_notify": self.peer_omits_close_notify, "reverse": self.reverse}
        return credentials(leg, own, peer, **more)

    def listening(self, host: str = LOCALHOST) -> socket.socket:
        self.sockets.append(listening(host))
        return self.sockets[-1]

    def hop(
        self,
        targets: Sequence[Endpoint],
        tls: TlsCredentials | None,
        *,
        channels: int = 1,
        host: str = LOCALHOST,
        uid: str = "session",
    ) -> Hop:
        listeners = [self.listening(host) for _ in range(channels)]
        return self.start(listeners, uid=uid, listeners=tuple(listeners), targets=tuple(targets), tls=tls)

    def start(self, accepting: list[socket.socket], **values: Any) -> Hop:
        server = self.backend.create()
        self.thread.run(server.start(DataServerSpec(**values, rate_mbps=self.rate_mbps)))
        self.hops.append(Hop(self, server, accepting))
        return self.hops[-1]

    def producer(
        self,
        targets: Sequence[Endpoint],
        *,
        channels: int = 1,
        host: str = LOCALHOST,
        uid: str = "session",
    ) -> Hop:
        if not self.reverse:
            return self.hop(targets, self.producer_tls, channels=channels, host=host, uid=uid)
        meeting = [self.listening(host) for _ in range(channels)]
        return self.start(
            meeting,
            uid=uid,
            listeners=(),
            targets=tuple(targets),
            tls=self.producer_tls,
            wan_leg=TlsLeg.LISTENER,
            reverse=Reverse(dials=tuple(map(endpoint, meeting))),
        )

    def consumer(
        self,
        targets: Sequence[Endpoint],
        *,
        channels: int = 1,
        host: str = LOCALHOST,
        uid: str = "session",
    ) -> Hop:
        if not self.reverse:
            return self.hop(targets, self.consumer_tls, channels=channels, host=host, uid=uid)
        known = {endpoint(sock): sock for sock in self.sockets if sock.fileno() >= 0}
        listeners = [self.listening(host) for _ in range(channels)]
        return self.start(
            listeners,
            uid=uid,
            listeners=tuple(listeners),
            targets=(),
            tls=self.consumer_tls,
            wan_leg=TlsLeg.TARGET,
            reverse=Reverse(waits_at=tuple(known[target] for target in targets)),
        )

    def both(self, target: Endpoint) -> tuple[Hop, Hop]:
        """Return (consumer's, producer's) hop on the way to `target`."""
        producer = self.producer([target])
        return self.consumer([endpoint(producer.listeners[0])]), producer

    def turned_away(self, listener: socket.socket | Endpoint, *, saying: bytes = b"") -> bool:
        """Whether a connection is cut without one byte of an answer."""
        return turned_away(listener, saying=saying, resets=self.resets)

    def receive_until_cut(self, sock: socket.socket) -> bytes:
        """What comes until the data server cuts a connection."""
        return receive_until_reset(sock) if self.resets else receive_until_end(sock)

    @contextlib.contextmanager
    def joined(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A consumer's socket and the producer's socket, connected through both gateways."""
        application = self.listening()
        consumer, _ = self.both(endpoint(application))
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            yield near, far

    def close(self) -> None:
        for hop in self.hops:
            hop.stop()
        for sock in self.sockets:
            sock.close()


def descendants() -> list[psutil.Process]:
    """All processes that this one has started, directly or not; but the Docker Engine that tests share."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if not process.name().startswith(("dockerd", "containerd")):
                found.append(process)
    return found


def open_descriptors(processes: Sequence[psutil.Process]) -> int:
    return sum(process.num_fds() for process in processes)
