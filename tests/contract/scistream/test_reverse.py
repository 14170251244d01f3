"""Reverse channels of the native data server: the producer's side dials, and what else differs from forward.

That streams are the same is in `test_streams` and others, whose `path` leads through reverse sessions too.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver import ChannelStatistics, DataServerBackend, create_backend
from scistream.dataserver.native import reverse_words as words
from scistream.dataserver.native.backend import NativeBackend
from scistream.dataserver.native.reverse_dialling import usual_number
from scistream.dataserver.native.reverse_waiting import MOST_GREETING, MOST_READY
from support.relays import (
    LOCALHOST,
    TIMEOUT_S,
    Background,
    Hop,
    Identity,
    LoopThread,
    Path,
    accept,
    connect,
    cut,
    endpoint,
    free_port,
    nobody_came,
    random_bytes,
    receive,
    receive_all,
    receive_until_end,
    receive_until_reset,
    turned_away,
    until,
)
from support.tls_peer import Peer, stranger_talks, tls_context

LENGTH = 100_000_000
CLIENTS = 50
TLS_HANDSHAKE = 22
"""The record type of a ClientHello."""


@pytest.fixture(params=["plain", "tls"])
def reverse(
    request: pytest.FixtureRequest, native_backend: DataServerBackend, thread: LoopThread
) -> Iterator[Path]:
    path = Path(thread, native_backend, request.param == "tls", reverse=True)
    yield path
    path.close()


@pytest.fixture
def reverse_tls(native_backend: DataServerBackend, thread: LoopThread) -> Iterator[Path]:
    path = Path(thread, native_backend, encrypted=True, reverse=True)
    yield path
    path.close()


@pytest.fixture(params=["plain", "tls"])
def own_backends(
    request: pytest.FixtureRequest, thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> Iterator[tuple[Path, Path, NativeBackend, NativeBackend]]:
    """(path of the consumer's side, of the producer's, their backends): each has a tree of its own."""
    caplog.set_level(logging.INFO)  # as it is when a tree is started, it stays

    async def opened() -> NativeBackend:
        backend = create_backend("native", {"workers": 2})
        assert isinstance(backend, NativeBackend)
        await backend.open()
        return backend

    backends = thread.run(opened()), thread.run(opened())
    identities = {"producer_identity": Identity.make(), "consumer_identity": Identity.make()}
    near, far = (
        Path(thread, backend, request.param == "tls", reverse=True, **identities) for backend in backends
    )
    yield near, far, *backends
    for path in (near, far):
        path.close()
    for backend in backends:
        thread.run(backend.close())


def _both_sides(near: Path, far: Path, target: Endpoint) -> tuple[Hop, Hop]:
    producer = far.producer([target])
    near.sockets += producer.listeners
    return near.consumer([endpoint(producer.listeners[0])]), producer


def _answered(consumer: Hop, application: socket.socket) -> None:
    """One connection goes through, and back."""
    with connect(consumer.listeners[0]) as one, accept(application) as other:
        one.sendall(b"there")
        assert receive(other, 5) == b"there"
        other.sendall(b"back")
        assert receive(one, 4) == b"back"


def _established(listener: socket.socket) -> list[tuple[int, int]]:
    """(pid, port) of the connections to `listener`, at the end that dialled them."""
    port = endpoint(listener).port
    return [
        (one.pid or 0, one.laddr.port)
        for one in psutil.net_connections("tcp")
        if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
    ]


def test_statistics_tell_what_is_ready(reverse: Path) -> None:
    application = reverse.listening()
    consumer, producer = reverse.both(endpoint(application))
    for side in (consumer, producer):
        until(lambda side=side: side.statistics()[0].connections_ready > 0, "the gateways have met")
    _answered(consumer, application)
    producer.stop()
    until(lambda: consumer.statistics()[0].connections_ready == 0, "nothing is ready any more")
    (figures,) = consumer.statistics()
    assert figures.connections_total == 1


@pytest.mark.parametrize("channels", [1, 5])
def test_100_megabytes_cross_both_ways(reverse: Path, channels: int) -> None:
    applications = [reverse.listening() for _ in range(channels)]
    producer = reverse.producer([endpoint(one) for one in applications], channels=channels)
    consumer = reverse.consumer([endpoint(one) for one in producer.listeners], channels=channels)
    data = random_bytes(LENGTH // channels)
    sha256 = hashlib.sha256(data).digest()

    def send(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    streams = [
        (connect(listener), accept(application))
        for listener, application in zip(consumer.listeners, applications, strict=True)
    ]
    ends = [sock for pair in streams for sock in pair]
    sending = [Background(lambda sock=sock: send(sock)) for sock in ends]
    with ThreadPoolExecutor(len(ends)) as pool:
        received = list(pool.map(receive_all, ends))
    assert all(hashlib.sha256(one).digest() == sha256 for one in received)
    for one in sending:
        one.result()
    for sock in ends:
        sock.close()
    expected = ChannelStatistics(connections_total=1, bytes_to_target=len(data), bytes_from_target=len(data))
    for hop in (consumer, producer):
        until(lambda hop=hop: hop.carried() == (expected,) * channels, f"exact: {hop.statistics()}")


def test_a_reset_is_a_reset_both_ways(reverse: Path) -> None:
    application = reverse.listening()
    consumer, _ = reverse.both(endpoint(application))
    for from_target in (False, True):
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            one, other = (far, near) if from_target else (near, far)
            one.sendall(b"first")
            assert receive(other, 5) == b"first"
            cut(one)
            assert receive_until_reset(other) == b""


def test_a_target_that_refuses_resets_the_client(reverse: Path) -> None:
    consumer, producer = reverse.both(Endpoint(LOCALHOST, free_port()))
    assert reverse.turned_away(consumer.listeners[0], saying=b"anybody there?")
    until(lambda: producer.statistics()[0].connections_failed == 1, "the failure is counted")


def test_a_client_is_held_until_its_target_is_there(reverse: Path) -> None:
    port = free_port()
    consumer, producer = reverse.both(Endpoint(LOCALHOST, port))
    with connect(consumer.listeners[0]) as near:
        near.sendall(b"early")
        until(lambda: producer.statistics()[0].connections_total == 1, "the target is being dialled")
        with socket.create_server((LOCALHOST, port)) as application:
            application.settimeout(TIMEOUT_S)
            with accept(application) as far:
                assert receive(far, 5) == b"early"


def test_the_application_sees_the_connections_that_there_are_and_no_other(reverse: Path) -> None:
    application = reverse.listening()
    consumer, producer = reverse.both(endpoint(application))
    until(lambda: len(_established(producer.listeners[0])) >= 4, "connections are kept ready")
    assert nobody_came(application)
    nothing = ChannelStatistics()
    assert consumer.carried() == producer.carried() == (nothing,)
    for _ in range(10):
        _answered(consumer, application)
    assert nobody_came(application)
    expected = ChannelStatistics(connections_total=10, bytes_to_target=50, bytes_from_target=40)
    for hop in (consumer, producer):
        until(lambda hop=hop: hop.carried() == (expected,), f"exact: {hop.statistics()}")


def test_more_connections_at_once_than_are_ready_are_all_served(reverse: Path) -> None:
    application = reverse.listening()
    consumer, producer = reverse.both(endpoint(application))
    for _ in range(3):
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = list(pool.map(lambda _: connect(consumer.listeners[0]), range(CLIENTS)))
            for number, client in enumerate(clients):
                client.sendall(b"%02d" % number)
                client.shutdown(socket.SHUT_WR)
            targets = list(pool.map(lambda _: accept(application), range(CLIENTS)))
            heard = sorted(pool.map(receive_all, targets))
        assert heard == [b"%02d" % number for number in range(CLIENTS)]
        for sock in (*clients, *targets):
            sock.close()
    until(lambda: consumer.statistics()[0].connections_open == 0, "all are closed")
    for hop in (consumer, producer):
        (figures,) = hop.statistics()
        assert (figures.connections_total, figures.connections_failed) == (3 * CLIENTS, 0)


# --- strangers -------------------------------------------------------------------------------------------


def test_strangers_get_nowhere_and_use_nothing_up(reverse_tls: Path) -> None:
    path = reverse_tls
    application = path.listening()
    consumer, producer = path.both(endpoint(application))
    meeting = producer.listeners[0]
    known = path.consumer_identity
    silent = []
    for context in (
        None,  # plain TCP
        tls_context(None, known),  # no certificate
        tls_context(Identity.make("session"), known),  # one of its own, with the session's name
        tls_context(Identity.make("other"), known),  # that of another session
        tls_context(path.consumer_identity, known),  # of this session, and not the side that dials
    ):
        stranger_talks(meeting, context)
    # more that say nothing than are let wait: they make room for who comes after them
    with ThreadPoolExecutor(32) as pool:
        silent = list(pool.map(lambda _: connect(meeting), range(600)))
    for _ in range(20):
        _answered(consumer, application)
    assert nobody_came(application)
    (figures,) = consumer.statistics()
    assert (figures.connections_total, figures.connections_failed) == (20, 0)
    for sock in silent:
        sock.close()


def test_nothing_is_said_to_whoever_says_nothing(reverse_tls: Path) -> None:
    """Who dials is the TLS client and speaks first; a stranger learns nothing from the port."""
    producer = reverse_tls.producer([endpoint(reverse_tls.listening())])
    meeting = producer.listeners[0]
    dialled = accept(meeting)  # nobody waits there yet
    with dialled:
        assert receive(dialled, 1) == bytes((TLS_HANDSHAKE,))
    producer.stop()
    reverse_tls.consumer([endpoint(meeting)])
    context = tls_context(reverse_tls.producer_identity, reverse_tls.consumer_identity)
    with connect(meeting) as silent, connect(meeting) as speaker:
        # both have been accepted when the one who speaks has been answered
        with context.wrap_socket(speaker) as known:
            known.sendall(words.greeting("session", 0))
            assert receive(known, 1) == words.WELCOME
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.recv(1)


def test_strangers_who_say_nothing_make_room_for_the_peer(thread: LoopThread) -> None:
    backend = create_backend("native", {"workers": 1, "tls_engine": "openssl"})
    thread.run(backend.open())
    path = Path(thread, backend, encrypted=True, reverse=True)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: thread.run(backend.close()))
        stack.callback(path.close)
        meeting = path.listening()
        path.consumer([endpoint(meeting)])
        peer = Peer(stack.enter_context(connect(meeting)))
        context = tls_context(path.producer_identity, path.consumer_identity)
        peer.say_hello(context)
        assert peer.raw.recv(1, socket.MSG_PEEK), "it is answered, and its answer is waited for"
        strangers = [stack.enter_context(connect(meeting)) for _ in range(MOST_GREETING + 100)]
        assert receive_until_reset(strangers[0]) == b"", "the first has made room for others"
        peer.handshake(context, last_words=words.greeting("session", 0))
        while not peer.opened:  # TLS itself may say something first
            peer.receive()
        assert peer.opened == words.WELCOME


def test_who_knows_the_way_and_not_the_session_is_refused_in_the_clear_too(
    native_backend: DataServerBackend, thread: LoopThread
) -> None:
    path = Path(thread, native_backend, encrypted=False, reverse=True)
    application = path.listening()
    consumer, producer = path.both(endpoint(application))
    for said in (
        b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n",
        words.greeting("another", 0),
        words.greeting("session", 1),
        words.greeting("session", 0) + b"and more, unasked",
    ):
        assert turned_away_after_welcome(producer.listeners[0], said)
    _answered(consumer, application)
    path.close()


def turned_away_after_welcome(listener: socket.socket, saying: bytes) -> bool:
    with connect(listener) as sock:
        return receive_until_end(sock, saying=saying) in {b"", words.WELCOME}


def test_the_producers_side_talks_to_nobody_but_its_peer(reverse_tls: Path) -> None:
    """Somebody listens where the consumer's side should: with a certificate of his own, and in the clear."""
    application, impostor = reverse_tls.listening(), reverse_tls.listening()
    producer = reverse_tls.producer([endpoint(application)])
    dials = (endpoint(impostor),)
    reverse_tls.thread.run(
        producer.server.retarget([endpoint(application)], reverse_tls.producer_tls, dials=dials)
    )
    context = tls_context(Identity.make("session"), None, server=True)
    with accept(impostor) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock, server_side=True)
    with accept(impostor) as sock:
        said = receive_until_end(sock, saying=words.WELCOME + words.begin(0))
        assert words.greeting("session", 0) not in said
    assert nobody_came(application)


