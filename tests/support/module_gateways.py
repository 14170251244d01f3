"""Control servers that several tests share, and our own calls to them, synchronous and one by one.

The programs of ours are tested elsewhere; here a test decides which call comes when. A conftest imports the
fixtures `pair` and `own` from here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from scistream.auth.certificates import write_certificate
from scistream.auth.shared_key import create_token_file
from scistream.core.endpoint import Endpoint
from scistream.wire import scistream_pb2 as pb
from scistream.wire.scistream_pb2_grpc import ControlStub
from support.gateways import ControlServerProcess, Gateways

CALL_LIMIT_S = 20.0
HOSTS = ["127.0.0.1", "127.0.0.2", "::1", "localhost"]


def new_uid() -> str:
    return str(uuid.uuid4())


@dataclass
class SharedGateways(Gateways):
    """Control servers with shared keys, or with no authentication."""

    authenticated: bool = True
    authentication: list[str] | None = None
    """Options that say how users are known, in place of shared keys."""
    orphans: list[psutil.Process] = field(default_factory=list)

    def kill(self, server: ControlServerProcess) -> None:
        """Kill the control server alone, as a crash does; its data servers may live on."""
        self.orphans += family(server)[1:]
        server.process.kill()
        server.process.wait(CALL_LIMIT_S)
        assert server.process.stdout is not None
        server.process.stdout.close()

    def end_orphans(self) -> list[psutil.Process]:
        """End and return what a killed server has left and no other one has taken."""
        left = [process for process in self.orphans if process.is_running()]
        _, left = psutil.wait_procs(left, timeout=2)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=2)
        return left

    def prepare(self) -> None:
        self.certificate, self.private_key = write_certificate(self.directory, HOSTS)
        self.auth_file = self.directory / "tokens.toml"
        self.tokens = {name: self.directory / f"{name}.token" for name in ("alice", "bob")}
        for name, path in self.tokens.items():
            create_token_file(name, self.auth_file, path)

    def arguments(self, *more: str) -> list[str]:
        authentication = self.authentication or ["--auth=shared-key", f"--auth-file={self.auth_file}"]
        elsewhere = any(one.startswith("--listener-ip") for one in more)
        return [
            "start",
            "--json",
            "--port=0" if elsewhere else "--listen=127.0.0.1:0",
            "--port-range=0",
            f"--certificate={self.certificate}",
            f"--private-key={self.private_key}",
            *(authentication if self.authenticated else ["--auth=none"]),
            *more,
        ]


@contextlib.contextmanager
def serving(directory: Path, *, authenticated: bool = True) -> Iterator[SharedGateways]:
    """Start control servers on demand; they are stopped afterwards, and must end cleanly."""
    made = SharedGateways(directory, authenticated=authenticated)
    made.prepare()
    try:
        yield made
    finally:
        dirty = []
        for server in made.running:
            if server.process.poll() is None:
                code, left = server.stop(signal.SIGINT)  # which ends all sessions at once
                if code != 130 or left:
                    dirty.append((code, left, server.log.read_text()))
        if orphans := made.end_orphans():
            dirty.append((0, orphans, "left by a killed control server"))
    if dirty:
        pytest.fail(f"not ended cleanly: {dirty}")


Pair = tuple[ControlServerProcess, ControlServerProcess]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A producer's and a consumer's control server for all tests of a module: encryption is optional."""
    with serving(tmp_path_factory.mktemp("gateways")) as gateways:
        yield gateways.start("--encryption=optional"), gateways.start("--encryption=optional")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SharedGateways]:
    """Starts control servers for one test."""
    with serving(tmp_path) as gateways:
        yield gateways


