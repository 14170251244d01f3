"""What every data server does with a stream: all bytes, in order, and how it ends."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver import ChannelStatistics
from support.relays import (
    LOCALHOST,
    Background,
    Path,
    accept,
    connect,
    cut,
    descendants,
    endpoint,
    fill,
    free_port,
    random_bytes,
    receive,
    receive_all,
    send_in_background,
    until,
)

MEGABYTE = 1_000_000


@pytest.mark.parametrize("length", [0, 1, 255, 16_385, 8 * MEGABYTE])
def test_every_byte_arrives_in_both_directions_at_once(path: Path, length: int) -> None:
    there, back = random_bytes(length), random_bytes(length)
    with path.joined() as (near, far):
        at_once = path.reads_to_the_end
        sending = [send_in_background(near, there, end=at_once), send_in_background(far, back, end=at_once)]
        receiving = Background(lambda: receive(near, length))
        assert hashlib.sha256(receive(far, length)).digest() == hashlib.sha256(there).digest()
        assert hashlib.sha256(receiving.result()).digest() == hashlib.sha256(back).digest()
        for sender in sending:
            sender.result()
        if not at_once:
            near.shutdown(socket.SHUT_WR)
            far.shutdown(socket.SHUT_WR)
        assert receive_all(near) == receive_all(far) == b""


def test_single_bytes_arrive_one_by_one(path: Path) -> None:
    with path.joined() as (near, far):
        for value in range(200):
            near.sendall(bytes([value]))
            assert far.recv(2) == bytes([value])
            far.sendall(bytes([255 - value]))
            assert near.recv(2) == bytes([255 - value])


def test_many_small_writes_make_the_same_stream(path: Path) -> None:
    data = random_bytes(60_000)

    def send(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), 7):
            sock.sendall(data[start : start + 7])
        sock.shutdown(socket.SHUT_WR)

    with path.joined() as (near, far):
        sending = Background(lambda: send(near))
        assert receive_all(far) == data
        sending.result()


def test_the_end_of_one_direction_leaves_the_other_open(path: Path) -> None:
    for first, second in ((0, 1), (1, 0)):
        with path.joined() as ends:
            one, other = ends[first], ends[second]
            one.sendall(b"question")
            one.shutdown(socket.SHUT_WR)
            assert receive_all(other) == b"question"
            answer = random_bytes(3 * MEGABYTE)
            sending = send_in_background(other, answer, end=path.reads_to_the_end)
            assert receive(one, len(answer)) == answer
            sending.result()
            if not path.reads_to_the_end:
                other.shutdown(socket.SHUT_WR)
            assert receive_all(one) == b""


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_who_says_little_and_ends_at_once_is_heard_to_the_end(path: Path, from_target: bool) -> None:
    application = path.listening()
    consumer, _ = path.both(endpoint(application))
    for _ in range(30):
        with connect(consumer.listeners[0]) as near:
            if not from_target:
                near.sendall(b"hi")
                near.shutdown(socket.SHUT_WR)
            with accept(application) as far:
                if from_target:
                    far.sendall(b"hi")
                    far.shutdown(socket.SHUT_WR)
                assert receive_all(near if from_target else far) == b"hi"


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_a_receiver_that_resets_stops_the_sender(path: Path, from_target: bool) -> None:
    with path.joined() as (near, far):
        one, other = (far, near) if from_target else (near, far)
        fill(one)
        cut(other)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            one.sendall(bytes(1 << 27))


def test_a_slow_receiver_holds_the_sender_back_and_gets_everything(path: Path) -> None:
    with path.joined() as (near, far):
        workers = descendants()
        before = sum(process.memory_info().rss for process in workers)
        sent = fill(near)
        assert sent < 150 * MEGABYTE
        grown = sum(process.memory_info().rss for process in workers) - before
        assert grown < 20 * MEGABYTE
        received = Background(lambda: len(receive_all(far)))
        near.shutdown(socket.SHUT_WR)
        assert received.result() == sent


def test_small_messages_that_waited_for_a_slow_receiver_arrive_unchanged(path: Path) -> None:
    pattern = random_bytes(5003)
    with path.joined() as (near, far):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = fill(near, chunk=pattern)
        assert receive(far, sent) == (pattern * (sent // len(pattern) + 1))[:sent]


def test_both_directions_stall_and_recover(path: Path) -> None:
    with path.joined() as (near, far):
        filled = fill(near), fill(far)
        receiving = Background(lambda: receive(near, filled[1]))
        assert len(receive(far, filled[0])) == filled[0]
        assert len(receiving.result()) == filled[1]
        near.sendall(b"still there")
        assert receive(far, 11) == b"still there"


def test_hundreds_of_connections_at_once_need_no_thread_each(path: Path) -> None:
    count, data = 520, random_bytes(20_000)
    application = path.listening()
    consumer, producer = path.both(endpoint(application))

    def echo(sock: socket.socket) -> None:
        with sock:
            while chunk := sock.recv(65536):
                sock.sendall(chunk)

    def serve() -> None:
        with ThreadPoolExecutor(8) as pool:
            pairs = [accept(application) for _ in range(count)]
            list(pool.map(echo, pairs))

    serving = Background(serve)
    clients = [connect(consumer.listeners[0]) for _ in range(count)]
    until(lambda: producer.statistics()[0].connections_open == count, "all are open")
    kind = type(path.backend).__name__
    if not kind.startswith("Stunnel") and "Container" not in kind:  # the one has, the other's engine has
        assert all(process.num_threads() == 1 for process in descendants())
    for client in clients:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(receive_all, clients)) == {data}
    serving.result()
    for client in clients:
        client.close()
    until(lambda: consumer.statistics()[0].connections_open == 0, "all are closed")
    figures = consumer.carried()[0]
    assert figures == ChannelStatistics(
        connections_total=count,
        bytes_to_target=count * len(data),
        bytes_from_target=count * len(data),
    )


def test_channels_lead_to_their_targets(path: Path) -> None:
    applications = [path.listening() for _ in range(3)]
    producer = path.producer([endpoint(application) for application in applications], channels=7)
    consumer = path.consumer([endpoint(listener) for listener in producer.listeners], channels=7)
    for index, listener in enumerate(consumer.listeners):
        with connect(listener) as near, accept(applications[index % 3]) as far:
            near.sendall(b"%d" % index)
            near.shutdown(socket.SHUT_WR)
            assert receive_all(far) == b"%d" % index
    until(lambda: all(one.bytes_to_target == 1 for one in producer.statistics()), "every channel counts")


def test_statistics_count_each_direction(path: Path) -> None:
    application = path.listening()
    consumer, producer = path.both(endpoint(application))
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(bytes(1000))
        assert len(receive(far, 1000)) == 1000
        far.sendall(bytes(30))
        assert len(receive(near, 30)) == 30
        expected = ChannelStatistics(
            connections_open=1, connections_total=1, bytes_to_target=1000, bytes_from_target=30
        )
        for hop in (consumer, producer):
            until(lambda hop=hop: hop.carried() == (expected,), f"counts, last {hop.statistics()}")


def test_a_target_that_refuses_ends_the_client(path: Path) -> None:
    consumer, producer = path.both(Endpoint(LOCALHOST, free_port()))
    assert path.turned_away(consumer.listeners[0], saying=b"anybody there?")
    until(lambda: producer.statistics()[0].connections_failed == 1, "the failure is counted")


def test_a_target_that_comes_late_is_reached_by_new_connections(path: Path) -> None:
    port = free_port()
    consumer, _ = path.both(Endpoint(LOCALHOST, port))
    assert path.turned_away(consumer.listeners[0])
    with socket.create_server((LOCALHOST, port)) as application:
        application.settimeout(10)
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            near.sendall(b"now")
            assert receive(far, 3) == b"now"


def test_retarget_moves_new_connections_and_keeps_old_ones(path: Path) -> None:
    first, second = path.listening(), path.listening()
    producer = path.producer([endpoint(first)])
    consumer = path.consumer([endpoint(producer.listeners[0])])
    with connect(consumer.listeners[0]) as old_near, accept(first) as old_far:
        old_near.sendall(b"old")
        assert receive(old_far, 3) == b"old"
        producer.retarget([endpoint(second)], path.producer_tls)
        for _ in range(4):
            with connect(consumer.listeners[0]) as near, accept(second) as far:
                near.sendall(b"new")
                assert receive(far, 3) == b"new"
        old_far.sendall(b"goes on")
        assert receive(old_near, 7) == b"goes on"


def test_stop_cuts_connections_and_frees_everything(path: Path) -> None:
    application = path.listening()
    consumer, producer = path.both(endpoint(application))
    processes = descendants()
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(b"x")
        assert receive(far, 1) == b"x"
        consumer.stop()
        producer.stop()
        assert path.receive_until_cut(near) == b""
        assert path.receive_until_cut(far) == b""
        consumer.stop()  # idempotent
    assert path.thread.run(consumer.server.wait()) == "stopped"
    port = endpoint(consumer.listeners[0]).port
    consumer.listeners[0].close()
    if all(process.is_running() for process in processes):  # shared by all sessions: nobody holds it
        until(lambda: not _listens(port), "the port is free")


def _listens(port: int) -> bool:
    return any(
        one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in psutil.net_connections("tcp")
    )


def test_sessions_come_and_go_without_leaving_descriptors(path: Path) -> None:
    application = path.listening()

    def once() -> None:
        consumer, producer = path.both(endpoint(application))
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            near.sendall(bytes(100_000))
            assert len(receive(far, 100_000)) == 100_000
        consumer.stop()
        producer.stop()

    for _ in range(3):
        once()  # pipes that are kept for later exist from now on
    before = {process.pid: process.num_fds() for process in descendants()}
    for _ in range(12):
        once()
    after = {process.pid: process.num_fds() for process in descendants()}
    if before.keys() == after.keys():
        assert after == pytest.approx(before, abs=4)
    else:
        assert not set(after) - set(before)


def test_ipv6_on_all_legs(path: Path) -> None:
    application = path.listening("::1")
    producer = path.producer([endpoint(application)], host="::1")
    consumer = path.consumer([endpoint(producer.listeners[0])], host="::1")
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(b"six")
        assert receive(far, 3) == b"six"


def test_a_host_name_is_tried_at_all_its_addresses(path: Path) -> None:
    application = path.listening()
    # the name has ::1 as well on most hosts, where nobody listens
    producer = path.producer([Endpoint("localhost", endpoint(application).port)])
    consumer = path.consumer([endpoint(producer.listeners[0])])
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(b"named")
        assert receive(far, 5) == b"named"


def test_one_busy_connection_does_not_starve_another(path: Path) -> None:
    application = path.listening()
    consumer, _ = path.both(endpoint(application))
    halt = threading.Event()

    def flood(sock: socket.socket) -> None:
        chunk = bytes(1 << 20)
        while not halt.is_set():
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)

    with (
        connect(consumer.listeners[0]) as busy,
        accept(application) as sink,
        connect(consumer.listeners[0]) as near,
        accept(application) as far,
    ):
        flooding = Background(lambda: flood(busy))
        draining = Background(lambda: len(receive_all(sink)))
        slowest = 0.0
        for _ in range(50):
            began = time.monotonic()
            near.sendall(b"ping")
            assert receive(far, 4) == b"ping"
            slowest = max(slowest, time.monotonic() - began)
        halt.set()
        flooding.result()
        assert draining.result() > 0
        assert slowest < 2.0
