"""What data servers that run a program per session do when it dies, is missing, or is to be gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.auth.certificates import make_certificate
from scistream.core.endpoint import Endpoint
from scistream.dataserver import (
    DataServer,
    DataServerBackend,
    DataServerSpec,
    Persistence,
    TlsCredentials,
    TlsLeg,
    create_backend,
)
from scistream.dataserver.tree.children import MAX_DEATHS
from scistream.errors import DataServerError
from support.container_engine import ContainerEngine
from support.data_servers import CONTAINERS, PROGRAMS, PROGRAMS_MOSTLY, options_of, program_of
from support.relays import (
    Background,
    Identity,
    LoopThread,
    accept,
    connect,
    credentials,
    descendants,
    endpoint,
    listening,
    receive,
    receive_until_end,
    until,
)
from support.tls_peer import tls_context

OWN, PEER = Identity.make(), Identity.make()
BINARIES = {"haproxy": "haproxy", "nginx": "nginx", "stunnel": "stunnel"}


@dataclass
class Gateway:
    """A backend with persistence, and sessions in it whose accepted leg is encrypted."""

    kind: str
    directory: Path
    thread: LoopThread
    stack: contextlib.ExitStack
    options: dict[str, Any]
    engine: ContainerEngine | None
    backend: DataServerBackend
    restarts: list[str] = field(default_factory=list)

    def listening(self) -> socket.socket:
        return self.stack.enter_context(listening())

    def start(
        self, listener: socket.socket, target: Endpoint, tls: TlsCredentials | None = None, **options: Any
    ) -> DataServer:
        server = self.backend.create(self.restarts.append)
        tls = tls or credentials(TlsLeg.LISTENER, OWN, PEER)
        spec = DataServerSpec(
            uid="session", listeners=(listener,), targets=(target,), **{"tls": tls, **options}
        )
        self.thread.run(server.start(spec))
        return server

    def connect(self, listener: socket.socket, own: Identity = PEER) -> socket.socket:
        """A connection as of the other side's gateway."""
        return self.stack.enter_context(tls_context(own, OWN).wrap_socket(connect(listener)))

    def masters(self) -> list[psutil.Process]:
        """The programs that sessions run, without their own children."""
        name = program_of(self.kind)
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if (parent := process.parent()) is not None and parent.name() != name:
                    found.append(process)
        return found

    def processes(self) -> list[psutil.Process]:
        """All processes of programs."""
        return _named(program_of(self.kind), descendants() + (self.engine.processes() if self.engine else []))

    def files(self) -> list[Path]:
        return [path for path in (self.directory / "programs").rglob("*") if path.is_file()]

    def close(self) -> None:
        self.thread.run(self.backend.close())


@pytest.fixture(params=PROGRAMS_MOSTLY)
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    yield from _opened(request, tmp_path)


@pytest.fixture(params=[*PROGRAMS, *CONTAINERS])
def any_gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    """Those in containers too, for all in which they differ."""
    yield from _opened(request, tmp_path)


def _opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    thread = LoopThread()
    tmp_path.chmod(0o700)
    options = options_of(request.param, request)
    engine = request.getfixturevalue("container_engine") if options else None

    async def opened() -> DataServerBackend:
        backend = create_backend(request.param, options)
        await backend.open(Persistence(tmp_path, 60))
        return backend

    with contextlib.ExitStack() as stack:
        stack.callback(thread.close)
        gateway = Gateway(request.param, tmp_path, thread, stack, options, engine, thread.run(opened()))
        stack.callback(gateway.close)
        yield gateway
    assert engine is None or engine.containers() == []


def _carry(gateway: Gateway, listener: socket.socket, application: socket.socket) -> None:
    near = gateway.connect(listener)
    with accept(application) as far:
        near.sendall(b"hello")
        assert receive(far, 5) == b"hello"
        far.sendall(b"yes")
        assert receive(near, 3) == b"yes"
    near.close()


def _totals(gateway: Gateway, server: DataServer) -> tuple[int, int, int]:
    (channel,) = gateway.thread.run(server.statistics())
    return channel.connections_total, channel.bytes_to_target, channel.bytes_from_target