@dataclass
class Caller:
    """One user at one control server."""

    server: ControlServerProcess
    channel: grpc.Channel
    stub: Any
    metadata: tuple[tuple[str, str], ...]

    def req(self, uid: str, role: str = "PROD", num_conn: int = 1, rate: int = 0, **more: Any) -> Any:
        """Send REQ and return the future of its answer."""
        message = pb.Request(uid=uid, role=role, num_conn=num_conn, rate=rate, **more)
        return self.stub.req.future(message, timeout=CALL_LIMIT_S, metadata=self.metadata)

    def hello(self, uid: str, addresses: Sequence[str] = (), role: str = "PROD") -> Any:
        """Send HELLO and return the future of its answer."""
        message = pb.Hello(uid=uid, role=role, prod_listeners=addresses)
        return self.stub.hello.future(message, timeout=CALL_LIMIT_S, metadata=self.metadata)

    def update(self, uid: str, targets: Sequence[str] = (), certificate: bytes = b"", role: str = "") -> Any:
        message = pb.UpdateTargets(uid=uid, remote_listeners=targets, role=role, peer_certificate=certificate)
        return self.stub.update(message, timeout=CALL_LIMIT_S, metadata=self.metadata)

    def release(self, uid: str) -> None:
        self.stub.release(pb.Release(uid=uid), timeout=CALL_LIMIT_S, metadata=self.metadata)

    def status(self, uid: str) -> Any:
        reply = self.stub.status(pb.StatusRequest(uid=uid), timeout=CALL_LIMIT_S, metadata=self.metadata)
        return reply.sessions[0]

    def all_sessions(self) -> list[Any]:
        reply = self.stub.status(pb.StatusRequest(), timeout=CALL_LIMIT_S, metadata=self.metadata)
        return list(reply.sessions)

    def reserve(self, uid: str, address: str, *, num_conn: int = 1, rate: int = 0, **more: Any) -> Any:
        """REQ and HELLO of the producer's side, in any order; return REQ's answer."""
        waiting = self.req(uid, "PROD", num_conn, rate, **more)
        self.hello(uid, [address]).result()
        return waiting.result()

    def open_plain(self, uid: str, address: str, **options: Any) -> str:
        """Open the producer's side in the clear; return its first listener."""
        grant = self.reserve(uid, address, **options)
        self.update(uid, [address])
        return str(grant.listeners[0])

    def open_consumer(self, uid: str, targets: Sequence[str], **options: Any) -> str:
        """Open the consumer's side in the clear, towards `targets`; return its first listener."""
        waiting = self.req(uid, "CONS", **options)
        self.hello(uid, role="CONS").result()
        self.update(uid, targets)
        return str(waiting.result().listeners[0])


@contextlib.contextmanager
def calling(
    server: ControlServerProcess,
    user: str | None = "alice",
    *,
    token: str | None = None,
    at: str | None = None,
) -> Iterator[Caller]:
    """Open a channel to `server` (or to a relay in front of it) as `user`, or with any token, or none."""
    if user is not None and token is None:
        token = server.tokens[user].read_text().strip()
    credentials = grpc.ssl_channel_credentials(server.certificate.read_bytes())
    # each its own connection: channels with the same options share one
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(at or server.address, credentials, options=options) as channel:
        stub: Any = ControlStub(channel)  # type: ignore[no-untyped-call]
        yield Caller(server, channel, stub, (("authorization", token),) if token else ())


@contextlib.contextmanager
def encrypted_pair(ours: Caller, theirs: Caller, address: str) -> Iterator[EncryptedPair]:
    """Reserve a session at both gateways, as our user client does; it is released afterwards."""
    uid = new_uid()
    waiting = ours.req(uid, "PROD"), theirs.req(uid, "CONS")
    ours.hello(uid, [address]).result()
    theirs.hello(uid, role="CONS").result()
    producer, consumer = waiting[0].result(), waiting[1].result()
    pair = EncryptedPair(uid, ours, theirs, producer, consumer)
    try:
        yield pair
    finally:
        ours.release(uid)
        theirs.release(uid)


@dataclass
class EncryptedPair:
    """Both sides of a session, announced but not connected."""

    uid: str
    ours: Caller
    theirs: Caller
    producer: Any
    consumer: Any

    def connect(self, address: str, through: str | None = None) -> str:
        """UPDATE both sides (the consumer's to `through` instead of the producer); return the listener."""
        self.ours.update(self.uid, [address], self.consumer.certificate)
        self.theirs.update(self.uid, [through or self.producer.listeners[0]], self.producer.certificate)
        return str(self.consumer.listeners[0])


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Return code and details of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@contextlib.contextmanager
def connected(listener: str) -> Iterator[socket.socket]:
    """Connect to `listener`, an address as the control servers name them."""
    endpoint = Endpoint.parse(listener)
    with socket.create_connection((endpoint.host, endpoint.port), CALL_LIMIT_S) as stream:
        yield stream


def is_refused(listener: str) -> bool:
    """Whether nobody listens at `listener`."""
    try:
        with connected(listener):
            return False
    except ConnectionRefusedError:
        return True


def free_range(count: int) -> tuple[int, int]:
    """First and last of `count` neighbouring ports of loopback that are free now."""
    for first in range(20000 + os.getpid() % 8000, 32000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first, first + count - 1
    raise OSError("no range of ports is free")


def family(server: ControlServerProcess) -> list[psutil.Process]:
    """The control server and all its processes."""
    root = psutil.Process(server.process.pid)
    return [root, *root.children(recursive=True)]


@dataclass
class Together:
    """Runs calls in threads that begin at the same moment; their results come in order."""

    results: dict[int, Any] = field(default_factory=dict)

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        gate = threading.Barrier(len(calls))

        def one(number: int) -> None:
            gate.wait()
            try:
                self.results[number] = calls[number]()
            except Exception as error:  # noqa: BLE001 - the test's own thread raises it
                self.results[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CALL_LIMIT_S * 2)
        for result in self.results.values():
            if isinstance(result, Exception):
                raise result
        return [self.results[number] for number in range(len(calls))]
