"""A process of the data server dies: what is lost, what goes on, and what is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest

from scistream.dataserver import DataServer, DataServerSpec
from scistream.dataserver.native import NativeBackend
from scistream.dataserver.tree.children import MAX_DEATHS
from scistream.errors import DataServerError
from support.relays import (
    LOCALHOST,
    Background,
    Identity,
    LoopThread,
    Path,
    accept,
    connect,
    descendants,
    endpoint,
    listening,
    receive,
    receive_until_reset,
    until,
)

WORKERS = 2


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture
def backend(thread: LoopThread) -> Iterator[NativeBackend]:
    """One that may be ruined."""

    async def opened() -> NativeBackend:
        backend = NativeBackend(workers=WORKERS)
        await backend.open()
        return backend

    backend = thread.run(opened())
    yield backend
    thread.run(backend.close())


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def path(request: pytest.FixtureRequest, backend: NativeBackend, thread: LoopThread) -> Iterator[Path]:
    path = Path(thread, backend, encrypted=request.param)
    yield path
    path.close()


def _connections_of(pid: int, port: int) -> int:
    """How many connections accepted on `port` belong to this process."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
        for one in psutil.Process(pid).net_connections("tcp")
    )


def test_a_worker_that_dies_loses_its_connections_only_and_is_replaced(
    path: Path, backend: NativeBackend, thread: LoopThread
) -> None:
    application = path.listening()
    restarted: list[str] = []
    listener = path.listening()
    server = backend.create(restarted.append)
    spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
    thread.run(server.start(spec))
    port = endpoint(listener).port
    with contextlib.ExitStack() as stack:
        # one connection in each worker
        pairs = []
        for _ in range(WORKERS):
            near = stack.enter_context(connect(listener))
            far = stack.enter_context(accept(application))
            near.sendall(b"first")
            assert receive(far, 5) == b"first"
            pairs.append((near, far))
        supervisor, *workers = backend.pids
        assert [_connections_of(pid, port) for pid in workers] == [1] * WORKERS
        before = thread.run(server.statistics())
        victim = next(pid for pid in workers if _owner(pid, pairs[0][0]))
        os.kill(victim, signal.SIGKILL)
        # its connection is reset at both ends, never ended as if complete
        assert receive_until_reset(pairs[0][0]) == b""
        assert receive_until_reset(pairs[0][1]) == b""
        until(lambda: bool(restarted), "the restart is told")
        assert f"pid {victim}" in restarted[0]
        assert "SIGKILL" in restarted[0]
        # the other one goes on, and so does the supervisor
        pairs[1][0].sendall(b"second")
        assert receive(pairs[1][1], 6) == b"second"
        assert backend.pids[0] == supervisor
        assert victim not in backend.pids
        assert len(backend.pids) == 1 + WORKERS
        # nothing that was counted is forgotten
        (now,) = thread.run(server.statistics())
        assert now.bytes_to_target == before[0].bytes_to_target + 6 == 16
        assert now.connections_total == WORKERS
        assert now.connections_open == 1
        # the new worker takes its share
        near = stack.enter_context(connect(listener))
        far = stack.enter_context(accept(application))
        near.sendall(b"third")
        assert receive(far, 5) == b"third"
        assert [_connections_of(pid, port) for pid in backend.pids[1:]] == [1] * WORKERS
        (now,) = thread.run(server.statistics())
        assert now.bytes_to_target == 21
        thread.run(server.stop())
    assert len(restarted) == 1


def _owner(pid: int, near: socket.socket) -> bool:
    port = near.getsockname()[1]
    return any(one.raddr and one.raddr.port == port for one in psutil.Process(pid).net_connections("tcp"))


def test_a_new_worker_forwards_to_the_present_target_with_the_present_keys(
    path: Path, backend: NativeBackend, thread: LoopThread
) -> None:
    first, second = path.listening(), path.listening()
    restarted: list[str] = []
    producer = path.producer([endpoint(first)])
    consumer = path.consumer([endpoint(producer.listeners[0])])
    path.producer_identity = Identity.make() if path.encrypted else path.producer_identity
    producer.retarget([endpoint(second)], path.producer_tls)
    consumer.retarget([endpoint(producer.listeners[0])], path.consumer_tls)
    for pid in backend.pids[1:]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(backend.pids)) == 1 + WORKERS and _all_alive(backend), "both are replaced")
    with connect(consumer.listeners[0]) as near, accept(second) as far:
        near.sendall(b"hello")
        assert receive(far, 5) == b"hello"
    assert not restarted


