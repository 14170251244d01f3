"""Real gateways: s2cs and s2uc processes, TCP applications on both sides, all of it on loopback.

A conftest imports the fixtures `gateways`, `profiles` and `application` from here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.auth.certificates import write_certificate
from scistream.auth.shared_key import create_token_file, read_token_file
from scistream.client.aio import Facility
from scistream.core.endpoint import Endpoint

PROGRAMS = Path(sys.executable).parent
TIMEOUT_S = 30


@dataclass
class Finished:
    """What a program left: exit code, output, complaints."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_program(program: str, *arguments: str | Path, **environment: str) -> Finished:
    """Run a program of ours to its end."""
    return finish(start_program(program, *arguments, **environment))


def start_program(program: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAMS / program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # the configuration of whoever runs the tests is not read
        env={**os.environ, "XDG_CONFIG_HOME": os.devnull, "XDG_DATA_HOME": os.devnull, **environment},
    )


def finish(process: subprocess.Popen[str]) -> Finished:
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, out, err)


@dataclass
class ControlServerProcess:
    """A running ``s2cs start``."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    log: Path
    certificate: Path
    tokens: dict[str, Path]

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def facility(self, user: str = "alice") -> Facility:
        return Facility(
            endpoint=Endpoint.parse(self.address),
            server_certificate_pem=self.certificate.read_bytes(),
            token=read_token_file(self.tokens[user]),
        )

    def options(self, user: str = "alice") -> list[str]:
        """The options by which s2uc and appctrl reach it alone."""
        return [
            f"--s2cs={self.address}",
            f"--certificate={self.certificate}",
            f"--token-file={self.tokens[user]}",
        ]

    def stop(self, signum: int = signal.SIGTERM) -> tuple[int, list[psutil.Process]]:
        """Stop it; return the exit code, and those of its processes that outlive it."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signum)
        code = self.process.wait(TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        _, left = psutil.wait_procs(family, timeout=5)
        return code, left


@dataclass
class Gateways:
    """Starts control servers that know the users alice and bob."""

    directory: Path
    running: list[ControlServerProcess] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    def prepare(self) -> None:
        self.certificate, self.private_key = write_certificate(self.directory, ["127.0.0.1", "localhost"])
        self.auth_file = self.directory / "tokens.toml"
        self.tokens = {name: self.directory / f"{name}.token" for name in ("alice", "bob")}
        for name, path in self.tokens.items():
            create_token_file(name, self.auth_file, path)

    def arguments(self, *more: str) -> list[str]:
        return [
            "start",
            "--json",
            "--listen=127.0.0.1:0",
            "--port-range=0",
            f"--certificate={self.certificate}",
            f"--private-key={self.private_key}",
            "--auth=shared-key",
            f"--auth-file={self.auth_file}",
            *more,
        ]

    def start(self, *more: str) -> ControlServerProcess:
        log = self.directory / f"s2cs-{len(self.running)}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [PROGRAMS / "s2cs", *self.arguments(*more)], stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        try:
            ready = _first_event(process)
        except (TimeoutError, ValueError):
            process.kill()
            process.communicate()
            pytest.fail(f"s2cs is not ready: {log.read_text()}")
        server = ControlServerProcess(process, ready, log, self.certificate, self.tokens)
        self.running.append(server)
        return server


def _first_event(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(TIMEOUT_S):
            raise TimeoutError("no event")
    event: dict[str, Any] = json.loads(process.stdout.readline())
    if event["event"] != "ready":
        raise ValueError(event)
    return event


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    """Starts control servers; the test fails if one does not end cleanly."""
    made = Gateways(tmp_path)
    made.prepare()
    yield made
    dirty = []
    for server in made.running:
        if server.process.poll() is None:
            code, left = server.stop()
            if code != 143 or left:
                dirty.append((code, left, server.log.read_text()))
    assert not dirty


@pytest.fixture
def profiles(gateways: Gateways, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """A function that writes the user's configuration for control servers; it returns the environment."""

    def write(**servers: ControlServerProcess) -> dict[str, str]:
        config = tmp_path / "config" / "scistream" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(
            "".join(
                f'[facilities.{name}]\naddress = "{server.address}"\ncertificate = "{server.certificate}"\n'
                f'token_file = "{server.tokens["alice"]}"\nauthenticator = "shared-key"\n'
                for name, server in servers.items()
            )
        )
        return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data")}

    return write


@dataclass
class Application:
    """Listens on loopback; answers each connection with its name and what it received."""

    name: str
    listener: socket.socket
    received: list[bytes] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                connection.settimeout(TIMEOUT_S)
                thread = threading.Thread(target=self._answer, args=(connection,), daemon=True)
                thread.start()
                self.threads.append(thread)

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            message = b"".join(iter(lambda: connection.recv(65536), b""))
            self.received.append(message)
            connection.sendall(self.name.encode() + b":" + message)


@pytest.fixture
def application() -> Iterator[Callable[[str], Application]]:
    """Starts applications; they are stopped after the test."""
    made: list[tuple[Application, threading.Thread]] = []

    def start(name: str) -> Application:
        app = Application(name, socket.create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=app.serve, daemon=True)
        thread.start()
        made.append((app, thread))
        return app

    yield start
    for app, thread in made:
        with contextlib.suppress(OSError):
            app.listener.shutdown(socket.SHUT_RDWR)
        app.listener.close()
        for one in (thread, *app.threads):
            one.join(TIMEOUT_S)


def ask(address: str, message: bytes) -> bytes:
    """Send `message` to `address`, close that direction, and return all that comes back."""
    endpoint = Endpoint.parse(address)
    with socket.create_connection((endpoint.host, endpoint.port), TIMEOUT_S) as connection:
        connection.sendall(message)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def can_be_bound(address: str) -> bool:
    """Whether nobody listens at `address`."""
    endpoint = Endpoint.parse(address)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((endpoint.host, endpoint.port))
            sock.listen()
        except OSError:
            return False
    return True


def until(condition: Callable[[], Any]) -> Any:
    """Return what `condition` returns, once that is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)  # the interval of a poll
    return result