# --- what breaks -----------------------------------------------------------------------------------------


def test_connections_that_are_ready_and_die_are_replaced(reverse: Path) -> None:
    application = reverse.listening()
    consumer, producer = reverse.both(endpoint(application))
    meeting = producer.listeners[0]
    until(lambda: len(_established(meeting)) >= 4, "connections are kept ready")
    before = {port for _, port in _established(meeting)}
    # the consumer's side gives them up: it is told other credentials, or the same after others
    for _ in range(2):
        reverse.consumer_identity = Identity.make()
        consumer.retarget([], reverse.consumer_tls)
        producer.retarget([endpoint(application)], reverse.producer_tls)
    if reverse.encrypted:
        until(
            lambda: len(ready := {port for _, port in _established(meeting)}) >= 4 and not ready & before,
            "others are ready",
        )
    _answered(consumer, application)


@pytest.mark.parametrize("side", ["consumer", "producer"])
def test_a_killed_worker_is_replaced_and_streams_go_on(
    own_backends: tuple[Path, Path, NativeBackend, NativeBackend], side: str
) -> None:
    near, far, near_backend, far_backend = own_backends
    application = far.listening()
    consumer, producer = _both_sides(near, far, endpoint(application))
    for _ in range(4):
        _answered(consumer, application)
    backend = near_backend if side == "consumer" else far_backend
    for victim in backend.pids[1:]:
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: victim not in backend.pids[1:] and len(backend.pids) == 3, "another one")
        for _ in range(10):
            _answered(consumer, application)
    (figures,) = producer.statistics()
    assert figures.connections_failed == 0