def test_a_program_that_is_killed_is_started_again_on_the_same_listener(any_gateway: Gateway) -> None:
    gateway = any_gateway
    application, listener = gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(application))
    _carry(gateway, listener, application)
    until(lambda: _totals(gateway, server) == (1, 5, 3), "it is counted")
    near = gateway.connect(listener)
    far = gateway.stack.enter_context(accept(application))
    for count in (1, 2):
        (program,) = gateway.masters()
        program.kill()
        # the port is never closed: whoever comes meanwhile is not refused
        connect(listener).close()
        until(lambda count=count: len(gateway.restarts) == count, "the restart is told")
        assert program not in gateway.masters()
        _carry(gateway, listener, application)
        until(
            lambda count=count: _totals(gateway, server)[1:] == (5 + 5 * count, 3 + 3 * count),
            "it is counted",
        )
    assert all("SIGKILL" in reason for reason in gateway.restarts)
    assert receive_until_end(near) == b""
    assert receive_until_end(far) == b""
    gateway.thread.run(server.stop())


def test_a_restarted_program_has_the_present_target_and_keys(gateway: Gateway) -> None:
    first, second, listener = gateway.listening(), gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(first))
    other = Identity.make()
    tls = credentials(TlsLeg.LISTENER, OWN, other)
    gateway.thread.run(server.retarget([endpoint(second)], tls))
    for restarts in (0, 1):
        until(lambda restarts=restarts: len(gateway.restarts) == restarts, "it has been started")
        near = gateway.connect(listener, other)
        with accept(second) as far:
            near.sendall(b"new")
            assert receive(far, 3) == b"new"
        near.close()
        # who was known before is a stranger now
        with contextlib.suppress(OSError):
            stranger = gateway.connect(listener, PEER)
            stranger.sendall(b"old")
            assert receive_until_end(stranger) == b""
        if not restarts:
            gateway.masters()[-1].kill()
    gateway.thread.run(server.stop())


def test_a_program_that_dies_again_and_again_is_given_up_with_a_reason(gateway: Gateway) -> None:
    application, listener = gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(application))
    waiting = Background(lambda: gateway.thread.run(server.wait()))
    for count in range(MAX_DEATHS + 1):
        until(lambda count=count: len(gateway.restarts) == count, "it runs")
        (program,) = gateway.masters()
        program.kill()
    assert "not started again" in waiting.result()
    with pytest.raises(DataServerError, match="SIGKILL"):
        gateway.thread.run(server.statistics())
    gateway.thread.run(server.stop())
    # as a control server does then
    again = gateway.start(listener, endpoint(application))
    _carry(gateway, listener, application)
    gateway.thread.run(again.stop())


def test_a_worker_that_dies_takes_its_programs_along_and_is_replaced(any_gateway: Gateway) -> None:
    gateway = any_gateway
    application, listener = gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(application))
    _carry(gateway, listener, application)
    until(lambda: _totals(gateway, server) == (1, 5, 3), "it is counted")
    programs = gateway.masters()
    os.kill(gateway.backend.pids[1], signal.SIGKILL)  # type: ignore[attr-defined]
    until(lambda: len(gateway.restarts) == 1, "the restart is told")
    psutil.wait_procs(programs, timeout=10)
    assert not any(program.is_running() for program in programs)
    _carry(gateway, listener, application)
    until(lambda: _totals(gateway, server) == (2, 10, 6), "it goes on counting")
    gateway.thread.run(server.stop())


def test_retargeting_loses_no_count_and_old_processes_end_with_their_connections(
    any_gateway: Gateway,
) -> None:
    gateway = any_gateway
    first, second, listener = gateway.listening(), gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(first))
    near = gateway.connect(listener)
    far = gateway.stack.enter_context(accept(first))
    near.sendall(b"before")
    assert receive(far, 6) == b"before"
    tls = credentials(TlsLeg.LISTENER, OWN, PEER)
    gateway.thread.run(server.retarget([endpoint(second)], tls))
    _carry(gateway, listener, second)
    near.sendall(b" and after")
    assert receive(far, 10) == b" and after"
    until(lambda: _totals(gateway, server) == (2, 21, 3), "both are counted")
    near.close()
    assert receive_until_end(far) == b""
    far.close()
    until(lambda: len(gateway.masters()) == 1, "the old process has ended")
    assert _totals(gateway, server) == (2, 21, 3)
    gateway.thread.run(server.stop())


