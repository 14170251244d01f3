"""Sessions share the workers: one may use all of them, and none may keep another one waiting."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver.native import NativeBackend
from support.flood import flooding
from support.relays import (
    Hop,
    LoopThread,
    Path,
    accept,
    connect,
    endpoint,
    receive,
    until,
)

CONNECTIONS = 64
ROUND_TRIPS = 20
TURN_BYTES = 2 << 20
"""What a busy connection moves before others have their turn, or more."""


@contextlib.contextmanager
def _paths(workers: int, *, encrypted: bool) -> Iterator[Path]:
    thread = LoopThread()

    async def opened() -> NativeBackend:
        backend = NativeBackend(workers=workers)
        await backend.open()
        return backend

    backend = thread.run(opened())
    path = Path(thread, backend, encrypted=encrypted)
    try:
        yield path
    finally:
        path.close()
        thread.run(backend.close())
        thread.close()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def one_worker_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """One worker has to carry everything."""
    with _paths(1, encrypted=request.param) as path:
        yield path


def _carried(hop: Hop) -> int:
    return sum(channel.bytes_to_target for channel in hop.statistics())


@contextlib.contextmanager
def _flooded(path: Path) -> Iterator[Hop]:
    """Another session's connections on the same gateways, all busy."""
    hops: list[Hop] = []

    def opened(sink: Endpoint) -> Endpoint:
        consumer, _ = path.both(sink)
        hops.append(consumer)
        return endpoint(consumer.listeners[0])

    with flooding(CONNECTIONS, opened):
        yield hops[0]


def test_a_message_does_not_wait_for_all_the_others(one_worker_path: Path) -> None:
    with one_worker_path.joined() as (near, far), _flooded(one_worker_path) as busy:
        moved = []
        for _ in range(ROUND_TRIPS):
            before = _carried(busy)
            near.sendall(b"ping")
            assert receive(far, 4) == b"ping"
            far.sendall(b"pong")
            assert receive(near, 4) == b"pong"
            moved.append(_carried(busy) - before)
        until(lambda: _carried(busy) > before, "the others are busy")
        # less than if each of them had had a turn, though the message has passed the worker four times
        assert statistics.median(moved) < CONNECTIONS * TURN_BYTES


def test_one_listeners_connections_are_spread_over_all_workers() -> None:
    workers, connections = 4, 80
    with _paths(workers, encrypted=False) as path, contextlib.ExitStack() as stack:
        application = path.listening()
        hop = path.hop([endpoint(application)], None)
        for _ in range(connections):
            stack.enter_context(connect(hop.listeners[0]))
            stack.enter_context(accept(application))
        until(lambda: hop.statistics()[0].connections_open == connections, "all are open")
        port = endpoint(hop.listeners[0]).port
        counts = [_accepted_by(pid, port) for pid in path.backend.pids[1:]]  # type: ignore[attr-defined]
        assert sum(counts) == connections
        # who hands them over in a burst goes by counts that are a moment old
        assert min(counts) >= connections // workers // 2, counts


def test_a_session_uses_every_worker() -> None:
    with _paths(2, encrypted=False) as path:
        workers = [psutil.Process(pid) for pid in path.backend.pids[1:]]  # type: ignore[attr-defined]
        with _flooded(path) as busy:
            began = [_cpu_s(one) for one in workers]
            moved = _carried(busy)
            until(lambda: _carried(busy) > moved + (1 << 30), "a gigabyte is carried")
            used = [_cpu_s(one) - then for one, then in zip(workers, began, strict=True)]
        assert min(used) > sum(used) / 4


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _accepted_by(pid: int, port: int) -> int:
    """How many connections accepted on `port` belong to this process."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
        for one in psutil.Process(pid).net_connections("tcp")
    )