def test_the_other_side_may_come_late_and_go_away_for_a_while(
    own_backends: tuple[Path, Path, NativeBackend, NativeBackend], caplog: pytest.LogCaptureFixture
) -> None:
    near, far, *_ = own_backends
    application = far.listening()
    producer = far.producer([endpoint(application)])
    meeting = producer.listeners[0]
    port = endpoint(meeting).port
    meeting.close()  # nobody listens there
    until(lambda: "is not reached" in caplog.text, "that is said")
    for _ in range(3):
        meeting = socket.create_server((LOCALHOST, port))
        near.sockets.append(meeting)
        consumer = near.consumer([endpoint(meeting)])
        _answered(consumer, application)
        consumer.stop()
        meeting.close()
        with pytest.raises(ConnectionRefusedError):
            connect(Endpoint(LOCALHOST, port))
    until(lambda: "is reached" in caplog.text, "that is said")
    # by each of two workers, once for each time
    assert caplog.text.count("is not reached") <= 2 * 4 + 1


def test_a_client_that_waits_in_vain_is_reset_in_time(
    own_backends: tuple[Path, Path, NativeBackend, NativeBackend],
) -> None:
    near, *_ = own_backends
    consumer = near.consumer([endpoint(near.listening())])
    assert turned_away(consumer.listeners[0], saying=b"anybody there?")
    until(lambda: consumer.statistics()[0].connections_failed == 1, "the failure is counted")


