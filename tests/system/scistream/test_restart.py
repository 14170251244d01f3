"""What happens to sessions and their streams when a control server is killed, ended, or started again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.client.aio import ControlClient, reserve_side
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import ResourceExhausted, SciStreamError
from scistream.wire.answers import Grant
from support import data_servers
from support.gateways import (
    PROGRAMS,
    Application,
    ControlServerProcess,
    Finished,
    Gateways,
    ask,
    can_be_bound,
    finish,
    run_program,
    start_program,
    until,
)
from support.small_disk import fill, small_disk

Applications = Callable[[str], Application]
CHUNK = 1 << 20


class Stream:
    """One connection whose other end adds up what arrives; the test says when how much is sent."""

    def __init__(self, address: str) -> None:
        endpoint = Endpoint.parse(address)
        self.connection = socket.create_connection((endpoint.host, endpoint.port), 30)
        self.sent = hashlib.sha256()

    def send(self, megabytes: int) -> None:
        for _ in range(megabytes):
            chunk = os.urandom(CHUNK)
            self.connection.sendall(chunk)
            self.sent.update(chunk)

    def finish(self) -> bool:
        """End the stream; return whether what arrived is what was sent."""
        self.connection.shutdown(socket.SHUT_WR)
        with self.connection:
            answer = b"".join(iter(lambda: self.connection.recv(65536), b""))
        return answer == self.sent.digest()


class Sink:
    """An application that answers each connection with the SHA-256 of all that it has received."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = 0
        self.threads = [threading.Thread(target=self._serve)]
        self.threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                connection.settimeout(60)
                self.threads.append(threading.Thread(target=self._answer, args=(connection,)))
                self.threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        digest = hashlib.sha256()
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(CHUNK):
                digest.update(data)
            connection.sendall(digest.digest())

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(60)


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.stop()


class Pair:
    """Two gateways with state directories, which can be killed and started again."""

    def __init__(self, gateways: Gateways, directory: Path, kind: str = "native") -> None:
        self.gateways = gateways
        self.directory = directory
        self.kind = f"--type={kind}"
        self.options: tuple[str, ...] = ()
        self.survivors: list[psutil.Process] = []
        self.start()

    def start(self, *more: str) -> None:
        self.options = more or self.options
        self.producer, self.consumer = (
            self.gateways.start(f"--state-dir={self.directory / name}", self.kind, *self.options)
            for name in ("producer", "consumer")
        )

    @property
    def both(self) -> tuple[ControlServerProcess, ControlServerProcess]:
        return self.producer, self.consumer

    def kill(self) -> None:
        for server in self.both:
            self.survivors += psutil.Process(server.process.pid).children(recursive=True)
            server.process.kill()
            server.process.wait(30)
            assert server.process.stdout is not None
            server.process.stdout.close()

    def request(self, address: str, *more: str) -> dict[str, Any]:
        finished = finish(
            start_program(
                "s2uc",
                "request",
                self.producer.address,
                self.consumer.address,
                f"--target={address}",
                f"--producer-certificate={self.producer.certificate}",
                f"--consumer-certificate={self.consumer.certificate}",
                f"--token-file={self.producer.tokens['alice']}",
                "--json",
                *more,
            )
        )
        assert finished.code == 0, finished.err
        opened: dict[str, Any] = finished.json
        return opened

    def status(self, server: ControlServerProcess, uid: str) -> dict[str, Any]:
        finished = run_program("s2uc", "status", uid, "--json", *server.options())
        assert finished.code == 0, finished.err
        session: dict[str, Any] = finished.json["sessions"][0]
        return session

    def states(self, uid: str) -> tuple[str, ...]:
        return tuple(self.status(server, uid)["state"] for server in self.both)

    def release(self, uid: str) -> Finished:
        return run_program(
            "s2uc", "release", uid, *self.producer.options(), f"--s2cs={self.consumer.address}"
        )

    def end_survivors(self) -> list[psutil.Process]:
        """End and return what killed control servers have left, and no other one has ended."""
        _, left = psutil.wait_procs(self.survivors, timeout=5)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
        return left


