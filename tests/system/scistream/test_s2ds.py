"""``s2ds forward`` as a program, and the native data server when processes around it are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.core.endpoint import Endpoint
from support.relays import (
    LOCALHOST,
    TIMEOUT_S,
    Background,
    Identity,
    accept,
    cut,
    endpoint,
    listening,
    receive,
    receive_all,
    turned_away,
    until,
)

S2DS = str(Path(sys.executable).with_name("s2ds"))


class Program:
    """``s2ds`` with these arguments, and its events."""

    def __init__(self, *arguments: object, limit_files: int | None = None) -> None:
        limit = [] if limit_files is None else ["prlimit", f"--nofile={limit_files}:{limit_files}"]
        self.seen: list[psutil.Process] = []
        self.process = subprocess.Popen(
            [*limit, S2DS, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"it ended: {self.finish()}")
        return dict(json.loads(line))

    def port(self, channel: int = 0) -> int:
        return int(self.event()["listeners"][channel].rpartition(":")[2])

    def tree(self) -> list[psutil.Process]:
        self.seen = psutil.Process(self.process.pid).children(recursive=True)
        return self.seen

    def finish(self, signum: int | None = None) -> tuple[int, str, str]:
        if signum is not None:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@pytest.fixture
def s2ds() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(*arguments: object, **options: Any) -> Program:
        programs.append(Program(*arguments, **options))
        return programs[-1]

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate(timeout=TIMEOUT_S)
        for process in program.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def application() -> Iterator[socket.socket]:
    with listening() as sock:
        yield sock


def forward(application: socket.socket, *more: object) -> list[object]:
    return [
        *("forward", "--listen", f"{LOCALHOST}:0", "--target", endpoint(application)),
        *("--json", "--workers", 2),
        *more,
    ]


def passes(port: int, application: socket.socket, words: bytes = b"through") -> None:
    with socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S) as near, accept(application) as far:
        near.sendall(words)
        near.shutdown(socket.SHUT_WR)
        assert receive_all(far) == words


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_forward_relays_until_it_is_told_to_stop(
    s2ds: Callable[..., Program], application: socket.socket, signum: int, code: int
) -> None:
    program = s2ds(*forward(application))
    passes(program.port(), application)
    tree = program.tree()
    assert len(tree) == 3
    returned, out, err = program.finish(signum)
    assert (returned, err) == (code, "")
    done = json.loads(out.splitlines()[-1])
    assert done["event"] == "done"
    assert done["channels"][0]["bytes_to_target"] == 7
    assert not psutil.wait_procs(tree, timeout=5)[1]


def test_forward_encrypts_between_two_of_them(
    s2ds: Callable[..., Program], application: socket.socket, tmp_path: Path
) -> None:
    for side in ("producer", "consumer"):
        identity = Identity.make()
        (tmp_path / f"{side}.crt").write_bytes(identity.certificate)
        (tmp_path / f"{side}.key").write_bytes(identity.key)

    def tls(leg: str, own: str, peer: str) -> list[object]:
        return [
            *("--tls-leg", leg, "--certificate", tmp_path / f"{own}.crt"),
            *("--private-key", tmp_path / f"{own}.key", "--peer-certificate", tmp_path / f"{peer}.crt"),
        ]

    producer = s2ds(*forward(application, *tls("listener", "producer", "consumer")))
    ready = producer.event()
    assert ready["encrypted"] is True
    address = ready["listeners"][0]
    consumer = s2ds(
        *("forward", "--listen", f"{LOCALHOST}:0", "--target", address, "--json"),
        *tls("target", "consumer", "producer"),
    )
    passes(consumer.port(), application)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as stranger:
        stranger.sendall(b"let me in")
        with contextlib.suppress(ConnectionResetError):
            receive_all(stranger)
    key = (tmp_path / "producer.key").read_bytes().splitlines()[1]
    for process in producer.tree():
        assert key not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_progress_is_shown_while_it_runs(s2ds: Callable[..., Program], application: socket.socket) -> None:
    program = s2ds(*forward(application, "--statistics-interval", 0.2))
    passes(program.port(), application)
    while (progress := program.event())["channels"][0]["bytes_to_target"] != 7:
        assert progress["event"] == "progress"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--target", "localhost:1"], 2, "--listen"),
        (["--listen", "127.0.0.1:0", "--target", "nowhere"], 3, "names no port"),
        (["--listen", "192.0.2.1:0", "--target", "localhost:1"], 3, "address of this host"),
        (["--listen", "127.0.0.1:0", "--target", "no-such-host.invalid:1"], 8, r"no-such-host.invalid"),
        (["--listen", "127.0.0.1:0", "--target", "localhost:1", "--tls-leg", "target"], 3, "--certificate"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    s2ds: Callable[..., Program], arguments: list[str], code: int, words: str
) -> None:
    returned, _, err = s2ds("forward", *arguments).finish()
    assert returned == code
    assert words in err
    assert err.startswith("s2ds: error: ")
    assert err.count("\n") == 1


def test_a_port_that_is_taken_is_exit_code_5(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    program = s2ds("forward", "--listen", endpoint(application), "--target", "localhost:1", "--json")
    code, out, err = program.finish()
    assert code == 5
    assert "choose another port" in err
    assert json.loads(out)["exit_code"] == 5


def test_options_come_from_a_file_and_from_the_environment(
    s2ds: Callable[..., Program],
    application: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "relay.toml"
    config.write_text(
        f'[forward]\nlisten = ["127.0.0.1:0"]\ntarget = ["{endpoint(application)}"]\nworkers = 3\n'
    )
    monkeypatch.setenv("S2DS_FORWARD_WORKERS", "1")
    program = s2ds("forward", "--config", config, "--json")
    passes(program.port(), application)
    assert len(program.tree()) == 2


def test_a_worker_that_is_killed_is_replaced_and_the_program_goes_on_and_says_so(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    program = s2ds(*forward(application, "--statistics-interval", 0.2))
    port = program.port()
    with socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S) as near, accept(application) as far:
        near.sendall(b"half a stream")
        assert receive(far, 13) == b"half a stream"
        until(lambda: program.event()["channels"][0]["bytes_to_target"] == 13, "its figures are known")
        before = _workers(program)
        (victim,) = (one for one in before if _sockets([one]))
        victim.kill()
        for sock in (near, far):
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    until(lambda: victim.pid not in {one.pid for one in _workers(program)}, "the dead one is gone")
    until(lambda: len(_workers(program)) == len(before), "another one is in its place")
    with contextlib.ExitStack() as stack:
        opened = []

        def all_carry_one() -> bool:
            opened.append(port)
            stack.enter_context(socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S))
            stack.enter_context(accept(application))
            return all(_sockets([worker]) for worker in _workers(program))

        until(all_carry_one, "the new worker, which may still be starting, gets its part")
    passes(port, application)
    tree = program.tree()
    code, out, err = program.finish(signal.SIGTERM)
    assert code == 143
    (said,) = (line for line in err.splitlines() if str(victim.pid) in line)
    assert "was killed by SIGKILL; its connections are lost, another one takes its place" in said
    done = json.loads(out.splitlines()[-1])
    assert done["event"] == "done"
    (channel,) = done["channels"]  # what the dead one had carried counts
    assert (channel["connections_total"], channel["bytes_to_target"]) == (
        2 + len(opened),
        13 + len(b"through"),
    )
    assert not psutil.wait_procs(tree, timeout=5)[1]


def test_a_supervisor_that_is_killed_ends_the_program_with_its_reason(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    program = s2ds(*forward(application))
    with socket.create_connection((LOCALHOST, program.port()), timeout=TIMEOUT_S) as near:
        far = accept(application)
        tree = program.tree()
        supervisor = _supervisor(program)
        supervisor.kill()
        code, out, err = program.finish()
        assert code == 8
        reason = f"supervisor (pid {supervisor.pid}) was killed by SIGKILL"
        assert reason in err.splitlines()[-1]
        error = json.loads(out.splitlines()[-1])
        assert (error["event"], error["exit_code"]) == ("error", 8)
        assert reason in error["message"]
        for sock in (near, far):
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        far.close()
    assert not psutil.wait_procs(tree, timeout=5)[1]


def _supervisor(program: Program) -> psutil.Process:
    (supervisor,) = psutil.Process(program.process.pid).children()
    return supervisor


def _workers(program: Program) -> list[psutil.Process]:
    return [one for one in _supervisor(program).children() if one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("victim", ["controller", "supervisor"])
def test_nothing_is_left_when_one_process_is_killed(
    s2ds: Callable[..., Program], application: socket.socket, victim: str
) -> None:
    program = s2ds(*forward(application))
    port = program.port()
    tree = program.tree()
    target = program.process.pid if victim == "controller" else min(process.pid for process in tree)
    os.kill(target, signal.SIGKILL)
    assert not psutil.wait_procs(tree, timeout=5)[1]
    code, _, _ = program.finish()
    assert code == (-signal.SIGKILL if victim == "controller" else 8)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S)


def test_a_supervisor_that_gets_sigterm_ends_its_workers(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    program = s2ds(*forward(application))
    program.port()
    tree = program.tree()
    min(tree, key=lambda process: process.pid).terminate()
    assert not psutil.wait_procs(tree, timeout=5)[1]
    assert program.finish()[0] == 8


def test_without_descriptors_new_connections_wait_and_are_served_later(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    # one worker with room for (300 - 200 in reserve) / 6 connections
    program = s2ds(*forward(application, "--workers", 1), limit_files=300)
    port = program.port()
    worker = max(program.tree(), key=lambda process: process.pid)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S))
            for _ in range(40)
        ]
        served = []
        application.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                served.append(accept(application))
        application.settimeout(TIMEOUT_S)
        assert 10 < len(served) < 20
        before = _cpu_s(worker)
        began = time.monotonic()
        assert not _readable(application, 1.0), "it waits for a free place"
        assert _cpu_s(worker) - before < 0.3 * (time.monotonic() - began), "and does not spin"
        for sock in served:
            sock.close()
        for client in clients[: len(served)]:
            client.close()
        later = [accept(application) for _ in range(10)]
        for sock in later:
            sock.close()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _readable(sock: socket.socket, timeout_s: float) -> bool:
    sock.settimeout(timeout_s)
    try:
        sock.accept()[0].close()
    except TimeoutError:
        return False
    finally:
        sock.settimeout(TIMEOUT_S)
    return True


def test_long_streams_are_spread_over_the_workers(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    program = s2ds(*forward(application))
    port = program.port()
    workers = sorted(program.tree(), key=lambda process: process.pid)[1:]
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S))
            stack.enter_context(accept(application))

        def counts() -> list[int]:
            return [
                sum(1 for one in worker.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED)
                for worker in workers
            ]

        # one that is handed over is for a moment in both
        until(lambda: sum(counts()) == 16, "each connection is in one worker")
        assert min(counts()) >= 6


def test_a_connection_storm_leaves_nothing_behind(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    program = s2ds(*forward(application))
    port = program.port()
    passes(port, application)
    tree = program.tree()
    until(lambda: not _sockets(tree), "quiet")
    before = sum(process.num_fds() for process in tree)

    def serve() -> None:
        while True:
            with application.accept()[0] as sock, contextlib.suppress(ConnectionError):
                sock.sendall(sock.recv(100))

    # connections that were cut at once may never reach the application
    application.settimeout(5)
    serving = Background(serve)
    for index in range(300):
        sock = socket.create_connection((LOCALHOST, port), timeout=TIMEOUT_S)
        sock.sendall(b"x")
        if index % 3 == 0:
            assert receive(sock, 1) == b"x"
        if index % 3 == 1:
            cut(sock)
        else:
            sock.close()
    with contextlib.suppress(TimeoutError):
        serving.result()
    application.settimeout(TIMEOUT_S)
    until(lambda: not _sockets(tree), "all connections are closed")
    assert sum(process.num_fds() for process in tree) <= before + 8


def _sockets(tree: list[psutil.Process]) -> list[Any]:
    return [
        one for process in tree for one in process.net_connections("tcp") if one.status != psutil.CONN_LISTEN
    ]


def test_an_unreachable_target_is_not_the_end_of_the_relay(
    s2ds: Callable[..., Program], application: socket.socket
) -> None:
    with socket.create_server((LOCALHOST, 0)) as nobody:
        nowhere = endpoint(nobody)
    program = s2ds(
        *("forward", "--listen", f"{LOCALHOST}:0", "--listen", f"{LOCALHOST}:0"),
        *("--target", nowhere, "--target", endpoint(application), "--json"),
    )
    ports = [int(text.rpartition(":")[2]) for text in program.event()["listeners"]]
    assert turned_away(Endpoint(LOCALHOST, ports[0]))
    passes(ports[1], application)


def test_help_teaches(s2ds: Callable[..., Program]) -> None:
    for arguments in (["--help"], ["forward", "-h"]):
        code, out, _ = s2ds(*arguments).finish()
        assert code == 0
        assert "s2ds forward --listen" in out
    code, out, _ = s2ds("--version").finish()
    assert (code, out.split()[0]) == (0, "s2ds,")