def test_an_answer_that_does_not_come_leads_to_another_connection(
    own_backends: tuple[Path, Path, NativeBackend, NativeBackend],
) -> None:
    near, far, *_ = own_backends
    if near.encrypted:
        pytest.skip("in the clear the test can be the producer's side itself")
    meeting, application = near.listening(), near.listening()
    consumer = near.consumer([endpoint(meeting)])
    with connect(meeting) as hung:
        hung.sendall(words.greeting("session", 0))
        assert receive(hung, 1) == words.WELCOME
        with connect(consumer.listeners[0]) as client:
            client.sendall(b"hello")
            what, waiting = struct.unpack("!cH", receive(hung, words.BEGIN_BYTES))
            assert (what, waiting) == (b"G", 0)
            # it says nothing; then comes one that does
            with connect(meeting) as good:
                good.sendall(words.greeting("session", 0))
                assert receive(good, 1) == words.WELCOME
                assert receive(good, words.BEGIN_BYTES) == words.begin(0)
                good.sendall(words.TAKEN + b"answer")
                assert receive(good, 5) == b"hello"
                assert receive(client, 6) == b"answer"
            assert receive_until_end(hung) == b""
    del application, far


@pytest.fixture
def one_worker(thread: LoopThread) -> Iterator[tuple[Path, int]]:
    """(path of the consumer's side in the clear, its worker's pid): the test is the producer's side."""
    backend = create_backend("native", {"workers": 1})
    assert isinstance(backend, NativeBackend)
    thread.run(backend.open())
    path = Path(thread, backend, encrypted=False, reverse=True)
    yield path, backend.pids[1]
    path.close()
    thread.run(backend.close())


