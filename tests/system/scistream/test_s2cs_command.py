"""s2cs as a process: the documented spellings, what it says when it is ready, and its end by each signal."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from scistream.wire import scistream_pb2 as pb
from scistream.wire.scistream_pb2_grpc import ControlStub
from support.gateways import (
    PROGRAMS,
    TIMEOUT_S,
    Application,
    Gateways,
    finish,
    run_program,
    start_program,
    until,
)
from support.module_gateways import calling

Applications = Callable[[str], Application]


def test_it_uses_all_the_open_files_that_the_system_lets_it_have(gateways: Gateways) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        server = gateways.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(directory: Path, *arguments: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run s2cs in `directory` with exactly these arguments; it is ended by SIGINT."""
    process = subprocess.Popen(
        [PROGRAMS / "s2cs", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={**os.environ, "HOME": str(directory), "XDG_CONFIG_HOME": os.devnull, **environment},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate(timeout=TIMEOUT_S)[1]
    event: dict[str, Any] = json.loads(line)
    assert event["event"] == "ready"
    return event


def test_the_documented_flat_form_starts_a_server(gateways: Gateways) -> None:
    port = free_port()
    arguments = (
        f"--listener-ip 127.0.0.1 --type NATIVE --port {port} --port-range 0 --server_crt server.crt "
        "--server_key server.key --ssl=True -v --auth shared-key --auth-file tokens.toml --json --no-state"
    )
    with running(gateways.directory, *arguments.split()) as process:
        event = ready(process)
        assert event["address"] == f"127.0.0.1:{port}"
        assert (event["advertise"], event["advertise_lan"]) == ("127.0.0.1", "127.0.0.1")
        assert (event["data_server"].lower(), event["tls"], event["state_dir"]) == ("native", True, None)
        assert event["recovered"] == 0


def test_start_takes_the_port_alone_and_keeps_state_by_it(gateways: Gateways) -> None:
    port = free_port()
    arguments = (
        f"start --port={port} --listen 127.0.0.1 --port-range=0 --auth=shared-key "
        "--auth-file=tokens.toml --json"
    )
    kept = gateways.directory / f"state/scistream/s2cs-{port}"
    with running(
        gateways.directory, *arguments.split(), XDG_STATE_HOME=str(gateways.directory / "state")
    ) as process:
        event = ready(process)
        assert event["state_dir"] == str(kept)
        assert kept.stat().st_mode & 0o777 == 0o700
        second = finish(
            start_program(
                "s2cs",
                *gateways.arguments(f"--state-dir={kept}"),
            )
        )
        assert second.code in {3, 5}
        assert str(kept) in second.err


def test_the_documented_form_can_get_the_rest_from_the_environment(gateways: Gateways) -> None:
    environment = {
        "S2CS_START_AUTH": "shared-key",
        "S2CS_START_AUTH_FILE": "tokens.toml",
        "S2CS_START_ADVERTISE": "gw.example",
        "S2CS_START_ADVERTISE_LAN": "gw.example",
        "S2CS_START_JSON": "1",
        "S2CS_START_NO_STATE": "1",
    }
    arguments = f"--listener_ip 0.0.0.0 --type Native --port {free_port()} --port_range 0 --v"
    with running(gateways.directory, *arguments.split(), **environment) as process:
        assert ready(process)["advertise"] == "gw.example"


def test_listener_ip_that_is_not_this_machines_is_refused_with_the_way_out(gateways: Gateways) -> None:
    arguments = "--listener-ip 203.0.113.9 --port 0 --auth shared-key --auth-file tokens.toml --no-state"
    with running(gateways.directory, *arguments.split()) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (3, "")
    assert "--listener-ip 203.0.113.9 is no address of this machine" in err
    assert "--advertise 203.0.113.9" in err


def test_a_port_that_is_taken_is_called_that(gateways: Gateways) -> None:
    server = gateways.start()
    second = finish(start_program("s2cs", *gateways.arguments(f"--listen={server.address}")))
    assert second.code == 5
    assert "another program (another s2cs?) has the port" in second.err


def test_the_native_data_server_works_as_the_operator_has_said(gateways: Gateways) -> None:
    server = gateways.start("--workers=1", "--congestion-wan=reno", "--dscp=8")
    tree = psutil.Process(server.process.pid).children(recursive=True)
    assert len(tree) == 2  # a supervisor and one worker
    settings = json.loads(tree[0].cmdline()[tree[0].cmdline().index("--settings") + 1])
    assert (settings["workers"], settings["congestion_wan"], settings["dscp"]) == (1, "reno", 8)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--type=haproxy", "--pace"), "haproxy cannot hold a session to its rate: leave --pace out"),
        (("--type=StunnelSubprocess", "--encryption=none"), "forwards encrypted sessions only"),
    ],
    ids=["pace", "plain"],
)
def test_what_the_data_server_cannot_do_is_refused_at_the_start(
    gateways: Gateways, options: tuple[str, ...], complaint: str
) -> None:
    finished = run_program("s2cs", *gateways.arguments(*options))
    assert finished.code == 3
    assert complaint in finished.err


@pytest.mark.peer("haproxy")
def test_the_version_of_the_program_is_said_at_the_start(gateways: Gateways) -> None:
    server = gateways.start("--type=haproxy")
    until(lambda: re.search(r"data server haproxy \d+\.\d+\.?\d*: /", server.log.read_text()))


def test_version() -> None:
    assert run_program("s2cs", "--version").out.startswith("s2cs, version ")