@pytest.fixture
def pair(request: pytest.FixtureRequest, gateways: Gateways, tmp_path: Path) -> Iterator[Pair]:
    """Two gateways; the test fails if they leave a process behind."""
    made = Pair(gateways, tmp_path, getattr(request, "param", "native"))
    yield made
    for server in made.both:
        if server.process.poll() is None:
            server.stop(signal.SIGINT)
    made.gateways.running.clear()
    assert not made.end_survivors()


@pytest.mark.parametrize("pair", ["native", *data_servers.PROGRAMS], indirect=True)
def test_a_stream_spans_the_kill_of_both_control_servers_without_losing_a_byte(
    pair: Pair, sink: Sink, application: Applications
) -> None:
    session = pair.request(sink.address)
    uid = session["uid"]
    stream = Stream(session["listeners"][0])
    stream.send(20)
    pair.kill()
    stream.send(20)
    while_dead = Stream(session["listeners"][0])  # new connections are served as well
    while_dead.send(1)

    pair.start()
    assert [server.ready["recovered"] for server in pair.both] == [1, 1]
    stream.send(20)
    assert while_dead.finish()
    ours, theirs = (pair.status(server, uid) for server in pair.both)
    assert (ours["state"], theirs["state"]) == ("connected", "connected")
    assert (ours["encrypted"], theirs["encrypted"]) == (True, True)
    assert theirs["listeners"] == session["listeners"]
    assert theirs["channels"][0]["connections_total"] == 2
    until(lambda: pair.status(pair.producer, uid)["channels"][0]["bytes_to_target"] == 61 * CHUNK)

    # retarget: the stream finishes where it began, the next one goes elsewhere
    other = application("other")
    retargeted = run_program(
        "s2uc",
        "update",
        uid,
        "--role=PROD",
        f"--target={other.address}",
        f"--peer-certificate={certificate_of(pair.directory / 'consumer', pair.directory)}",
        *pair.producer.options(),
    )
    assert retargeted.code == 0, retargeted.err
    assert ask(session["listeners"][0], b"hello") == b"other:hello"
    stream.send(20)
    assert stream.finish()
    assert sink.connections == 2

    released = pair.release(uid)
    assert released.code == 0, released.err
    assert pair.states(uid) == ("released", "released")
    assert all(map(can_be_bound, ours["listeners"] + theirs["listeners"]))


def certificate_of(state: Path, directory: Path) -> Path:
    """The session certificate of the one session in the journal of `state`, as a file."""
    database = sqlite3.connect(f"file:{state / 'journal.db'}?mode=ro", uri=True)
    (record,) = database.execute("SELECT json_extract(session, '$.certificate_pem') FROM session").fetchone()
    database.close()
    path = directory / "session.crt"
    path.write_text(record)
    return path


def test_a_release_after_the_restart_ends_the_stream(pair: Pair, sink: Sink) -> None:
    session = pair.request(sink.address)
    stream = Stream(session["listeners"][0])
    stream.send(1)
    pair.kill()
    pair.start()
    assert pair.release(session["uid"]).code == 0
    with stream.connection, pytest.raises(ConnectionResetError):
        stream.connection.recv(1)
    assert not list((pair.directory / "producer" / "keys").iterdir())


def test_leases_count_on_while_no_control_server_runs(pair: Pair, sink: Sink) -> None:
    session = pair.request(sink.address, "--lifetime-s=2")
    begun_s = time.monotonic()
    assert ask_digest(session["listeners"][0])
    pair.kill()
    until(lambda: time.monotonic() > begun_s + 2.1)
    assert ask_digest(session["listeners"][0]), "nobody ends it as long as no control server runs"
    pair.start()
    until(lambda: pair.states(session["uid"]) == ("expired", "expired"))
    assert all(map(can_be_bound, session["listeners"]))


def ask_digest(address: str) -> bool:
    stream = Stream(address)
    stream.send(1)
    return stream.finish()