def _ready(meeting: socket.socket) -> socket.socket:
    sock = connect(meeting)
    sock.sendall(words.greeting("session", 0))
    assert receive(sock, 1) == words.WELCOME
    return sock


def test_all_that_was_ready_may_be_dead_at_once(one_worker: tuple[Path, int]) -> None:
    path, pid = one_worker
    meeting = path.listening()
    consumer = path.consumer([endpoint(meeting)])
    spares = [_ready(meeting) for _ in range(MOST_READY)]
    worker = psutil.Process(pid)
    worker.suspend()
    with connect(consumer.listeners[0]) as client:
        for spare in spares:
            cut(spare)
        worker.resume()
        with _ready(meeting) as good:
            assert receive(good, words.BEGIN_BYTES) == words.begin(0)
            good.sendall(words.TAKEN + b"answer")
            assert receive(client, 6) == b"answer"


def test_a_client_that_has_left_while_it_waited_gets_nothing(one_worker: tuple[Path, int]) -> None:
    path, _ = one_worker
    meeting = path.listening()
    consumer = path.consumer([endpoint(meeting)])
    impatient = connect(consumer.listeners[0])
    until(lambda: consumer.statistics()[0].connections_total == 1, "it waits")
    cut(impatient)
    with _ready(meeting) as spare, connect(consumer.listeners[0]) as client:
        assert receive(spare, words.BEGIN_BYTES) == words.begin(0)
        spare.sendall(words.TAKEN + b"answer")
        assert receive(client, 6) == b"answer"
    assert consumer.statistics()[0].connections_failed == 1


def test_connections_that_come_and_go_at_random_lose_nothing_and_leave_nothing(
    own_backends: tuple[Path, Path, NativeBackend, NativeBackend],
) -> None:
    """Echoes of random sizes, some cut in the middle, as many at once as there are not ready by far."""
    near, far, *_ = own_backends
    application = far.listening()
    consumer, producer = _both_sides(near, far, endpoint(application))
    data = random_bytes(400_000)

    def echo(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            while chunk := sock.recv(1 << 16):
                sock.sendall(chunk)

    def serve() -> None:
        with ThreadPoolExecutor(CLIENTS) as pool, contextlib.suppress(OSError):
            while True:
                pool.submit(echo, accept(application))

    def client(number: int) -> int:
        chance = random.Random(number)
        length, is_cut = chance.randrange(len(data)), chance.random() < 0.3
        sock = connect(consumer.listeners[0])
        sending = Background(lambda: send_and_end(sock, data[:length]))
        if is_cut:
            part = receive(sock, length // 2)
            sending.result()
            cut(sock)
            assert part == data[: length // 2]
            return 0
        with sock:
            assert receive_all(sock) == data[:length]
            sending.result()
        return length

    serving = Background(serve)
    for _ in range(2):
        with ThreadPoolExecutor(CLIENTS) as pool:
            echoed = sum(pool.map(client, range(10 * CLIENTS)))
        assert echoed > 1_000_000
        for hop in (consumer, producer):
            until(lambda hop=hop: hop.statistics()[0].connections_open == 0, "all are closed")
    assert [hop.statistics()[0].connections_total for hop in (consumer, producer)] == [20 * CLIENTS] * 2
    assert [hop.statistics()[0].connections_failed for hop in (consumer, producer)] == [0, 0]
    meeting = producer.listeners[0]
    until(lambda: len(_established(meeting)) == 4, "what was ready beyond the usual number is given up")
    application.shutdown(socket.SHUT_RDWR)
    serving.result()


def send_and_end(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def test_stop_closes_everything(reverse: Path) -> None:
    application = reverse.listening()
    consumer, producer = reverse.both(endpoint(application))
    meeting = producer.listeners[0]
    until(lambda: len(_established(meeting)) >= 4, "connections are kept ready")
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(b"x")
        assert receive(far, 1) == b"x"
        producer.stop()
        assert receive_until_reset(far) == b""
        assert receive_until_reset(near) == b""
    until(lambda: not _established(meeting), "nothing is left")
    consumer.stop()


def test_each_worker_has_its_part_of_what_is_ready() -> None:
    for workers in (1, 2, 3, 16):
        for channels in (1, 2, 5, 40):
            for channel in range(channels):
                parts = [usual_number(channel, channels, worker, workers) for worker in range(workers)]
                assert sum(parts) >= 4
                assert max(parts) - min(parts) <= 1
