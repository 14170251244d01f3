"""The control server dies, the streams go on, and the next control server has them again.

The control servers that die are processes of their own (`support.gateway_process`); the one that comes after
them is the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver import Adopted, DataServerSpec, Persistence, TlsLeg, create_backend
from scistream.dataserver.native import NativeBackend
from scistream.dataserver.tree import rendezvous
from scistream.dataserver.tree.backend import TreeBackend
from scistream.dataserver.tree.messages import MessageSocket
from scistream.errors import DataServerError
from support.data_servers import CONTAINERS, PROGRAMS, options_of, program_of
from support.gateway_process import GatewayProcess, session_body
from support.processes import MarkedProcesses
from support.relays import (
    Background,
    Identity,
    LoopThread,
    accept,
    connect,
    credentials,
    endpoint,
    free_port,
    listening,
    random_bytes,
    receive,
    receive_until_end,
    turned_away,
    until,
)

CHUNK = 10_000_000
CHUNKS = 20


class ControlServers:
    """Starts control servers, as processes and as backends of this one, all with the same directory."""

    def __init__(
        self,
        directory: Path,
        thread: LoopThread,
        kind: str = "native",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.thread = thread
        self.kind = kind
        self.settings = settings or {}
        self.marked = MarkedProcesses()
        self.processes: list[GatewayProcess] = []
        self.backends: list[TreeBackend] = []

    def start(self, *sessions: dict[str, Any], **options: Any) -> GatewayProcess:
        self.processes.append(
            GatewayProcess.start(
                self.marked.mark, self.directory, sessions, kind=self.kind, **self.settings, **options
            )
        )
        return self.processes[-1]

    def open(self, **options: Any) -> TreeBackend:
        """Be the next control server."""

        async def opened() -> TreeBackend:
            backend = create_backend(self.kind, {"workers": 2, **self.settings, **options})
            assert isinstance(backend, TreeBackend)
            self.backends.append(backend)
            await backend.open(Persistence(self.directory, 60))
            return backend

        return self.thread.run(opened())

    def adopt(
        self,
        backend: TreeBackend,
        before: GatewayProcess,
        uid: str,
        restarted: Callable[[str], None] | None = None,
    ) -> Adopted:
        return self.thread.run(backend.adopt(before.handles[uid], uid, restarted))

    def trees(self) -> list[psutil.Process]:
        """All processes of data servers that live."""
        return self.marked.named(f"scistream.dataserver.{program_of(self.kind)}")

    def close(self) -> None:
        for backend in self.backends:
            self.thread.run(backend.close())
        for process in self.processes:
            process.kill()


@pytest.fixture
def gateways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlServers]:
    """Those of the native data server: what outlives is the same for all kinds."""
    yield from _control_servers(tmp_path, monkeypatch, "native", {})


@pytest.fixture(params=["native", *PROGRAMS, *CONTAINERS])
def all_gateways(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ControlServers]:
    """Those of each kind in turn."""
    settings = options_of(request.param, request)
    yield from _control_servers(tmp_path, monkeypatch, request.param, settings)
    if settings:
        assert request.getfixturevalue("container_engine").containers() == []


def _control_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settings: dict[str, Any]
) -> Iterator[ControlServers]:
    # longer than the address of a Unix socket may be
    directory = tmp_path / ("long-" * 20) / ("name-" * 20)
    directory.mkdir(parents=True)
    directory.chmod(0o700)
    thread = LoopThread()
    gateways = ControlServers(directory, thread, kind, settings)
    monkeypatch.setenv("SCISTREAM_MARK_TEST", gateways.marked.mark)
    yield gateways
    try:
        gateways.close()
    finally:
        monkeypatch.undo()
        thread.close()
        left = gateways.marked.alive()
        for process in left:
            process.kill()
    assert not left, f"processes left behind: {left}"


def _close(adopted: Adopted) -> None:
    for listener in adopted.listeners:
        listener.close()


def _gone(pids: Sequence[int]) -> bool:
    """Whether they have ended, even if whoever inherited them has not noticed yet."""
    return all(map(_has_ended, pids))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_stream_spans_the_death_of_its_control_server_and_the_adoption_by_the_next(
    all_gateways: ControlServers,
) -> None:
    gateways = all_gateways
    producer, consumer = Identity.make(), Identity.make()
    with contextlib.ExitStack() as stack:
        application = stack.enter_context(listening())
        other_application = stack.enter_context(listening())
        # 1. one control server for both facilities' sessions; a stream through both, with TLS between them
        first = gateways.start(
            session_body("prod", [endpoint(application)], credentials(TlsLeg.LISTENER, producer, consumer)),
        )
        consumer_tls = credentials(TlsLeg.TARGET, consumer, producer)
        # its supervisor is found again only by its own directory: the consumer's has another one
        elsewhere = gateways.directory.with_name("consumer")
        elsewhere.mkdir(mode=0o700)
        far_side = ControlServers(elsewhere, gateways.thread, gateways.kind, gateways.settings)
        far_side.marked = gateways.marked
        stack.callback(far_side.close)
        second = far_side.start(session_body("cons", [first.at["prod"][0]], consumer_tls))
        near = stack.enter_context(connect(second.at["cons"][0]))
        far = stack.enter_context(accept(application))
        sent, received = hashlib.sha256(), hashlib.sha256()

        def carry(chunk: bytes, meanwhile: Callable[[], None] | None = None) -> None:
            sending = Background(lambda: near.sendall(chunk))
            got = receive(far, CHUNK // 4)
            if meanwhile is not None:
                meanwhile()
            got += receive(far, len(chunk) - len(got))
            sending.result()
            assert len(got) == len(chunk)
            sent.update(chunk)
            received.update(got)

        def both_die() -> None:
            first.kill()
            second.kill()

        data = random_bytes(CHUNK)
        adopted: list[Adopted] = []
        for number in range(CHUNKS):
            if number == 10:
                # 3. others come
                backend, far_backend = gateways.open(), far_side.open()
                assert set(backend.pids) == set(first.pids)
                reasons: list[str] = []
                adopted.append(gateways.adopt(backend, first, "prod", reasons.append))
                adopted.append(far_side.adopt(far_backend, second, "cons", reasons.append))
            # 2. both control servers die with a chunk on its way
            carry(data[number:] + data[:number], both_die if number == 5 else None)
        assert sent.digest() == received.digest()
        # 4. they see the whole stream, and lead it elsewhere; the old connection ends where it is
        for one in adopted:

            def all_counted(one: Adopted = one) -> bool:
                (channel,) = gateways.thread.run(one.server.statistics())
                assert channel.connections_open == channel.connections_total == 1
                return channel.bytes_to_target == CHUNKS * CHUNK

            until(all_counted, "every byte is counted")
        assert reasons == []
        tls = credentials(TlsLeg.LISTENER, producer, consumer)
        gateways.thread.run(adopted[0].server.retarget([endpoint(other_application)], tls))
        assert endpoint(adopted[1].listeners[0]) == second.at["cons"][0]
        with connect(second.at["cons"][0]) as new, accept(other_application) as new_far:
            new.sendall(b"elsewhere")
            assert receive(new_far, 9) == b"elsewhere"
            far.sendall(b"still here")
            assert receive(near, 10) == b"still here"
            gateways.thread.run(adopted[0].server.stop())
            assert receive_until_end(new) == b""
        for one in adopted:
            _close(one)
        gateways.thread.run(backend.close())
        assert _gone(first.pids)
        # 5. nothing is left but a lock that nobody holds
        assert [path.name for path in gateways.directory.iterdir()] == ["tree.lock"]


def test_what_is_let_go_goes_on(gateways: ControlServers) -> None:
    with listening() as application:
        before = gateways.start(session_body("one", [endpoint(application)]))
        with connect(before.at["one"][0]) as near, accept(application) as far:
            assert before.tell("detach") == 0
            near.sendall(b"on")
            assert receive(far, 2) == b"on"
            adopted = gateways.adopt(gateways.open(), before, "one")
            near.sendall(b"and on")
            assert receive(far, 6) == b"and on"
            gateways.thread.run(adopted.server.stop())
            _close(adopted)


def test_what_is_closed_ends(gateways: ControlServers) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]))
    assert before.tell("close") == 0
    assert _gone(before.pids)


def test_a_tree_without_sessions_ends_with_its_control_server(gateways: ControlServers) -> None:
    before = gateways.start()
    before.kill()
    until(lambda: _gone(before.pids), "the tree ends")
    assert set(gateways.open().pids).isdisjoint(before.pids)


def test_nothing_else_of_the_dead_control_server_stays_open(gateways: ControlServers) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]))
    connect(before.inheritable).close()
    before.kill()
    with pytest.raises(ConnectionRefusedError):
        connect(before.inheritable)
    _close(gateways.adopt(gateways.open(), before, "one"))


def test_orphans_end_when_nobody_comes_in_time(gateways: ControlServers) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]), orphan_limit_s=0.2)
    before.kill()
    until(lambda: _gone(before.pids), "the orphans end")
    backend = gateways.open()
    with pytest.raises(DataServerError, match="session one: its data server has ended"):
        gateways.adopt(backend, before, "one")


def test_without_persistence_everything_ends_with_the_control_server(gateways: ControlServers) -> None:
    async def opened() -> NativeBackend:
        backend = NativeBackend(workers=1)
        await backend.open()
        return backend

    backend = gateways.thread.run(opened())
    pids = list(backend.pids)
    gateways.thread.run(backend.detach())
    assert _gone(pids)


def test_what_nobody_adopts_is_discarded(gateways: ControlServers) -> None:
    with listening() as application:
        before = gateways.start(
            session_body("kept", [endpoint(application)]), session_body("forgotten", [endpoint(application)])
        )
        before.kill()
        backend = gateways.open()
        adopted = gateways.adopt(backend, before, "kept")
        (left,) = gateways.thread.run(backend.left_running())
        assert (left.uid, left.pid) == ("forgotten", backend.pids[0])
        assert gateways.thread.run(backend.discard_unadopted()) == 1
        assert gateways.thread.run(backend.left_running()) == ()
        assert gateways.thread.run(backend.discard_unadopted()) == 0
        with pytest.raises(ConnectionRefusedError):
            connect(before.at["forgotten"][0])
        with connect(before.at["kept"][0]), accept(application):
            pass
        with pytest.raises(DataServerError, match="session forgotten"):
            gateways.adopt(backend, before, "forgotten")
        gateways.thread.run(adopted.server.stop())
        _close(adopted)


def test_a_handle_of_another_session_or_none_is_refused(gateways: ControlServers) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]))
    before.kill()
    backend = gateways.open()
    for handle in ("", "nonsense", f"{before.handles['one'].partition(':')[0]}:77", "other-tree:1"):
        with pytest.raises(DataServerError, match="session one"):
            gateways.thread.run(backend.adopt(handle, "one"))
    with pytest.raises(DataServerError, match="'one'"):
        gateways.thread.run(backend.adopt(before.handles["one"], "two"))
    adopted = gateways.adopt(backend, before, "one")
    with pytest.raises(DataServerError, match="session one"):
        gateways.adopt(backend, before, "one")  # twice
    _close(adopted)


def test_a_second_control_server_is_refused_while_there_is_one(gateways: ControlServers) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]))
    with pytest.raises(DataServerError, match="another control server is connected"):
        gateways.open()
    before.kill()
    _close(gateways.adopt(gateways.open(), before, "one"))
    with pytest.raises(DataServerError, match=f"another control server .process {os.getpid()}. is connected"):
        gateways.open()


def test_another_version_of_the_protocol_is_an_error_that_says_what_to_do(
    gateways: ControlServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]))
    before.kill()
    with monkeypatch.context() as newer:
        newer.setattr(rendezvous, "PROTOCOL", rendezvous.PROTOCOL + 1)
        with pytest.raises(DataServerError, match=f"process {before.pids[0]}.*use the version"):
            gateways.open()
    # the streams are as before, for the right version
    _close(gateways.adopt(gateways.open(), before, "one"))


def test_another_users_or_an_open_directory_is_refused(gateways: ControlServers) -> None:
    gateways.directory.chmod(0o750)
    with pytest.raises(DataServerError, match="chmod 700"):
        gateways.open()


def test_the_socket_of_a_tree_that_was_killed_is_no_obstacle(gateways: ControlServers) -> None:
    before = gateways.start(session_body("one", [Endpoint("127.0.0.1", 9)]))
    os.kill(before.pids[0], signal.SIGKILL)
    before.kill()
    until(lambda: _gone(before.pids), "the tree ends")
    assert (gateways.directory / "tree.socket").exists()
    assert gateways.open().pids


def test_requests_that_a_dead_control_server_has_left_confuse_nobody(gateways: ControlServers) -> None:
    with listening() as application:
        before = gateways.start(session_body("one", [endpoint(application)]))
        before.kill()
        # a control server that asks much, stays for no answer, and ends in the middle of a message
        hasty = rendezvous.connect(gateways.directory)
        assert hasty is not None
        link = MessageSocket(hasty)
        link.send({"operation": "attach", "protocol": rendezvous.PROTOCOL, "orphan_limit_s": 60, "id": 1})
        for number in range(2, 30):
            link.send({"operation": "statistics", "key": 1, "id": number})
        hasty.send(b"\x00{")
        link.close()
        adopted = gateways.adopt(gateways.open(), before, "one")
        with connect(before.at["one"][0]) as near, accept(application) as far:
            near.sendall(b"hello")
            assert receive(far, 5) == b"hello"
            for _ in range(5):
                (channel,) = gateways.thread.run(adopted.server.statistics())
                assert channel.bytes_to_target == 5
        gateways.thread.run(adopted.server.stop())
        _close(adopted)


def test_a_nonsensical_request_ends_the_connection_and_no_stream(gateways: ControlServers) -> None:
    with listening() as application:
        before = gateways.start(session_body("one", [endpoint(application)]))
        with connect(before.at["one"][0]) as near, accept(application) as far:
            before.kill()
            for body in (
                {"operation": "statistics"},
                {"operation": "attach"},
                {"operation": "stop", "key": "x"},
            ):
                stranger = rendezvous.connect(gateways.directory)
                assert stranger is not None
                link = MessageSocket(stranger)
                link.send({**body, "id": 1})
                until(lambda link=link: bool(link.receive()) or link.ended, "an answer")
                link.close()
            near.sendall(b"hello")
            assert receive(far, 5) == b"hello"
        adopted = gateways.adopt(gateways.open(), before, "one")
        gateways.thread.run(adopted.server.stop())
        _close(adopted)


def test_what_happens_without_a_control_server_is_told_to_the_next(
    gateways: ControlServers, caplog: pytest.LogCaptureFixture
) -> None:
    # the dead control server's standard error is a pipe that nobody reads any more
    nobody_there = Endpoint("127.0.0.1", free_port())
    before = gateways.start(session_body("one", [nobody_there]))
    before.kill()
    for _ in range(3):
        assert turned_away(before.at["one"][0])
    worker = before.pids[1]
    os.kill(worker, signal.SIGKILL)
    until(lambda: _gone([worker]), "the worker ends")
    until(lambda: len(gateways.trees()) == 3, "another one takes its place")
    assert turned_away(before.at["one"][0])
    reasons: list[str] = []
    with caplog.at_level(logging.INFO):
        adopted = gateways.adopt(gateways.open(), before, "one", reasons.append)
        until(lambda: "SIGKILL" in caplog.text, "the log of the time between")
    assert "connection refused" in caplog.text
    (reason,) = reasons
    assert f"pid {worker}" in reason
    assert "SIGKILL" in reason
    gateways.thread.run(adopted.server.stop())
    _close(adopted)


def test_a_connection_that_is_lost_does_not_leave_two_data_servers_on_one_listener(
    gateways: ControlServers,
) -> None:
    """A control server whose connection broke gives its sessions up; it starts them anew in the same tree."""
    backend = gateways.open()
    with listening() as application, listening() as other, listening() as listener:
        server = backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(application),))
        gateways.thread.run(server.start(spec))
        pids = backend.pids
        ours = backend._tree._connection._link._socket  # type: ignore[union-attr] # what breaks is inside
        ours.shutdown(socket.SHUT_RDWR)
        assert gateways.thread.run(server.wait())
        again = backend.create()
        spec = DataServerSpec(uid="one", listeners=(listener,), targets=(endpoint(other),))
        gateways.thread.run(again.start(spec))
        assert backend.pids == pids
        for _ in range(8):
            with connect(listener), accept(other):
                pass
        gateways.thread.run(again.stop())