def test_statistics_are_told_at_any_time_of_a_retargeting(gateway: Gateway) -> None:
    application, listener = gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(application))
    _carry(gateway, listener, application)
    until(lambda: _totals(gateway, server) == (1, 5, 3), "it is counted")

    async def told_meanwhile() -> set[tuple[int, int, int]]:
        tls, told = credentials(TlsLeg.LISTENER, OWN, PEER), set()
        changing = asyncio.ensure_future(server.retarget([endpoint(application)], tls))
        while not changing.done() or len(gateway.masters()) > 1:
            (channel,) = await server.statistics()
            told.add((channel.connections_total, channel.bytes_to_target, channel.bytes_from_target))
        await changing
        return told

    for _ in range(5):
        assert gateway.thread.run(told_meanwhile()) == {(1, 5, 3)}
    gateway.thread.run(server.stop())


def test_after_stop_nothing_is_left_and_keys_are_for_this_user_only(any_gateway: Gateway) -> None:
    gateway = any_gateway
    application, listener = gateway.listening(), gateway.listening()
    before = set(descendants())
    server = gateway.start(listener, endpoint(application))
    _carry(gateway, listener, application)
    assert gateway.files()
    for path in (gateway.directory / "programs").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    key = OWN.key.splitlines()[1]
    assert any(key in path.read_bytes() for path in gateway.files())
    for process in set(descendants()) - before | set(gateway.processes()):
        with (
            open(f"/proc/{process.pid}/cmdline", "rb") as line,
            open(f"/proc/{process.pid}/environ", "rb") as variables,
        ):
            assert key not in line.read() + variables.read()
    gateway.thread.run(server.stop())
    assert set(descendants()) == before
    assert gateway.processes() == []
    assert gateway.engine is None or gateway.engine.containers() == []
    assert gateway.files() == []
    gateway.close()
    assert [path.name for path in gateway.directory.iterdir()] == ["tree.lock"]


def test_what_a_killed_tree_has_left_is_removed_at_the_next_start(any_gateway: Gateway) -> None:
    gateway = any_gateway
    application, listener = gateway.listening(), gateway.listening()
    gateway.start(listener, endpoint(application))
    programs = gateway.processes()
    for pid in gateway.backend.pids:  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)
    psutil.wait_procs(programs, timeout=10)
    assert not any(program.is_running() for program in programs)
    assert gateway.files()

    async def opened_again() -> None:
        await gateway.backend.close()
        await gateway.backend.open()

    gateway.thread.run(opened_again())
    assert gateway.files() == []


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "supervisor killed"])
def test_without_persistence_files_are_in_a_temporary_folder_that_goes_with_the_tree(
    gateway: Gateway, killed: bool
) -> None:
    kept: list[Path] = []

    before = gateway.processes()

    async def use() -> None:
        backend = create_backend(gateway.kind, gateway.options)
        await backend.open()
        try:
            with listening() as application, listening() as listener:
                server = backend.create()
                tls = credentials(TlsLeg.LISTENER, OWN, PEER)
                await server.start(
                    DataServerSpec(uid="s", listeners=(listener,), targets=(endpoint(application),), tls=tls)
                )
                supervisor, _ = map(psutil.Process, backend.pids)  # type: ignore[attr-defined]
                programs = [program for program in gateway.processes() if program not in before]
                kept.extend(Path(program.cwd()) for program in programs)
                if killed:
                    supervisor.kill()
                    await server.wait()
        finally:
            await backend.close()

    gateway.thread.run(use())
    assert kept
    until(lambda: not any(folder.parent.exists() for folder in kept), "the folder is removed")


def test_a_rate_is_refused_with_what_can_keep_it(gateway: Gateway) -> None:
    listener = gateway.listening()
    with pytest.raises(DataServerError, match=r"cannot hold a session to 100 Mb/s.*native"):
        gateway.start(listener, Endpoint("127.0.0.1", 9), rate_mbps=100)