def test_without_tls_it_serves_in_plain_text_and_says_so(gateways: Gateways) -> None:
    server = gateways.start("--ssl=False")
    assert server.ready["tls"] is False
    token = server.tokens["alice"].read_text().strip()
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = ControlStub(channel)  # type: ignore[no-untyped-call]
        reply = stub.status(pb.StatusRequest(), timeout=TIMEOUT_S, metadata=(("authorization", token),))
        assert list(reply.sessions) == []
        with pytest.raises(grpc.RpcError) as refused:
            stub.status(pb.StatusRequest(), timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "TLS is off" in server.log.read_text()


def test_listeners_are_advertised_by_the_ports_that_others_reach(gateways: Gateways) -> None:
    port = free_port()
    server = gateways.start(
        f"--port-range={port}",
        "--advertise-port-range=30123",
        "--advertise=node.example",
        "--encryption=optional",
    )
    with calling(server) as caller:
        grant = caller.reserve(str(uuid.uuid4()), "127.0.0.1:9")
    assert list(grant.listeners) == ["node.example:30123"]
    assert any(
        connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
        for connection in psutil.Process(server.process.pid).net_connections("tcp")
    )


def test_capacity_is_shared_by_the_rates_that_are_asked_for(gateways: Gateways) -> None:
    server = gateways.start("--capacity=1000")
    with calling(server) as caller:
        caller.reserve(str(uuid.uuid4()), "127.0.0.1:9", rate=700)
        with pytest.raises(grpc.RpcError) as refused:
            caller.req(str(uuid.uuid4()), rate=700).result()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_session_without_application_ends_by_the_hello_timeout(gateways: Gateways) -> None:
    server = gateways.start("--hello-timeout-s=0.3")
    with calling(server) as caller:
        with pytest.raises(grpc.RpcError) as expired:
            caller.req(str(uuid.uuid4())).result()
        assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# --- its end ---------------------------------------------------------------------------------------------


def open_stream(gateways: Gateways, application: Applications, *options: str) -> tuple[Any, socket.socket]:
    """Start a server with a state directory, open a plain session, and connect through it."""
    server = gateways.start(f"--state-dir={gateways.directory / 'state'}", "--encryption=optional", *options)
    app = application("detector")
    uid = str(uuid.uuid4())
    with calling(server) as caller:
        host, _, port = caller.open_plain(uid, app.address).rpartition(":")
        connection = socket.create_connection((host, int(port)), TIMEOUT_S)
        connection.sendall(b"first ")
        until(lambda: caller.status(uid).channels[0].bytes_to_target == len(b"first "))
    return server, connection


def answer(connection: socket.socket) -> bytes:
    """End our direction and return all that comes back."""
    with connection:
        connection.sendall(b"second")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def last_event(process: subprocess.Popen[str], signum: int) -> dict[str, Any]:
    process.send_signal(signum)
    out, _ = process.communicate(timeout=TIMEOUT_S)
    event: dict[str, Any] = json.loads(out.splitlines()[-1])
    return event


def test_sigterm_with_keep_leaves_the_streams_and_the_next_start_finds_them(
    gateways: Gateways, application: Applications
) -> None:
    server, connection = open_stream(gateways, application, "--on-terminate=keep")
    family = psutil.Process(server.process.pid).children(recursive=True)
    done = last_event(server.process, signal.SIGTERM)
    assert (done["event"], done["signal"], done["mode"], server.process.returncode) == (
        *("done", "SIGTERM", "keep"),
        143,
    )
    again = gateways.start(f"--state-dir={gateways.directory / 'state'}", "--encryption=optional")
    assert again.ready["recovered"] == 1
    assert answer(connection) == b"detector:first second"
    code, left = again.stop(signal.SIGINT)
    assert (code, left) == (130, [])
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_sigterm_with_release_ends_the_streams(gateways: Gateways, application: Applications) -> None:
    server, connection = open_stream(gateways, application, "--on-terminate=release")
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert last_event(server.process, signal.SIGTERM)["mode"] == "release"
    with connection:
        connection.settimeout(TIMEOUT_S)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_sigterm_with_drain_lets_a_stream_finish(gateways: Gateways, application: Applications) -> None:
    server, connection = open_stream(gateways, application, "--drain-timeout-s=20")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "drain" in server.log.read_text().lower())
    assert server.process.poll() is None
    assert answer(connection) == b"detector:first second"
    out, _ = server.process.communicate(timeout=TIMEOUT_S)
    assert json.loads(out.splitlines()[-1])["mode"] == "drain"
    assert server.process.returncode == 143


def test_sigint_releases_whatever_sigterm_would_do(gateways: Gateways, application: Applications) -> None:
    server, connection = open_stream(gateways, application, "--on-terminate=keep")
    family = psutil.Process(server.process.pid).children(recursive=True)
    with connection:
        done = last_event(server.process, signal.SIGINT)
    assert (done["mode"], server.process.returncode) == ("release", 130)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []


def test_a_second_signal_kills_the_server_and_its_streams_survive(
    gateways: Gateways, application: Applications
) -> None:
    server, connection = open_stream(gateways, application, "--drain-timeout-s=60")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "drain" in server.log.read_text().lower())
    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=TIMEOUT_S)
    again = gateways.start(f"--state-dir={gateways.directory / 'state'}", "--encryption=optional")
    assert again.ready["recovered"] == 1
    assert answer(connection) == b"detector:first second"
    assert again.stop(signal.SIGINT) == (130, [])
