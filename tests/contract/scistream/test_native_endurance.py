"""The native data server where the world does not cooperate: late targets, stalled peers, crowds."""

from __future__ import annotations

import hashlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver.native import NativeBackend
from scistream.dataserver.native.reverse_dialling import LEAST_READY
from support.relays import (
    LOCALHOST,
    Background,
    LoopThread,
    Path,
    accept,
    connect,
    cut,
    endpoint,
    fill,
    free_port,
    nobody_came,
    random_bytes,
    receive,
    receive_all,
    send_in_background,
    turned_away,
    until,
)

PEER_TIMEOUT_S = 2.0


@pytest.fixture(params=["plain", "tls", "reverse-plain", "reverse-tls"])
def one_worker_path(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    """Through data servers with one worker, so that everything shares it, and little patience with peers."""
    caplog.set_level(logging.INFO, "scistream.dataserver")  # the processes are told when they start
    thread = LoopThread()

    async def opened() -> NativeBackend:
        backend = NativeBackend(workers=1, peer_timeout_s=PEER_TIMEOUT_S)
        await backend.open()
        return backend

    backend = thread.run(opened())
    encrypted, reverse = request.param.endswith("tls"), request.param.startswith("reverse")
    path = Path(thread, backend, encrypted=encrypted, reverse=reverse)
    yield path
    path.close()
    thread.run(backend.close())
    thread.close()


def test_a_target_that_comes_late_gets_the_connection_that_was_held(one_worker_path: Path) -> None:
    port = free_port()
    consumer, producer = one_worker_path.both(Endpoint(LOCALHOST, port))
    with connect(consumer.listeners[0]) as near:
        near.sendall(b"I was first")
        until(lambda: producer.statistics()[0].connections_total == 1, "the target is being dialled")
        with socket.create_server((LOCALHOST, port)) as application:
            application.settimeout(10)
            with accept(application) as far:
                assert receive(far, 11) == b"I was first"
                far.sendall(b"welcome")
                assert receive(near, 7) == b"welcome"


def test_a_target_is_not_dialled_for_a_client_that_has_left(one_worker_path: Path) -> None:
    port = free_port()
    hop = one_worker_path.hop([Endpoint(LOCALHOST, port)], None)
    near = connect(hop.listeners[0])
    until(lambda: hop.statistics()[0].connections_total == 1, "the target is being dialled")
    cut(near)
    with socket.create_server((LOCALHOST, port)) as application:
        until(lambda: hop.statistics()[0].connections_failed == 1, "given up")
        assert nobody_came(application)


def test_a_refused_connection_is_logged_with_its_reason_once(
    one_worker_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    hop = one_worker_path.hop([Endpoint(LOCALHOST, port)], None, uid="lonely")
    attempts = [Background(lambda: turned_away(hop.listeners[0])) for _ in range(5)]
    assert all(attempt.result() for attempt in attempts)
    until(lambda: hop.statistics()[0].connections_failed == 5, "all were refused")
    lines = [record.getMessage() for record in caplog.records if "lonely" in record.getMessage()]
    assert len(lines) == 1
    assert f"port {port}" in lines[0]
    assert "refused" in lines[0]


def test_a_receiver_that_stalls_for_longer_than_peers_may_be_silent_is_not_cut(one_worker_path: Path) -> None:
    with one_worker_path.joined() as (near, far):
        sent = fill(near)
        stalled = threading.Event()
        stalled.wait(2 * PEER_TIMEOUT_S)  # what is tried, nothing is waited for
        receiving = Background(lambda: len(receive_all(far)))
        near.sendall(b"the end")
        near.shutdown(socket.SHUT_WR)
        assert receiving.result() == sent + len(b"the end")


def test_peers_that_are_idle_for_longer_than_they_may_be_silent_are_asked_and_not_cut(
    one_worker_path: Path,
) -> None:
    with one_worker_path.joined() as (near, far):
        near.sendall(b"first")
        assert receive(far, 5) == b"first"
        # the kernel asks on both legs of both data servers; an answer is enough, however long nothing is said
        # (and on both ends of those that a reverse session keeps ready)
        expected = 4 + 2 * LEAST_READY * one_worker_path.reverse
        until(lambda: _keepalive_timers(one_worker_path) == expected, "all are kept alive")
        idle = threading.Event()
        idle.wait(2 * PEER_TIMEOUT_S)  # what is tried, nothing is waited for
        far.sendall(b"last")
        assert receive(near, 4) == b"last"


def _keepalive_timers(path: Path) -> int:
    """How many of the workers' connections have a running keepalive timer, as the kernel's table shows."""
    ends = {
        (one.laddr.port, one.raddr.port)
        for pid in path.backend.pids  # type: ignore[attr-defined]
        for one in psutil.Process(pid).net_connections("tcp")
        if one.status == psutil.CONN_ESTABLISHED
    }
    found = 0
    with open("/proc/net/tcp") as table:
        for line in list(table)[1:]:
            _, local, remote, _, _, timer, *_ = line.split()
            ports = tuple(int(address.rsplit(":", 1)[1], 16) for address in (local, remote))
            found += ports in ends and timer.startswith("02:")
    return found


def test_a_hundred_megabytes_in_one_write_arrive_unchanged(one_worker_path: Path) -> None:
    data = random_bytes(100_000_000)
    with one_worker_path.joined() as (near, far):
        for one, other in ((near, far), (far, near)):
            sending = send_in_background(one, data)
            digest = hashlib.sha256()
            while chunk := other.recv(1 << 20):
                digest.update(chunk)
            sending.result()
            assert digest.digest() == hashlib.sha256(data).digest()


def test_a_session_with_many_busy_connections_does_not_starve_another(one_worker_path: Path) -> None:
    application = one_worker_path.listening()
    busy = one_worker_path.hop([endpoint(application)], None, uid="busy")
    halt = threading.Event()

    def flood(sock: socket.socket) -> None:
        chunk = bytes(1 << 20)
        while not halt.is_set():
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)

    pairs = [(connect(busy.listeners[0]), accept(application)) for _ in range(12)]
    with one_worker_path.joined() as (near, far):
        flooding = [Background(lambda sock=sock: flood(sock)) for sock, _ in pairs]
        draining = [Background(lambda sock=sock: len(receive_all(sock))) for _, sock in pairs]
        slowest = 0.0
        for _ in range(30):
            began = time.monotonic()
            near.sendall(b"ping")
            assert receive(far, 4) == b"ping"
            slowest = max(slowest, time.monotonic() - began)
        halt.set()
        for flooded, drained in zip(flooding, draining, strict=True):
            flooded.result()
            assert drained.result() > 0
        assert slowest < 2.0
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.mark.parametrize("files", [64, 100])
def test_a_gateway_with_too_few_open_files_does_not_start_and_says_how_many_it_needs(files: int) -> None:
    code = f"""
import asyncio, resource
from scistream.dataserver.native import NativeBackend
from scistream.errors import DataServerError
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
async def main():
    try:
        await NativeBackend(workers=2).open()
    except DataServerError as error:
        print(error)
asyncio.run(main())
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert said.returncode == 0, said.stderr
    assert f"{files} open files are too few" in said.stdout
    assert "ulimit -n" in said.stdout


def test_a_session_whose_channels_leave_no_room_for_a_connection_is_refused() -> None:
    code = """
import asyncio, resource, socket
from scistream.core.endpoint import Endpoint
from scistream.dataserver import DataServerSpec
from scistream.dataserver.native import NativeBackend
from scistream.errors import DataServerError
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
async def main():
    backend = NativeBackend(workers=1)
    await backend.open()
    for channels in (20, 150):
        listeners = tuple(socket.create_server(("127.0.0.1", 0)) for _ in range(channels))
        server = backend.create()
        try:
            await server.start(
                DataServerSpec(uid="wide", listeners=listeners, targets=(Endpoint("127.0.0.1", 9),))
            )
            print(channels, "granted")
        except DataServerError as error:
            print(channels, error)
    await backend.close()
asyncio.run(main())
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert said.returncode == 0, said.stderr
    granted, refused = said.stdout.splitlines()
    assert granted == "20 granted"
    assert "150 channels more are too many for 400 open files" in refused
    assert "ulimit -n 430" in refused