def _all_alive(backend: NativeBackend) -> bool:
    return all(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in backend.pids
    )


def test_statistics_asked_while_workers_die_never_go_down(backend: NativeBackend, thread: LoopThread) -> None:
    with listening() as application, listening() as listener:
        server = backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
        thread.run(server.start(spec))
        highest = 0
        for _ in range(3):
            with connect(listener) as near, accept(application) as far:
                near.sendall(b"hello")
                assert receive(far, 5) == b"hello"
                (before,) = thread.run(server.statistics())
                assert before.bytes_to_target == highest + 5
                os.kill(backend.pids[1], signal.SIGKILL)
                (now,) = thread.run(server.statistics())
                assert now.bytes_to_target >= before.bytes_to_target
                highest = now.bytes_to_target
        thread.run(server.stop())


def test_a_new_worker_gets_a_thousand_listeners(backend: NativeBackend, thread: LoopThread) -> None:
    """More than select() or one packet of descriptors can hold."""
    count = 1100
    with contextlib.ExitStack() as stack:
        application = stack.enter_context(listening())
        listeners = tuple(stack.enter_context(listening()) for _ in range(count))
        restarted: list[str] = []
        server = backend.create(restarted.append)
        spec = DataServerSpec(uid="wide", listeners=listeners, targets=(endpoint(application),))
        thread.run(server.start(spec))
        for _ in range(2):
            expected = len(restarted) + WORKERS
            for pid in backend.pids[1:]:
                os.kill(pid, signal.SIGKILL)
            until(lambda expected=expected: len(restarted) == expected, "both are replaced")  # type: ignore[misc]
        for listener in (listeners[0], listeners[-1]):
            with connect(listener), accept(application):
                pass
        thread.run(server.stop())


def test_a_worker_that_hangs_is_replaced_when_it_owes_an_answer(
    path: Path, backend: NativeBackend, thread: LoopThread
) -> None:
    application, listener, restarted = path.listening(), path.listening(), list[str]()
    server = backend.create(restarted.append)
    spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
    thread.run(server.start(spec))
    victim = backend.pids[-1]
    os.kill(victim, signal.SIGSTOP)
    thread.run(server.statistics())
    until(lambda: len(restarted) == 1, "it is replaced")
    assert "was killed by SIGKILL" in restarted[0]
    assert victim not in backend.pids
    for _ in range(4):
        with connect(listener), accept(application):
            pass
    thread.run(server.stop())


def test_a_supervisor_that_hangs_is_killed_by_who_wants_a_session_ended(
    backend: NativeBackend, thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scistream.dataserver.tree.connection.REQUEST_LIMIT_S", 0.2)
    with listening() as application, listening() as listener:
        server = backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
        thread.run(server.start(spec))
        with connect(listener) as near, accept(application):
            hung, *workers = [psutil.Process(pid) for pid in backend.pids]
            for process in (hung, workers[0]):
                os.kill(process.pid, signal.SIGSTOP)
            thread.run(server.stop())
            receive_until_reset(near)
        _, alive = psutil.wait_procs([hung, *workers], 10)
        assert not alive
        # the next session has a tree of its own
        other = backend.create()
        thread.run(other.start(spec))
        with connect(listener), accept(application):
            pass
        thread.run(other.stop())


def test_requests_under_way_when_a_worker_dies_are_answered(
    backend: NativeBackend, thread: LoopThread
) -> None:
    """One session is being started, another one is stopped while it is being started."""
    victim = backend.pids[-1]
    os.kill(victim, signal.SIGSTOP)
    with listening() as application, listening() as listener, listening() as stopped_meanwhile:
        started, other = backend.create(), backend.create()

        def spec(sock: socket.socket) -> DataServerSpec:
            return DataServerSpec(uid="one", listeners=(sock,), targets=(endpoint(application),))

        async def asked_and_killed() -> None:
            tree = await backend.tree()
            starting = asyncio.ensure_future(started.start(spec(listener)))
            stopped = asyncio.ensure_future(other.start(spec(stopped_meanwhile)))
            while len(tree.sessions) < 2:
                await asyncio.sleep(0.001)
            stopping = asyncio.ensure_future(other.stop())
            await asyncio.sleep(0)
            os.kill(victim, signal.SIGKILL)
            await asyncio.wait_for(asyncio.gather(starting, stopped, stopping), 10)
            assert len(tree.sessions) == 1

        thread.run(asked_and_killed())
        for _ in range(4):
            with connect(listener), accept(application):
                pass
        thread.run(started.stop())
        assert all(one.status() != psutil.STATUS_ZOMBIE for one in descendants())


def test_a_session_that_is_stopped_while_its_target_is_looked_up_is_not_started(
    backend: NativeBackend, thread: LoopThread
) -> None:
    async def start_and_stop(listener: socket.socket) -> None:
        tree, server = await backend.tree(), backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(listener),))
        starting = asyncio.ensure_future(server.start(spec))
        await asyncio.sleep(0)
        await server.stop()
        with pytest.raises(DataServerError, match="session one: stopped"):
            await starting
        assert not tree.sessions

    with listening() as listener:
        thread.run(start_and_stop(listener))


