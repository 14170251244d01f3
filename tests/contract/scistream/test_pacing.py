"""A session's rate is kept by all its connections together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from scistream.dataserver import DataServer, DataServerSpec
from scistream.dataserver.multipath import IPPROTO_MPTCP
from scistream.dataserver.native import NativeBackend
from support.relays import (
    LOCALHOST,
    TIMEOUT_S,
    Identity,
    LoopThread,
    Path,
    accept,
    connect,
    endpoint,
    listening,
    receive,
    until,
)

RATE_MBPS = 200.0
SECONDS = 2.0


@pytest.fixture
def backend() -> Iterator[NativeBackend]:
    thread = LoopThread()

    async def opened() -> NativeBackend:
        backend = NativeBackend(workers=2)
        await backend.open()
        return backend

    backend = thread.run(opened())
    backend.thread = thread  # type: ignore[attr-defined] # goes with it
    yield backend
    thread.run(backend.close())
    thread.close()


def _thread(backend: NativeBackend) -> LoopThread:
    return backend.thread  # type: ignore[attr-defined, no-any-return]


def _start(
    backend: NativeBackend, listeners: Sequence[socket.socket], target: socket.socket, rate_mbps: float
) -> DataServer:
    server = backend.create()
    spec = DataServerSpec(
        uid="paced", listeners=tuple(listeners), targets=(endpoint(target),), rate_mbps=rate_mbps
    )
    _thread(backend).run(server.start(spec))
    return server


def _mbps(pairs: Sequence[tuple[socket.socket, socket.socket]], seconds: float = SECONDS) -> float:
    """What all pairs together carry, sender first, after what buffers take at once."""
    return sum(_each_mbps(pairs, seconds))


def _each_mbps(pairs: Sequence[tuple[socket.socket, socket.socket]], seconds: float) -> list[float]:
    """What each pair carries."""
    stop = threading.Event()
    received = [0] * len(pairs)

    def send(sock: socket.socket) -> None:
        data = bytes(1 << 18)
        with contextlib.suppress(OSError):
            while not stop.is_set():
                sock.sendall(data)

    def count(index: int, sock: socket.socket) -> None:
        buffer = bytearray(1 << 20)
        with contextlib.suppress(OSError):
            while size := sock.recv_into(buffer):
                received[index] += size

    threads = [threading.Thread(target=send, args=(sender,)) for sender, _ in pairs]
    threads += [threading.Thread(target=count, args=(i, sock)) for i, (_, sock) in enumerate(pairs)]
    for thread in threads:
        thread.start()
    until(lambda: all(received), "all carry something")
    first, began = list(received), time.monotonic()
    time.sleep(seconds)  # what is measured, not waited for
    last, took = list(received), time.monotonic() - began
    stop.set()
    for pair in pairs:
        for sock in pair:
            sock.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    return [(after - before) * 8 / took / 1e6 for before, after in zip(first, last, strict=True)]


@pytest.mark.parametrize("backwards", [False, True], ids=["to-target", "from-target"])
@pytest.mark.parametrize("connections", [1, 4])
def test_a_session_stays_within_its_rate_and_uses_it(
    backend: NativeBackend, connections: int, backwards: bool
) -> None:
    with contextlib.ExitStack() as stack:
        application, listener = stack.enter_context(listening()), stack.enter_context(listening())
        server = _start(backend, [listener], application, RATE_MBPS)
        pairs = []
        for _ in range(connections):
            near = stack.enter_context(connect(listener))
            far = stack.enter_context(accept(application))
            pairs.append((far, near) if backwards else (near, far))
        carried = _mbps(pairs)
        assert 0.6 * RATE_MBPS < carried <= 1.1 * RATE_MBPS
        _thread(backend).run(server.stop())


@pytest.mark.parametrize("backwards", [False, True], ids=["to-target", "from-target"])
def test_many_connections_divide_a_low_rate_fairly(backend: NativeBackend, backwards: bool) -> None:
    rate_mbps, connections = 100.0, 8
    with contextlib.ExitStack() as stack:
        application, listener = stack.enter_context(listening()), stack.enter_context(listening())
        server = _start(backend, [listener], application, rate_mbps)
        pairs = []
        for _ in range(connections):
            near = stack.enter_context(connect(listener))
            far = stack.enter_context(accept(application))
            pairs.append((far, near) if backwards else (near, far))
        each = _each_mbps(pairs, seconds=4.0)
        assert 0.75 * rate_mbps < sum(each) <= 1.1 * rate_mbps
        assert min(each) > 0.4 * rate_mbps / connections
        assert max(each) < 2 * rate_mbps / connections
        _thread(backend).run(server.stop())


def test_a_connection_whose_receiver_stalls_leaves_its_share_to_others(backend: NativeBackend) -> None:
    with contextlib.ExitStack() as stack:
        application, listener = stack.enter_context(listening()), stack.enter_context(listening())
        server = _start(backend, [listener], application, RATE_MBPS)
        for _ in range(3):
            stalled = stack.enter_context(connect(listener))
            stack.enter_context(accept(application))
            stalled.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while stalled.send(bytes(1 << 18)):
                    pass
        near, far = stack.enter_context(connect(listener)), stack.enter_context(accept(application))
        assert 0.6 * RATE_MBPS < _mbps([(near, far)], 6.0) <= 1.1 * RATE_MBPS
        _thread(backend).run(server.stop())


def test_a_session_without_a_rate_is_not_held_back(backend: NativeBackend) -> None:
    with contextlib.ExitStack() as stack:
        application, listener = stack.enter_context(listening()), stack.enter_context(listening())
        server = _start(backend, [listener], application, 0)
        near, far = stack.enter_context(connect(listener)), stack.enter_context(accept(application))
        assert _mbps([(near, far)], 0.5) > 5 * RATE_MBPS
        _thread(backend).run(server.stop())


def test_a_connection_gets_the_share_of_those_that_have_ended(backend: NativeBackend) -> None:
    with contextlib.ExitStack() as stack:
        application, listener = stack.enter_context(listening()), stack.enter_context(listening())
        server = _start(backend, [listener], application, RATE_MBPS)
        for _ in range(3):
            with connect(listener), accept(application):
                pass
        near, far = stack.enter_context(connect(listener)), stack.enter_context(accept(application))
        until(lambda: _thread(backend).run(server.statistics())[0].connections_open == 1, "one is left")
        carried = _mbps([(near, far)])
        assert 0.6 * RATE_MBPS < carried <= 1.1 * RATE_MBPS
        _thread(backend).run(server.stop())


def test_the_rate_holds_after_retarget_and_in_a_new_worker(backend: NativeBackend) -> None:
    with contextlib.ExitStack() as stack:
        first, application = stack.enter_context(listening()), stack.enter_context(listening())
        listener = stack.enter_context(listening())
        server = _start(backend, [listener], first, RATE_MBPS)
        _thread(backend).run(server.retarget([endpoint(application)], None))
        before = backend.pids
        for pid in before[1:]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(backend.pids[1:]) & set(before), "both are replaced")
        _thread(backend).run(server.statistics())
        near, far = stack.enter_context(connect(listener)), stack.enter_context(accept(application))
        assert _mbps([(near, far)]) <= 1.1 * RATE_MBPS
        _thread(backend).run(server.stop())


def test_channels_and_connections_that_are_not_used_leave_their_share_to_others(
    backend: NativeBackend,
) -> None:
    with contextlib.ExitStack() as stack:
        application = stack.enter_context(listening())
        listeners = [stack.enter_context(listening()) for _ in range(4)]
        server = _start(backend, listeners, application, RATE_MBPS)
        pairs = []
        for listener in listeners[:2] * 3:
            near = stack.enter_context(connect(listener))
            pairs.append((near, stack.enter_context(accept(application))))
        assert 0.6 * RATE_MBPS < _mbps(pairs[:1]) <= 1.1 * RATE_MBPS
        # those that were idle want more now, and so do all together
        assert 0.6 * RATE_MBPS < _mbps(pairs[1:]) <= 1.1 * RATE_MBPS
        _thread(backend).run(server.stop())


def test_an_encrypted_session_is_held_to_its_rate(backend: NativeBackend) -> None:
    path = Path(_thread(backend), backend, encrypted=True)
    path.producer_identity = path.consumer_identity = Identity.make()
    with contextlib.ExitStack() as stack:
        stack.callback(path.close)
        application, listener = stack.enter_context(listening()), stack.enter_context(listening())
        producer = path.producer([endpoint(application)])
        server = backend.create()
        spec = DataServerSpec(
            uid="paced",
            listeners=(listener,),
            targets=(endpoint(producer.listeners[0]),),
            tls=path.consumer_tls,
            rate_mbps=RATE_MBPS,
        )
        _thread(backend).run(server.start(spec))
        near, far = stack.enter_context(connect(listener)), stack.enter_context(accept(application))
        assert 0.6 * RATE_MBPS < _mbps([(near, far)]) <= 1.1 * RATE_MBPS
        _thread(backend).run(server.stop())


@pytest.mark.parametrize("paced", ["producer", "consumer"])
def test_a_reverse_session_is_held_to_its_rate_on_either_side(backend: NativeBackend, paced: str) -> None:
    path = Path(_thread(backend), backend, encrypted=True, reverse=True)
    with contextlib.ExitStack() as stack:
        stack.callback(path.close)
        application = path.listening()
        path.rate_mbps = RATE_MBPS if paced == "producer" else 0
        producer = path.producer([endpoint(application)])
        path.rate_mbps = RATE_MBPS if paced == "consumer" else 0
        consumer = path.consumer([endpoint(producer.listeners[0])])
        near = stack.enter_context(connect(consumer.listeners[0]))
        far = stack.enter_context(accept(application))
        assert 0.6 * RATE_MBPS < _mbps([(near, far)]) <= 1.1 * RATE_MBPS


def test_a_client_with_mptcp_goes_unpaced_and_disturbs_nobody(
    backend: NativeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket takes no pacing rate: that must end neither the connection nor the others."""
    application, other_listener = listening(), listening()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as listener:
        listener.bind((LOCALHOST, 0))
        listener.listen()
        servers = [
            _start(backend, [listener], application, RATE_MBPS),
            _start(backend, [other_listener], application, 0),
        ]
        with connect(other_listener) as other, accept(application) as other_end:
            for _ in range(2):
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as client:
                    client.settimeout(TIMEOUT_S)
                    client.connect(listener.getsockname())
                    client.sendall(b"there")
                    with accept(application) as end:
                        assert receive(end, 5) == b"there"
                        end.sendall(b"back")
                        assert receive(client, 4) == b"back"
            other.sendall(b"still")
            assert receive(other_end, 5) == b"still"
        until(lambda: "which the kernel cannot pace" in caplog.text, "that is said")
        for server in servers:
            _thread(backend).run(server.stop())
    application.close()
    other_listener.close()