def test_a_peer_that_could_vouch_for_others_is_refused(gateway: Gateway) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    certificate_pem, _ = make_certificate(["localhost"])
    ours = x509.load_pem_x509_certificate(certificate_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = (
        x509.CertificateBuilder()
        .subject_name(ours.subject)
        .issuer_name(ours.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ours.not_valid_before_utc)
        .not_valid_after(ours.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    tls = credentials(TlsLeg.LISTENER, OWN, Identity(authority, b""))
    with pytest.raises(DataServerError, match="vouch for others"):
        gateway.start(gateway.listening(), Endpoint("127.0.0.1", 9), tls)


def test_no_session_is_resumed(gateway: Gateway) -> None:
    application, listener = gateway.listening(), gateway.listening()
    server = gateway.start(listener, endpoint(application))
    context = tls_context(PEER, OWN)
    with context.wrap_socket(connect(listener)) as first, accept(application) as far:
        far.sendall(b"x")
        assert receive(first, 1) == b"x"  # a ticket would have come before it
        session = first.session
    with context.wrap_socket(connect(listener), session=session) as second, accept(application):
        assert not second.session_reused
    gateway.thread.run(server.stop())


def test_what_the_program_says_is_logged_with_the_session(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    application, listener = gateway.listening(), gateway.listening()
    with caplog.at_level(logging.INFO):
        gateway.close()

        async def opened() -> None:
            await gateway.backend.open()

        gateway.thread.run(opened())  # with this log level
        server = gateway.start(listener, endpoint(application))
        with contextlib.suppress(OSError), connect(listener) as stranger:
            stranger.sendall(b"let me in, I have no certificate\n")
            assert receive_until_end(stranger) != b"x"
        until(lambda: "session session: " in caplog.text, "a line of the program")
        gateway.thread.run(server.stop())


@pytest.mark.parametrize("kind", list(BINARIES))
def test_a_missing_program_is_one_line_that_says_what_to_install(kind: str) -> None:
    reason = _refusal(kind, "/nowhere/" + kind)
    assert f"/nowhere/{kind} is not installed" in reason
    assert f"apt install {kind}" in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("kind", "says", "version"),
    [
        ("haproxy", "HAProxy version 1.8.4", "1.8"),
        ("nginx", "nginx version: nginx/1.18.0", "1.18.0"),
        ("stunnel", "stunnel 5.44 on x86", "5.44"),
    ],
)
def test_a_program_that_is_too_old_is_refused_with_its_version(
    kind: str, says: str, version: str, tmp_path: Path
) -> None:
    script = tmp_path / kind
    script.write_text(f"#!/bin/sh\necho '{says}'\n")
    script.chmod(0o755)
    assert f"{script} is version {version}; at least " in _refusal(kind, str(script))


def _refusal(kind: str, binary: str) -> str:
    thread = LoopThread()

    async def opened() -> str:
        backend = create_backend(kind, {"binary": binary})
        try:
            with pytest.raises(DataServerError) as refusal:
                await backend.open()
            return str(refusal.value)
        finally:
            await backend.close()

    try:
        return thread.run(opened())
    finally:
        thread.close()


@pytest.mark.peer("stunnel")
def test_stunnel_refuses_a_plain_session_and_says_what_to_do() -> None:
    thread = LoopThread()

    async def refused() -> None:
        backend = create_backend("Stunnel")
        await backend.open()
        try:
            with (
                listening() as listener,
                pytest.raises(DataServerError, match=r"not encrypted.*--encryption required"),
            ):
                await backend.create().start(
                    DataServerSpec(uid="s", listeners=(listener,), targets=(Endpoint("127.0.0.1", 9),))
                )
        finally:
            await backend.close()

    thread.run(refused())
    thread.close()


@pytest.mark.peer("nginx")
def test_nginx_workers_whose_master_was_killed_do_not_stay(tmp_path: Path) -> None:
    thread = LoopThread()
    backend = create_backend("nginx", {"workers": 3})
    reasons: list[str] = []
    with listening() as application, listening() as listener:

        async def started() -> DataServer:
            await backend.open()
            server = backend.create(reasons.append)
            await server.start(
                DataServerSpec(uid="s", listeners=(listener,), targets=(endpoint(application),))
            )
            return server

        try:
            thread.run(started())
            until(lambda: len(_named("nginx", descendants())) == 4, "a master and its workers")
            before = _named("nginx", descendants())
            min(before, key=lambda process: process.pid).kill()
            until(lambda: len(reasons) == 1, "the restart is told")
            assert not any(process.is_running() and process.status() != "zombie" for process in before)
            with connect(listener), accept(application):
                pass
        finally:
            thread.run(backend.close())
            thread.close()
    assert _named("nginx", descendants()) == []


def _named(name: str, processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == name:
                found.append(process)
    return found