def test_a_reservation_outlives_the_kill_and_its_hello_comes_later(pair: Pair, sink: Sink) -> None:
    waiting = start_program(
        "s2uc", "prod-req", "--json", "--num-conn=1", "--timeout-s=30", *pair.producer.options()
    )
    listed = until(lambda: sessions_of(pair.producer))
    assert listed[0]["state"] in {"requested", "reserved"}
    until(lambda: sessions_of(pair.producer)[0]["state"] == "reserved")
    before = sessions_of(pair.producer)[0]
    pair.kill()
    assert finish(waiting).code == 4
    pair.start()
    (after,) = sessions_of(pair.producer)
    assert (after["state"], after["listeners"]) == ("reserved", before["listeners"])
    assert not can_be_bound(after["listeners"][0])
    hello = run_program(
        "appctrl", "hello", after["uid"], "--role=PROD", f"--address={sink.address}", *pair.producer.options()
    )
    assert hello.code == 0, hello.err
    assert sessions_of(pair.producer)[0]["state"] == "announced"


def sessions_of(server: ControlServerProcess) -> list[dict[str, Any]]:
    finished = run_program("s2uc", "status", "--json", *server.options())
    assert finished.code == 0, finished.err
    listed: list[dict[str, Any]] = finished.json["sessions"]
    return listed


def test_what_died_while_no_control_server_ran_is_failed_and_freed(pair: Pair, sink: Sink) -> None:
    session = pair.request(sink.address)
    pair.kill()
    for process in pair.survivors:
        process.kill()
    psutil.wait_procs(pair.survivors, timeout=10)
    pair.start()
    assert [server.ready["recovered"] for server in pair.both] == [0, 0]
    for server in pair.both:
        status = pair.status(server, session["uid"])
        assert status["state"] == "failed"
        assert "died while no control server ran" in status["reason"]
        assert all(map(can_be_bound, status["listeners"]))


@pytest.mark.parametrize("which", ["supervisor", "worker"])
def test_a_data_server_that_dies_is_started_again_on_the_same_listeners(
    pair: Pair, sink: Sink, which: str
) -> None:
    session = pair.request(sink.address)
    uid = session["uid"]
    assert ask_digest(session["listeners"][0])
    assert pair.status(pair.consumer, uid)["channels"][0]["connections_total"] == 1
    supervisor = psutil.Process(pair.consumer.process.pid).children()[0]
    victim = supervisor if which == "supervisor" else supervisor.children()[0]
    victim.kill()
    status = until(
        lambda: (now := pair.status(pair.consumer, uid))["restarts"] and now["state"] == "connected" and now
    )
    assert status["restarts"] == 1
    assert "SIGKILL" in status["notice"] or "ended" in status["notice"]
    assert status["listeners"] == session["listeners"]
    assert ask_digest(session["listeners"][0])
    assert pair.status(pair.consumer, uid)["channels"][0]["connections_total"] == 2


def test_sigterm_keeps_the_streams_where_that_is_configured(pair: Pair, sink: Sink) -> None:
    for server in pair.both:
        server.stop()
    pair.gateways.running.clear()
    pair.start("--on-terminate=keep")
    session = pair.request(sink.address)
    stream = Stream(session["listeners"][0])
    stream.send(5)
    for server in pair.both:
        code, left = server.stop()
        assert code == 143
        assert left
        pair.survivors += left
    stream.send(5)
    pair.start()
    assert pair.states(session["uid"]) == ("connected", "connected")
    stream.send(5)
    assert stream.finish()


def test_sigterm_waits_for_a_stream_to_finish_where_that_is_configured(pair: Pair, sink: Sink) -> None:
    for server in pair.both:
        server.stop()
    pair.gateways.running.clear()
    pair.start("--on-terminate=drain", "--drain-timeout-s=30")
    session = pair.request(sink.address)
    stream = Stream(session["listeners"][0])
    stream.send(5)
    pair.consumer.process.send_signal(signal.SIGTERM)
    until(lambda: "shutting down" in pair.consumer.log.read_text())
    stream.send(5)
    assert pair.consumer.process.poll() is None
    assert stream.finish()
    assert pair.consumer.process.wait(10) == 143
    assert pair.consumer.process.stdout is not None
    pair.consumer.process.stdout.close()


