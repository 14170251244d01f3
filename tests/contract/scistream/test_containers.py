"""What is so only of data servers in containers: engine, images, what a container may do, what is left."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.dataserver import DataServer, DataServerBackend, DataServerSpec, TlsLeg, create_backend
from scistream.dataserver.base import Persistence
from scistream.dataserver.containers.engine import OWNER_LABEL, Engine
from scistream.dataserver.containers.owner import name_of
from scistream.dataserver.tree.fanout import ANSWER_LIMIT_S
from scistream.errors import ConfigurationError, DataServerError
from support.container_engine import ContainerEngine, running_engine
from support.data_servers import CONTAINERS, options_of
from support.relays import (
    LOCALHOST,
    TIMEOUT_S,
    Background,
    Identity,
    LoopThread,
    accept,
    connect,
    credentials,
    endpoint,
    listening,
    receive,
    until,
)
from support.tls_peer import tls_context

OWN, PEER = Identity.make(), Identity.make()


@dataclass
class OneSession:
    """A backend and a session of it, with an application behind."""

    thread: LoopThread
    stack: contextlib.ExitStack
    backend: DataServerBackend
    restarts: list[str] = field(default_factory=list)

    def start(self) -> DataServer:
        self.listener = self.stack.enter_context(listening())
        self.application = self.stack.enter_context(listening())
        server = self.backend.create(self.restarts.append)
        spec = DataServerSpec(
            uid="a session",
            listeners=(self.listener,),
            targets=(endpoint(self.application),),
            tls=credentials(TlsLeg.LISTENER, OWN, PEER),
        )
        self.thread.run(server.start(spec))
        return server

    def carry(self) -> None:
        near = self.stack.enter_context(tls_context(PEER, OWN).wrap_socket(connect(self.listener)))
        with accept(self.application) as far:
            near.sendall(b"hello")
            assert receive(far, 5) == b"hello"


@contextlib.contextmanager
def _opened(
    kind: str, options: dict[str, Any], persistence: Persistence | None = None
) -> Iterator[OneSession]:
    backend = create_backend(kind, options)
    thread = LoopThread()
    with contextlib.ExitStack() as stack:
        stack.callback(thread.close)
        stack.callback(lambda: thread.run(backend.close()))
        thread.run(backend.open(persistence))
        yield OneSession(thread, stack, backend)


def _refusal(kind: str, options: dict[str, Any]) -> str:
    """Why it does not start; one line."""
    with pytest.raises(DataServerError) as refused, _opened(kind, options):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_that_is_killed_is_followed_by_another_and_all_are_confined(
    kind: str, container_engine: ContainerEngine, request: pytest.FixtureRequest
) -> None:
    with _opened(kind, options_of(kind, request)) as session:
        server = session.start()
        session.carry()
        program = container_engine.processes()[-1]
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{program.pid}/status").read_text().splitlines()
        )
        # as root nginx makes itself another user; nothing else can do what a user cannot
        allowed = (1 << 6 | 1 << 7) if kind == "nginxcontainer" else 0
        assert int(status["CapBnd"], 16) == int(status["CapPrm"], 16) == allowed
        assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in Path(f"/proc/{program.pid}/mounts").read_text().splitlines()]
        (root,) = (options for _, where, _, options, *_ in mounts if where == "/")
        assert "ro" in root.split(",")
        (before,) = container_engine.containers()
        with container_engine.client() as client:
            made = client.api.inspect_container(before)
            assert made["Config"]["Labels"]["scistream.session"] == "a session"
            assert made["HostConfig"]["RestartPolicy"]["Name"] in {"", "no"}
            client.api.kill(before)
        until(lambda: len(session.restarts) == 1, "the restart is told")
        assert "ended with its container" in session.restarts[0]
        assert container_engine.containers() != [before]
        session.carry()
        session.thread.run(server.stop())
    assert container_engine.containers() == []


@pytest.mark.peer("dockerd", "haproxy")
def test_a_container_that_is_stopped_by_hand_is_followed_by_another(
    container_engine: ContainerEngine, request: pytest.FixtureRequest
) -> None:
    with _opened("HaproxyContainer", options_of("haproxycontainer", request)) as session:
        server = session.start()
        with container_engine.client() as client:
            client.api.stop(container_engine.containers()[0], timeout=20)
        until(lambda: len(session.restarts) == 1, "the restart is told")
        session.carry()
        session.thread.run(server.stop())


@pytest.mark.peer("dockerd", "haproxy")
def test_a_session_whose_engine_ends_is_given_up_and_says_so() -> None:
    with running_engine() as engine:
        options = {"image": engine.image("haproxy"), "engine": engine.url}
        with _opened("HaproxyContainer", options) as session:
            server = session.start()
            session.carry()
            waiting = Background(lambda: session.thread.run(server.wait()))
            engine.stop()
            assert "the Docker Engine does not answer" in waiting.result()
            session.thread.run(server.stop())
        reason = _refusal("HaproxyContainer", options)
    assert f"the Docker Engine does not answer at {engine.url}" in reason
    assert "apt install docker.io" in reason
    assert "--container-engine" in reason


@contextlib.contextmanager
def _hung(engine: ContainerEngine) -> Iterator[None]:
    """The engine does nothing; its containers run on."""
    engine.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.process.send_signal(signal.SIGCONT)


@pytest.mark.peer("dockerd", "haproxy")
def test_an_engine_that_hangs_cuts_no_stream_when_sessions_start_and_stop(
    container_engine: ContainerEngine, request: pytest.FixtureRequest
) -> None:
    with _opened("HaproxyContainer", options_of("haproxycontainer", request)) as session:
        first = session.start()
        listener, application = session.listener, session.application
        other = session.start()
        near = session.stack.enter_context(tls_context(PEER, OWN).wrap_socket(connect(listener)))
        far = session.stack.enter_context(accept(application))
        with _hung(container_engine):
            before_s = time.monotonic()
            session.thread.run(other.stop())
            assert time.monotonic() - before_s < ANSWER_LIMIT_S / 2
            before_s = time.monotonic()
            with pytest.raises(DataServerError, match=r"haproxy does not start: .* does not call back"):
                session.start()
            assert time.monotonic() - before_s < ANSWER_LIMIT_S
            near.sendall(b"hello")
            assert receive(far, 5) == b"hello"
        until(lambda: len(container_engine.containers()) == 1, "what was stopped and not started is removed")
        near.sendall(b"again")
        assert receive(far, 5) == b"again"
        assert session.restarts == []
        session.thread.run(first.stop())
    until(lambda: container_engine.containers() == [], "all are removed")


@pytest.mark.peer("dockerd", "haproxy")
def test_a_session_that_is_stopped_while_the_engine_removes_its_container_leaves_nothing(
    container_engine: ContainerEngine, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with _opened(
        "HaproxyContainer", options_of("haproxycontainer", request), Persistence(tmp_path, 60)
    ) as session:
        server = session.start()
        assert len([*tmp_path.rglob("own.pem")]) == 1
        first, *_ = container_engine.processes()
        with _hung(container_engine):
            first.kill()
            first.wait(TIMEOUT_S)
            session.thread.run(server.stop())
            assert [*tmp_path.rglob("own.pem")] == []
            port = endpoint(session.listener).port
            session.listener.close()
            socket.create_server((LOCALHOST, port)).close()
        until(lambda: container_engine.containers() == [], "the container is removed")
        assert session.restarts == []


@pytest.mark.peer("dockerd")
def test_an_image_that_is_missing_is_one_line_that_says_what_to_type(
    container_engine: ContainerEngine,
) -> None:
    reason = _refusal("HaproxyContainer", {"engine": container_engine.url})
    assert "the image haproxy:lts is not on this machine; type: docker pull haproxy:lts" in reason


@pytest.mark.peer("dockerd", "haproxy")
def test_an_image_without_the_program_is_one_line_too(container_engine: ContainerEngine) -> None:
    options = {"engine": container_engine.url, "image": container_engine.image("haproxy")}
    reason = _refusal("NginxContainer", options)
    assert "the image test/haproxy:latest has no nginx" in reason
    assert container_engine.containers() == []


@pytest.mark.peer("dockerd", "haproxy")
def test_what_a_dead_gateway_has_left_is_removed_and_that_of_a_living_one_is_not(
    container_engine: ContainerEngine, request: pytest.FixtureRequest
) -> None:
    options = options_of("haproxycontainer", request)
    gone = psutil.Popen(["true"])
    dead = name_of(gone.pid)
    gone.wait()
    owners = {"dead": dead, "alive": name_of(psutil.Process().pid)}
    with container_engine.client() as client:
        for name, owner in owners.items():
            client.api.create_container(
                options["image"], name=name, command=["haproxy"], labels={OWNER_LABEL: owner}
            )
        try:
            with _opened("HaproxyContainer", options):
                assert container_engine.containers() == ["alive"]
        finally:
            client.api.remove_container("alive")


def test_without_the_sdk_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(DataServerError, match=r"type: pip install 'ministream\[containers\]'$"):
        Engine("unix:///nowhere").open()


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("stunnelcontainer", {}, r"no image of stunnel .* --container-image"),
        ("haproxycontainer", {"engine": "tcp://192.0.2.1:2375"}, "is not this machine's"),
        ("haproxycontainer", {"workers": 0}, "at least one"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        create_backend(kind, options)


def test_the_engine_is_where_docker_is_told_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(ConfigurationError, match="192"):
        create_backend("haproxycontainer")
    create_backend("haproxycontainer", {"engine": "/run/docker.sock"})
