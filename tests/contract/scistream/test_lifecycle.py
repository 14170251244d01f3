"""Starting, failing, dying: what a control server may rely on whatever the data server is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver import (
    DataServerBackend,
    DataServerSpec,
    TlsLeg,
    create_backend,
)
from scistream.errors import ConfigurationError, DataServerError, SciStreamError
from support.data_servers import PROGRAMS_MOSTLY, options_of
from support.relays import Identity, credentials, descendants, endpoint, listening
from support.tls_peer import tls_context


@pytest.fixture(params=["native", *PROGRAMS_MOSTLY])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[DataServerBackend]:
    """A backend of its own for each test, which may be ruined."""
    backend = create_backend(request.param, options_of(request.param, request))
    await backend.open()
    yield backend
    await backend.close()


OWN, PEER = Identity.make(), Identity.make()


def _spec(
    backend: DataServerBackend, listeners: Sequence[socket.socket], *targets: Endpoint, **options: Any
) -> DataServerSpec:
    """A session that is plain if this data server has plain ones."""
    if "tls" not in options and type(backend).__name__.startswith("Stunnel"):
        options["tls"] = credentials(TlsLeg.TARGET, OWN, PEER)
    return DataServerSpec(uid="session", listeners=tuple(listeners), targets=targets, **options)


def _application_tls(backend: DataServerBackend) -> ssl.SSLContext | None:
    """What an application's server needs to be reached by such a session."""
    if type(backend).__name__.startswith("Stunnel"):
        return tls_context(PEER, OWN, server=True)
    return None


