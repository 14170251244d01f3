"""Real control servers in the test's process, with a small plain-TCP data server that notes what it is told.

A conftest imports the fixtures `start`, `tls_files` and `echo` from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.certificates import write_certificate
from scistream.auth.shared_key import create_token
from scistream.client.aio import Facility
from scistream.config import ControlServerConfig, PortRange
from scistream.control.server import ControlServer
from scistream.core.endpoint import Endpoint
from scistream.core.session import Encryption
from scistream.dataserver.base import (
    Adopted,
    ChannelStatistics,
    DataServer,
    DataServerBackend,
    DataServerSpec,
    LeftRunning,
    Persistence,
    Restarted,
    TlsCredentials,
)
from scistream.errors import DataServerError


class RelayServer(DataServer):
    """Forwards plain TCP by asyncio, whatever credentials it is given, and remembers them."""

    def __init__(self, backend: RelayBackend, restarted: Restarted | None = None) -> None:
        self.backend = backend
        self.restarted = restarted
        self.spec: DataServerSpec | None = None
        self.targets: tuple[Endpoint, ...] = ()
        self.tls: TlsCredentials | None = None
        self.dials: tuple[Endpoint, ...] = ()
        self.servers: list[asyncio.Server] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.tasks: set[asyncio.Task[None]] = set()
        self.bytes: dict[int, int] = {}
        self.looks = 0
        self.connections: dict[int, int] = {}
        self.handle_error = ""
        self.statistics_error = ""

    @property
    def handle(self) -> str:
        if self.handle_error:
            raise RuntimeError(self.handle_error)
        outlives = self.backend.outlives and self.spec is not None
        return str(self.backend.servers.index(self)) if outlives else ""

    async def start(self, spec: DataServerSpec) -> None:
        if self.backend.start_error:
            raise DataServerError(self.backend.start_error)
        await self.backend.may_start.wait()
        self.spec, self.targets, self.tls = spec, spec.targets, spec.tls
        for number, listener in enumerate(spec.listeners):
            self.servers.append(
                await asyncio.start_server(
                    lambda reader, writer, number=number: self.relay(number, reader, writer),
                    sock=listener.dup(),
                )
            )

    async def relay(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections[number] = self.connections.get(number, 0) + 1
        target = self.targets[number % len(self.targets)]
        try:
            far_reader, far_writer = await asyncio.open_connection(target.host, target.port)
            try:
                await asyncio.gather(
                    self.pump(number, reader, far_writer), self.pump(number, far_reader, writer)
                )
            finally:
                far_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.connections[number] -= 1
            self.tasks.discard(task)

    async def pump(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.bytes[number] = self.bytes.get(number, 0) + len(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def retarget(
        self, targets: Sequence[Endpoint], tls: TlsCredentials | None, *, dials: Sequence[Endpoint] = ()
    ) -> None:
        self.backend.retargets += 1
        await self.backend.may_retarget.wait()
        if self.backend.retarget_kills:
            self.die("killed in the middle of an order")
        if self.backend.retarget_error:
            raise DataServerError(self.backend.retarget_error)
        if self.ended.done():
            raise DataServerError("it is not running")
        self.targets, self.tls, self.dials = tuple(targets), tls, tuple(dials)

    async def stop(self) -> None:
        await self.backend.may_stop.wait()
        for server in self.servers:
            server.close()
        for task in tuple(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(tuple(self.tasks))
        if not self.ended.done():
            self.ended.set_result("stopped")

    async def wait(self) -> str:
        return await asyncio.shield(self.ended)

    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        assert self.spec is not None
        self.looks += 1
        await self.backend.may_answer.wait()
        if self.statistics_error:
            raise RuntimeError(self.statistics_error)
        if self.ended.done() and not self.backend.dead_answer:
            raise DataServerError("it is not running")
        return tuple(
            ChannelStatistics(
                connections_open=self.connections.get(number, 0), bytes_to_target=self.bytes.get(number, 0)
            )
            for number in range(len(self.spec.listeners))
        )

    def die(self, reason: str) -> None:
        self.ended.set_result(reason)

    def restart(self, reason: str) -> None:
        assert self.restarted is not None
        self.restarted(reason)


@dataclass
class RelayBackend(DataServerBackend):
    """Makes relays; a test can hold back what they do, make it fail, or let one die.

    With `outlives` they go on without a control server, and the next one with this backend finds them.
    """

    outlives: bool = False
    servers: list[RelayServer] = field(default_factory=list)
    unadopted: list[RelayServer] = field(default_factory=list)
    start_error: str = ""
    retargets: int = 0
    dead_answer: bool = False
    retarget_kills: bool = False
    retarget_error: str = ""
    is_open: bool = False
    persistence: Persistence | None = None
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    may_retarget: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    may_stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, persistence: Persistence | None = None) -> None:
        self.is_open = True
        self.persistence = persistence
        self.unadopted = [server for server in self.servers if not server.ended.done()]
        for event in (self.may_start, self.may_retarget, self.may_answer, self.may_stop):
            event.set()

    def create(self, restarted: Restarted | None = None) -> RelayServer:
        self.servers.append(RelayServer(self, restarted))
        return self.servers[-1]

    async def adopt(self, handle: str, spec_uid: str, restarted: Restarted | None = None) -> Adopted:
        server = self.servers[int(handle)]
        if server not in self.unadopted:
            raise DataServerError(f"session {spec_uid}: it is not running")
        self.unadopted.remove(server)
        server.restarted = restarted
        return Adopted(server, tuple(listener.sockets[0].dup() for listener in server.servers))

    async def left_running(self) -> tuple[LeftRunning, ...]:
        return tuple(LeftRunning(server.spec.uid, os.getpid()) for server in self.unadopted if server.spec)

    async def discard_unadopted(self) -> int:
        discarded, self.unadopted = self.unadopted, []
        for server in discarded:
            await server.stop()
        return len(discarded)

    async def detach(self) -> None:
        if not self.outlives:
            await self.close()
        self.is_open = False

    async def close(self) -> None:
        self.is_open = False
        for server in self.servers:
            await server.stop()


@dataclass
class Running:
    """A control server that serves, and what one needs to call it."""

    server: ControlServer
    backend: RelayBackend
    certificate_pem: bytes
    tokens: dict[str, str]

    def facility(self, user: str = "alice") -> Facility:
        return Facility(
            endpoint=self.server.address,
            server_certificate_pem=self.certificate_pem,
            token=self.tokens.get(user),
        )


Start = Callable[..., Awaitable[Running]]


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("tls"), ["127.0.0.1", "localhost"])


@pytest.fixture
async def start(tmp_path: Path, tls_files: tuple[Path, Path]) -> AsyncIterator[Start]:
    """A function that starts control servers on loopback; they are stopped after the test."""
    auth_file = tmp_path / "tokens.toml"
    tokens = {name: create_token(name, auth_file) for name in ("alice", "bob", "olga")}
    async with contextlib.AsyncExitStack() as stack:

        async def begin(**changes: Any) -> Running:
            values: dict[str, Any] = {
                "listen": Endpoint("127.0.0.1", 0),
                "certificate": tls_files[0],
                "private_key": tls_files[1],
                "bind_host": "127.0.0.1",
                "advertise_host": "127.0.0.1",
                "ports": PortRange(first=0, last=0),
                "data_server": "relay",
                "authenticators": {"shared-key": {"file": str(auth_file)}},
                "encryption": Encryption.REQUIRED,
            }
            backend = changes.pop("backend", None) or RelayBackend()
            server = ControlServer(ControlServerConfig(**values | changes), backend=backend)
            await stack.enter_async_context(server)
            return Running(server, backend, tls_files[0].read_bytes(), tokens)

        yield begin


@pytest.fixture
async def echo() -> AsyncIterator[Endpoint]:
    """An application that sends back what it receives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