def test_a_second_control_server_on_the_same_state_directory_is_refused(
    pair: Pair, gateways: Gateways
) -> None:
    refused = subprocess.run(
        [
            PROGRAMS / "s2cs",
            *gateways.arguments(f"--state-dir={pair.directory / 'producer'}"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode == 5
    assert "another control server runs with the state directory" in refused.stderr


def test_no_secret_is_in_the_journal_and_the_state_directory_is_private(pair: Pair, sink: Sink) -> None:
    pair.request(sink.address)
    state = pair.directory / "producer"
    journal = b"".join(path.read_bytes() for path in state.glob("journal.db*"))
    assert b"BEGIN CERTIFICATE" in journal
    assert b"PRIVATE KEY" not in journal
    assert pair.producer.tokens["alice"].read_bytes().strip() not in journal
    keys = list((state / "keys").iterdir())
    assert len(keys) == 1
    for path in (state, *state.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0 or path.is_socket(), path


# --- a journal that cannot be written, or is not the right one ------------------------------------------


class Gateway:
    """One gateway with the state directory `state`, which can be killed and started again."""

    def __init__(self, gateways: Gateways, state: Path) -> None:
        self.gateways = gateways
        self.state = state
        self.left: list[psutil.Process] = []
        self.start()

    def start(self) -> None:
        self.gateways.running.clear()
        options = ("--encryption=optional", "--on-terminate=release")
        self.server = self.gateways.start(f"--state-dir={self.state}", *options)

    def start_refused(self) -> Finished:
        """Start a control server that does not start."""
        return run_program("s2cs", *self.gateways.arguments(f"--state-dir={self.state}"))

    def kill(self) -> None:
        self.left += psutil.Process(self.server.process.pid).children(recursive=True)
        self.server.process.kill()
        self.server.process.wait(30)
        assert self.server.process.stdout is not None
        self.server.process.stdout.close()

    def open(self, uid: str, address: str) -> str:
        """Open one plain side that forwards to `address`; return its listener."""

        async def opened() -> str:
            async with self.server.facility().connect() as client:
                target = Endpoint.parse(address)
                grant = await reserve_side(client, uid, Role.PRODUCER, addresses=[target])
                await client.update(uid, Role.PRODUCER, [target])
                return str(grant.listeners[0])

        return asyncio.run(opened())

    def update(self, uid: str, address: str) -> Finished:
        return run_program(
            "s2uc", "update", uid, "--role=PROD", f"--target={address}", *self.server.options()
        )

    def end(self) -> None:
        """End what runs; the test fails if anything is left."""
        if self.server.process.poll() is None:
            assert self.server.stop() == (143, [])
        self.gateways.running.clear()
        _, left = psutil.wait_procs(self.left, timeout=5)
        for process in left:
            process.kill()
        assert not left


def test_on_a_full_disk_nothing_is_confirmed_that_a_kill_would_undo(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    first, second = application("first"), application("second")
    with small_disk(tmp_path / "disk") as disk, contextlib.ExitStack() as stack:
        gateway = Gateway(gateways, disk / "state")
        stack.callback(gateway.end)
        listener = gateway.open("kept", first.address)
        filler = fill(disk)
        assert gateway.update("kept", second.address).code == 5
        with pytest.raises(ResourceExhausted, match="state directory cannot be written"):
            gateway.open("refused", first.address)
        assert ask(listener, b"full") == b"first:full"

        gateway.kill()
        refused = gateway.start_refused()
        assert refused.code == 5
        assert "make room in" in refused.err
        filler.unlink()
        gateway.start()
        assert [(one["uid"], one["state"], one["targets"]) for one in sessions_of(gateway.server)] == [
            ("kept", "connected", [first.address])
        ]
        assert ask(listener, b"again") == b"first:again"
        assert gateway.update("kept", second.address).code == 0
        assert ask(listener, b"room") == b"second:room"


@pytest.mark.parametrize("damage", ["emptied", "WAL overwritten"])
def test_streams_that_the_journal_has_lost_go_on_and_the_operator_is_told_how_to_end_them(
    gateways: Gateways, sink: Sink, tmp_path: Path, damage: str
) -> None:
    gateway = Gateway(gateways, tmp_path / "state")
    with contextlib.ExitStack() as stack:
        stack.callback(gateway.end)
        listener = gateway.open("uid", sink.address)
        stream = Stream(listener)
        stream.send(1)
        gateway.kill()
        journal, wal = (gateway.state / name for name in ("journal.db", "journal.db-wal"))
        if damage == "emptied":
            journal.write_bytes(b"")
            wal.unlink()
        else:
            wal.write_bytes(os.urandom(wal.stat().st_size))

        refused = gateway.start_refused()
        assert refused.code == 3
        assert str(journal) in refused.err
        stream.send(1)
        assert stream.finish()
        advice = re.search(r"type kill (\d+)", refused.err)
        assert advice is not None, refused.err
        os.kill(int(advice[1]), signal.SIGTERM)
        psutil.wait_procs(gateway.left, timeout=10)
        assert can_be_bound(listener)
        gateway.start()
        assert gateway.server.ready["recovered"] == 0


def test_a_session_is_released_when_the_process_that_hangs_with_it_has_been_killed(
    gateways: Gateways, sink: Sink, tmp_path: Path
) -> None:
    gateway = Gateway(gateways, tmp_path / "state")
    with contextlib.ExitStack() as stack:
        stack.callback(gateway.end)
        stream = Stream(gateway.open("uid", sink.address))
        supervisor = psutil.Process(gateway.server.process.pid).children()[0]
        supervisor.suspend()
        released = run_program("s2uc", "release", "uid", *gateway.server.options())
        assert released.code == 0, released.err
        assert not supervisor.is_running()
        with stream.connection, pytest.raises(ConnectionResetError):
            stream.connection.recv(1)


async def release_all(server: ControlServerProcess) -> None:
    async with server.facility().connect() as client:
        for one in await client.status():
            await client.release(one.uid)


def test_whenever_it_is_killed_nothing_is_leaked(gateways: Gateways, sink: Sink, tmp_path: Path) -> None:
    """Sessions come and go while the control server is killed, again and again, at moments of chance.

    Every other time it is killed as soon as a session is granted: who was told something finds it again.
    """
    moments = random.Random(20261121)
    options = (f"--state-dir={tmp_path / 'state'}", "--encryption=optional")
    killed: list[psutil.Process] = []
    granted: dict[str, Grant] = {}
    target = Endpoint.parse(sink.address)

    async def use(client: ControlClient, process: psutil.Process, last_grant: int | None) -> None:
        for number in itertools.count():
            uid = f"{len(killed)}-{number}"
            grant = await reserve_side(client, uid, Role.PRODUCER, addresses=[target])
            granted[uid] = grant
            if number == last_grant:
                process.kill()
            await client.update(uid, Role.PRODUCER, [target])
            if number % 2:
                await client.release(uid)

    async def use_until_killed(server: ControlServerProcess, last_grant: int | None) -> None:
        async with server.facility().connect() as client:
            process = psutil.Process(server.process.pid)
            family = process.children(recursive=True)
            user = asyncio.create_task(use(client, process, last_grant))
            try:
                if last_grant is None:
                    await asyncio.sleep(moments.uniform(0, 0.2))  # the moment of chance
                    process.kill()
                with pytest.raises(SciStreamError):
                    await user
                killed.extend(family)
            finally:
                user.cancel()

    for number in range(8):
        server = gateways.start(*options)
        asyncio.run(use_until_killed(server, moments.randrange(6) if number % 2 else None))
        server.process.wait(30)
        assert server.process.stdout is not None
        server.process.stdout.close()
    server = gateways.start(*options)
    sessions = {one["uid"]: one for one in sessions_of(server)}
    assert granted.keys() <= sessions.keys()
    for uid, grant in granted.items():
        assert sessions[uid]["listeners"] == list(map(str, grant.listeners))
    states = {one["state"] for one in sessions.values()}
    assert states <= {"reserved", "announced", "connected", "released", "failed", "expired"}
    asyncio.run(release_all(server))
    assert not list((tmp_path / "state" / "keys").iterdir())
    assert all(can_be_bound(str(listener)) for grant in granted.values() for listener in grant.listeners)
    assert server.stop() == (143, [])
    gateways.running.clear()
    _, left = psutil.wait_procs(killed, timeout=5)
    assert not left