async def _echo(backend: DataServerBackend) -> None:
    """Start a session, send something through it, stop it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(
        answer, "127.0.0.1", 0, ssl=_application_tls(backend)
    ) as application:
        with listening() as listener:
            server = backend.create()
            await server.start(_spec(backend, [listener], endpoint(application.sockets[0])))
            at = endpoint(listener)
            reader, writer = await asyncio.open_connection(at.host, at.port)
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.read(100), 10) == b"hello"
            writer.close()
            await server.stop()


async def test_a_session_is_started_and_stopped_within_milliseconds(backend: DataServerBackend) -> None:
    if type(backend).__name__ != "NativeBackend":
        pytest.skip("starts a process per session")
    loop, times = asyncio.get_running_loop(), []
    for _ in range(5):
        with listening() as listener:
            server = backend.create()
            began = loop.time()
            await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
            times.append(loop.time() - began)
            await server.stop()
    assert min(times) < 0.05


async def test_a_death_is_reported_to_every_session(backend: DataServerBackend) -> None:
    with listening() as one, listening() as other:
        servers = [backend.create(), backend.create()]
        for server, listener in zip(servers, (one, other), strict=True):
            await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
        waiting = [asyncio.ensure_future(server.wait()) for server in servers]
        await asyncio.sleep(0)
        _oldest(descendants()).kill()
        reasons = await asyncio.wait_for(asyncio.gather(*waiting), 10)
        assert all("SIGKILL" in reason for reason in reasons)
        for server in servers:
            with pytest.raises(DataServerError):
                await server.statistics()
            await server.stop()


def _oldest(processes: list[psutil.Process]) -> psutil.Process:
    return min(processes, key=lambda process: (process.create_time(), process.pid))


def _youngest(processes: list[psutil.Process]) -> psutil.Process:
    return max(processes, key=lambda process: (process.create_time(), process.pid))


async def test_new_sessions_work_after_a_death(backend: DataServerBackend) -> None:
    await _echo(backend)
    with listening() as listener:
        server = backend.create()
        await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
        _oldest(descendants()).kill()
        await asyncio.wait_for(server.wait(), 10)
        await server.stop()
    await _echo(backend)


async def test_close_leaves_no_process(backend: DataServerBackend) -> None:
    with listening() as listener:
        server = backend.create()
        await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
        assert descendants()
        await backend.close()
        assert not descendants()
        await backend.close()  # idempotent
        await server.stop()


async def test_open_twice_is_open_once(backend: DataServerBackend) -> None:
    before = {process.pid for process in descendants()}
    await backend.open()
    assert {process.pid for process in descendants()} == before


async def test_a_session_starts_once(backend: DataServerBackend) -> None:
    with listening() as listener:
        server = backend.create()
        await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
        with pytest.raises(DataServerError, match="started before"):
            await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
        await server.stop()


async def test_an_idle_data_server_can_be_stopped_and_says_that_it_does_not_run(
    backend: DataServerBackend,
) -> None:
    server = backend.create()
    with pytest.raises(DataServerError, match="not running"):
        await server.statistics()
    with pytest.raises(DataServerError, match="not running"):
        await server.retarget([Endpoint("127.0.0.1", 9)], None)
    await server.stop()
    assert await asyncio.wait_for(server.wait(), 1) == "stopped"


async def test_a_target_without_an_address_is_refused_by_name(backend: DataServerBackend) -> None:
    with listening() as listener:
        server = backend.create()
        with pytest.raises(DataServerError, match=r"no-such-host\.invalid"):
            await server.start(_spec(backend, [listener], Endpoint("no-such-host.invalid", 9)))
        await server.stop()


@pytest.mark.parametrize("part", ["certificate", "key", "peer", "other key"])
async def test_credentials_that_cannot_work_are_refused_at_start_without_showing_them(
    backend: DataServerBackend, part: str
) -> None:
    own, peer = Identity.make(), Identity.make()
    wrong = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    identities = {
        "certificate": (Identity(wrong, own.key), peer),
        "key": (Identity(own.certificate, wrong), peer),
        "peer": (own, Identity(wrong, peer.key)),
        "other key": (Identity(own.certificate, peer.key), peer),
    }
    with listening() as listener:
        server = backend.create()
        tls = credentials(TlsLeg.LISTENER, *identities[part])
        with pytest.raises(SciStreamError) as refusal:
            await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9), tls=tls))
        assert "c2VjcmV0" not in str(refusal.value)
        assert "session" in str(refusal.value)
        await server.stop()
    await _echo(backend)


async def test_a_retarget_that_cannot_work_changes_nothing(backend: DataServerBackend) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")
        writer.close()

    async with await asyncio.start_server(
        answer, "127.0.0.1", 0, ssl=_application_tls(backend)
    ) as application:
        with listening() as listener:
            server = backend.create()
            await server.start(_spec(backend, [listener], endpoint(application.sockets[0])))
            own = Identity.make()
            wrong = credentials(TlsLeg.TARGET, own, Identity(b"nonsense", b""))
            with pytest.raises(SciStreamError):
                await server.retarget([Endpoint("127.0.0.1", 9)], wrong)
            at = endpoint(listener)
            reader, writer = await asyncio.open_connection(at.host, at.port)
            assert await asyncio.wait_for(reader.read(100), 10) == b"first"
            writer.close()
            await server.stop()


async def test_a_thousand_channels_fit_one_session(backend: DataServerBackend) -> None:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listening()) for _ in range(1000)]
        server = backend.create()
        await server.start(
            _spec(backend, listeners, *(Endpoint("127.0.0.1", port) for port in range(1, 1001)))
        )
        assert len(await server.statistics()) == 1000
        await server.stop()


async def test_many_sessions_start_and_stop_at_once(backend: DataServerBackend) -> None:
    # programs take a hundred times as long to start as a session of the native data server
    count = 100 if type(backend).__name__ == "NativeBackend" else 10
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listening()) for _ in range(count)]
        servers = [backend.create() for _ in listeners]
        await asyncio.gather(
            *(
                server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
                for server, listener in zip(servers, listeners, strict=True)
            )
        )
        await asyncio.gather(*(server.stop() for server in servers))
    await _echo(backend)


async def test_a_data_server_that_hangs_does_not_hang_its_caller(
    backend: DataServerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if type(backend).__name__ != "NativeBackend":
        pytest.skip("knows the native data server's limits")
    monkeypatch.setattr("scistream.dataserver.tree.connection.REQUEST_LIMIT_S", 0.2)
    with listening() as listener:
        server = backend.create()
        await server.start(_spec(backend, [listener], Endpoint("127.0.0.1", 9)))
        stopped = _youngest(descendants())
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DataServerError, match="does not answer"):
                await server.statistics()
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        await server.stop()


@pytest.mark.parametrize("setting", ["congestion_lan", "congestion_wan"])
def test_a_congestion_control_that_is_not_there_is_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting} is 'no-such-control'.*give one of .*cubic"):
        create_backend("native", {setting: "no-such-control"})