def test_a_worker_that_dies_again_and_again_ends_the_tree_with_a_reason(
    backend: NativeBackend, thread: LoopThread
) -> None:
    with listening() as application, listening() as listener:
        server = backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
        thread.run(server.start(spec))
        waiting = Background(lambda: thread.run(server.wait()))
        pids: set[int] = set()
        for _ in range(MAX_DEATHS + 1):
            until(lambda: backend.pids[1:2] != () and backend.pids[1] not in pids, "a new worker")
            pids.add(backend.pids[1])
            os.kill(backend.pids[1], signal.SIGKILL)
        assert "not replaced" in waiting.result()
        until(lambda: all(one.status() == psutil.STATUS_ZOMBIE for one in descendants()), "everything ends")
        with pytest.raises(DataServerError, match="not replaced"):
            thread.run(server.statistics())
        thread.run(server.stop())


def test_a_dead_supervisor_ends_its_workers_and_a_new_tree_takes_the_listeners(
    backend: NativeBackend, thread: LoopThread
) -> None:
    count = 5
    with contextlib.ExitStack() as stack:
        application = stack.enter_context(listening())
        listeners = [stack.enter_context(listening()) for _ in range(count)]

        async def start(number: int) -> DataServer:
            server = backend.create()
            listener = listeners[number]
            await server.start(
                DataServerSpec(uid=f"s{number}", listeners=(listener,), targets=(endpoint(application),))
            )
            return server

        async def restart(number: int, server: DataServer) -> tuple[str, DataServer]:
            reason = await server.wait()
            return reason, await start(number)

        async def all_at_once(servers: list[DataServer]) -> list[tuple[str, DataServer]]:
            return await asyncio.gather(*(restart(number, one) for number, one in enumerate(servers)))

        servers = [thread.run(start(number)) for number in range(count)]
        before = backend.pids
        near = stack.enter_context(connect(listeners[0]))
        far = stack.enter_context(accept(application))
        again = Background(lambda: thread.run(all_at_once(servers)))
        os.kill(before[0], signal.SIGKILL)
        assert receive_until_reset(near) == b""
        assert receive_until_reset(far) == b""
        outcome = again.result()
        assert all(f"pid {before[0]}" in reason and "SIGKILL" in reason for reason, _ in outcome)
        # one tree, not one per session
        until(lambda: len(descendants()) == 1 + WORKERS, "one tree only")
        assert set(backend.pids).isdisjoint(before)
        for listener in listeners:
            with connect(listener) as new, accept(application) as new_far:
                new.sendall(b"hello")
                assert receive(new_far, 5) == b"hello"
        for _, server in outcome:
            thread.run(server.stop())


def test_ports_are_free_after_all_that(backend: NativeBackend, thread: LoopThread) -> None:
    with listening() as application:
        listener = listening()
        at = endpoint(listener)
        server = backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
        thread.run(server.start(spec))
        restarted = backend.pids[1]
        os.kill(restarted, signal.SIGKILL)
        until(lambda: restarted not in backend.pids, "it is replaced")
        thread.run(server.stop())
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            connect(at)
        assert at.host == LOCALHOST
