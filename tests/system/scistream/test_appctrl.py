"""appctrl: applications that know nothing of sessions, each under it, and what is left when they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.gateways import (
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
from support.module_gateways import calling

Applications = Callable[[str], Application]

# Listens where it is told, takes one connection, writes what it received to a file, answers, ends.
PRODUCER = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    connection, _ = listener.accept()
    with connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        connection.sendall(b"got " + str(len(received)).encode())
open(sys.argv[3], "wb").write(received)
"""

# Connects where its environment says, sends a file, prints the answer.
CONSUMER = """
import os, socket, sys
where = os.environ["SCISTREAM_LISTENER_HOST"], int(os.environ["SCISTREAM_LISTENER_PORT"])
assert os.environ["SCISTREAM_LISTENERS"] == sys.argv[2] == "%s:%d" % where
with socket.create_connection(where, 30) as connection:
    connection.sendall(open(sys.argv[1], "rb").read())
    connection.shutdown(socket.SHUT_WR)
    print(b"".join(iter(lambda: connection.recv(65536), b"")).decode())
"""

WAIT = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def appctrl(
    server: ControlServerProcess, uid: str, role: str, *arguments: str | Path, **environment: str
) -> subprocess.Popen[str]:
    """Start ``appctrl run UID --role ROLE``; `arguments` are more options, ``--``, the command."""
    return start_program(
        "appctrl", "run", uid, f"--role={role}", *server.options(), "--json", *arguments, **environment
    )


def program(source: str, *arguments: str | Path) -> list[str]:
    return ["--", sys.executable, "-c", source, *map(str, arguments)]


def events(finished: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in finished.err.splitlines() if line.startswith("{")]


def names(finished: Finished) -> list[str]:
    return [event["event"] for event in events(finished)]


def states(server: ControlServerProcess) -> dict[str, str]:
    finished = run_program("s2uc", "status", "--json", *server.options())
    assert finished.code == 0, finished.err
    return {session["uid"]: session["state"] for session in finished.json["sessions"]}


class Session:
    """REQ and UPDATE of both sides, as a user's client sends them; HELLO is left to the applications."""

    def __init__(self, producer: ControlServerProcess, consumer: ControlServerProcess) -> None:
        self.uid = str(uuid.uuid4())
        self.servers = producer, consumer

    def connect(self, update_consumer: bool = True) -> None:
        """Request both sides, wait for both hellos, connect both."""
        with calling(self.servers[0]) as ours, calling(self.servers[1]) as theirs:
            waiting = ours.req(self.uid, "PROD"), theirs.req(self.uid, "CONS")
            prod, cons = waiting[0].result(), waiting[1].result()
            ours.update(self.uid, prod.prod_listeners, cons.certificate)
            if update_consumer:
                theirs.update(self.uid, prod.listeners, prod.certificate)


def test_both_applications_run_under_it_and_their_bytes_arrive(gateways: Gateways, tmp_path: Path) -> None:
    producer, consumer = gateways.start(), gateways.start()
    session, port, payload = Session(producer, consumer), free_port(), os.urandom(3_000_000)
    source, received = tmp_path / "source", tmp_path / "received"
    source.write_bytes(payload)
    prod = appctrl(
        producer, session.uid, "PROD", f"--port={port}", *program(PRODUCER, "{host}", "{port}", received)
    )
    cons = appctrl(consumer, session.uid, "CONS", *program(CONSUMER, source, "{listener}"))
    session.connect()
    ended = finish(prod), finish(cons)
    assert [one.code for one in ended] == [0, 0], ended
    assert ended[1].out == f"got {len(payload)}\n"
    assert received.read_bytes() == payload
    assert names(ended[0]) == ["started", "listening", "registered", "done"]
    assert names(ended[1]) == ["registered", "connected", "started", "done"]
    assert states(producer)[session.uid] == states(consumer)[session.uid] == "released"
    registered = events(ended[0])[2]["listeners"] + events(ended[1])[0]["listeners"]
    assert len(registered) == 2
    assert all(map(can_be_bound, registered))


@pytest.mark.peer("iperf3")
def test_iperf3_measures_through_a_session(gateways: Gateways) -> None:
    producer, consumer = gateways.start(), gateways.start()
    session, port = Session(producer, consumer), free_port()
    serve = "iperf3 -s -1 --forceflush -p {port}"
    measure = "iperf3 -c {host} -p {port} -n 20M -P 2 --json"
    prod = appctrl(producer, session.uid, "PROD", f"--port={port}", "--", *serve.split())
    cons = appctrl(consumer, session.uid, "CONS", "--", *measure.split())
    session.connect()
    measured, served = finish(cons), finish(prod)
    assert (measured.code, served.code) == (0, 0), (measured, served)
    result = json.loads(measured.out)["end"]
    assert result["sum_sent"]["bytes"] >= 20_000_000
    assert result["sum_received"]["bytes"] > 0  # iperf3 does not wait for what is still on the way
    assert states(producer)[session.uid] == "released"


def test_a_command_in_a_pipe_reads_it_and_gets_no_token(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    session = Session(producer, consumer)
    hello = start_program(
        "appctrl", "hello", session.uid, "--role=PROD", f"--address={app.address}", *producer.options()
    )
    token = consumer.tokens["alice"].read_text().strip()
    process = subprocess.Popen(
        [
            *(Path(sys.executable).parent / "appctrl", "run", session.uid, "--role=CONS"),
            *(f"--s2cs={consumer.address}", f"--certificate={consumer.certificate}"),
            *("--", "sh", "-c", 'cat; echo "<$APPCTRL_TOKEN$S2UC_TOKEN>$SCISTREAM_UID"'),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": os.devnull, "APPCTRL_TOKEN": token, "S2UC_TOKEN": token},
    )
    session.connect()
    out, err = process.communicate("from the pipe\n", timeout=30)
    assert (process.returncode, out, err) == (0, f"from the pipe\n<>{session.uid}\n", "")
    assert finish(hello).code == 0


@pytest.mark.parametrize(
    ("command", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 0", 0)]
)
def test_the_exit_code_is_the_commands_and_the_session_is_released(
    gateways: Gateways, command: str, code: int
) -> None:
    server = gateways.start("--encryption=optional")
    uid = str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        process = appctrl(server, uid, "CONS", "--", "sh", "-c", command)
        waiting.result()
        caller.update(uid, ["127.0.0.1:9"])
        ended = finish(process)
    assert ended.code == code, ended.err
    assert events(ended)[-1] == {"event": "done", "uid": uid, "exit_code": code}
    assert states(server)[uid] == "released"


def test_with_keep_the_session_outlives_the_command(gateways: Gateways) -> None:
    server = gateways.start("--encryption=optional")
    uid = str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        process = appctrl(server, uid, "CONS", "--keep", "--", "true")
        waiting.result()
        caller.update(uid, ["127.0.0.1:9"])
        assert finish(process).code == 0
        assert states(server)[uid] == "connected"
        caller.release(uid)


def started_producer(
    gateways: Gateways, source: str, *options: str
) -> tuple[ControlServerProcess, str, subprocess.Popen[str]]:
    """A producer's command whose port is announced, in a session that nobody connects."""
    server, uid, port = gateways.start(), str(uuid.uuid4()), free_port()
    listen = f"import socket; listener = socket.create_server(('127.0.0.1', {port})); {source}"
    process = appctrl(server, uid, "PROD", f"--port={port}", *options, *program(listen))
    with calling(server) as caller:
        caller.req(uid, "PROD").result()
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return server, uid, process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on_and_the_session_is_released(gateways: Gateways, signum: int) -> None:
    server, uid, process = started_producer(gateways, WAIT)
    process.send_signal(signum)
    assert finish(process).code == 128 + signum
    assert states(server)[uid] == "released"


def test_a_command_that_does_not_heed_signals_is_killed_after_the_grace(gateways: Gateways) -> None:
    server, uid, process = started_producer(gateways, STUBBORN, "--grace-s=0.5")
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 128 + signal.SIGKILL
    assert states(server)[uid] == "released"


def test_nothing_that_the_command_has_started_outlives_it(gateways: Gateways, tmp_path: Path) -> None:
    server, uid, pid_file = gateways.start("--encryption=optional"), str(uuid.uuid4()), tmp_path / "pid"
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        process = appctrl(server, uid, "CONS", "--", "sh", "-c", f"sleep 600 & echo $! > {pid_file}")
        waiting.result()
        caller.update(uid, ["127.0.0.1:9"])
        assert finish(process).code == 0
    until(lambda: gone(int(pid_file.read_text())))


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# --- what goes wrong -------------------------------------------------------------------------------------


def test_what_cannot_work_is_said_before_anything_is_started_or_announced(
    gateways: Gateways, application: Applications
) -> None:
    server, uid, app = gateways.start(), str(uuid.uuid4()), application("somebody else's")
    touched = gateways.directory / "touched"
    for role, arguments, code, complaint in [
        ("CONS", ["--", "no-such-program"], 3, "there is no such program"),
        ("CONS", ["--", "/etc/passwd"], 3, "it is not executable"),
        ("CONS", ["--", "touch", touched, "{hots}"], 3, "{hots} in the argument"),
        ("PROD", ["--port=1", "--", "touch", touched, "{address1}"], 3, "the session has 1 address,"),
        ("CONS", ["--port=1", "--", "touch", touched], 2, "takes no --address"),
        ("PROD", ["--", "touch", touched], 2, "needs --address or --port"),
        ("PROD", [f"--address={app.address}", "--", "touch", touched], 5, "listens at"),
        ("PROD", ["--address=no.invalid:1", "--", "touch", touched], 3, "cannot be announced"),
    ]:
        ended = finish(appctrl(server, uid, role, *arguments))
        assert ended.code == code, ended.err
        assert complaint in ended.err
        assert ended.out == ""
    assert not touched.exists()
    assert states(server) == {}


def test_a_command_that_dies_before_it_is_asked_for_ends_it_with_its_code(gateways: Gateways) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    assert finish(appctrl(server, uid, "PROD", f"--port={free_port()}", "--", "sh", "-c", "exit 9")).code == 9
    ended = finish(appctrl(server, uid, "PROD", f"--port={free_port()}", "--", "true"))
    assert ended.code == 7
    assert "the command ended before it listened at 127.0.0.1:" in ended.err


def test_a_command_that_has_listened_and_ends_before_its_session_is_told_so(gateways: Gateways) -> None:
    server, uid, port = gateways.start(), str(uuid.uuid4()), free_port()
    listen = f"import socket, sys; listener = socket.create_server(('127.0.0.1', {port})); sys.stdin.read(1)"
    process = subprocess.Popen(
        [
            *(Path(sys.executable).parent / "appctrl", "run", uid, "--role=PROD", f"--port={port}", "--json"),
            *(*server.options(), *program(listen)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": os.devnull},
    )
    assert process.stderr is not None
    seen = [json.loads(process.stderr.readline())["event"] for _ in range(2)]
    assert seen == ["started", "listening"]
    _, err = process.communicate("x", timeout=30)
    assert process.returncode == 7
    assert f"ended before session {uid} had been requested" in err


def test_a_command_that_never_listens_is_ended(gateways: Gateways) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    process = appctrl(server, uid, "PROD", f"--port={free_port()}", "--listen-timeout-s=0.3", *program(WAIT))
    ended = finish(process)
    assert ended.code == 7
    assert "nothing listens at" in ended.err
    assert names(ended) == ["started", "error"]
    assert gone(events(ended)[0]["pid"])


@pytest.mark.parametrize("role", ["PROD", "CONS"])
def test_a_session_that_nobody_asks_for_ends_it_and_its_command(gateways: Gateways, role: str) -> None:
    server, uid, port = gateways.start("--early-hello-timeout-s=0.2"), str(uuid.uuid4()), free_port()
    listen = f"import socket; listener = socket.create_server(('127.0.0.1', {port})); {WAIT}"
    ports = [f"--port={port}"] if role == "PROD" else []
    ended = finish(appctrl(server, uid, role, "--timeout-s=0.6", *ports, *program(listen)))
    assert ended.code == 7
    assert "was not requested" in ended.err
    assert (ended.out == "up\n") == (role == "PROD")


def test_a_session_that_is_never_connected_ends_a_consumers_wait(gateways: Gateways) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        ended = finish(appctrl(server, uid, "CONS", "--timeout-s=1.5", *program(WAIT)))
        assert waiting.result().listeners
    assert ended.code == 7
    assert "was not connected in time, it is announced" in ended.err
    assert ended.out == ""
    assert states(server)[uid] == "released"


def test_a_session_that_ends_while_a_consumer_waits_ends_it(gateways: Gateways) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        process = appctrl(server, uid, "CONS", *program(WAIT))
        waiting.result()
        caller.release(uid)
    ended = finish(process)
    assert ended.code == 7
    assert "has ended before it was connected" in ended.err


def test_a_signal_while_a_consumer_waits_releases_the_session(gateways: Gateways) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        process = appctrl(server, uid, "CONS", *program(WAIT))
        waiting.result()
        process.send_signal(signal.SIGTERM)
        ended = finish(process)
    assert (ended.code, ended.out) == (143, "")
    until(lambda: states(server)[uid] == "released")


def test_a_refused_hello_leaves_the_session_to_its_application(
    gateways: Gateways, application: Applications
) -> None:
    server, uid, app = gateways.start("--encryption=optional"), str(uuid.uuid4()), application("first")
    with calling(server) as caller:
        listener = caller.open_plain(uid, app.address)
        port = free_port()
        listen = f"import socket; listener = socket.create_server(('127.0.0.1', {port})); {WAIT}"
        ended = finish(appctrl(server, uid, "PROD", f"--port={port}", *program(listen)))
        assert ended.code == 7
        assert "cannot change the addresses" in ended.err
        assert ask(listener, b"x") == b"first:x"
        caller.release(uid)


def test_a_listener_that_is_not_there_leaves_the_session_to_another_try(gateways: Gateways) -> None:
    server, uid = gateways.start("--encryption=optional"), str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        mistyped = finish(appctrl(server, uid, "CONS", "--", "echo", "{listener1}"))
        listeners = waiting.result().listeners
        assert mistyped.code == 3
        assert "{listener1} is not there: the session has 1 listener," in mistyped.err
        caller.update(uid, ["127.0.0.1:9"])
        assert states(server)[uid] == "connected"
        again = finish(appctrl(server, uid, "CONS", "--", "echo", "{listener0}"))
    assert (again.code, again.out) == (0, f"{listeners[0]}\n")


# --- a session that ends before its command --------------------------------------------------------------


def running_consumer(
    server: ControlServerProcess, source: str, *options: str
) -> tuple[str, subprocess.Popen[str]]:
    """A consumer's command that runs in a connected session."""
    uid = str(uuid.uuid4())
    with calling(server) as caller:
        waiting = caller.req(uid, "CONS")
        process = appctrl(server, uid, "CONS", *options, *program(source))
        waiting.result()
        caller.update(uid, ["127.0.0.1:9"])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return uid, process


@pytest.mark.parametrize("role", ["PROD", "CONS"])
def test_a_session_that_is_released_by_somebody_stops_its_command(gateways: Gateways, role: str) -> None:
    if role == "PROD":
        server, uid, process = started_producer(gateways, WAIT)
    else:
        server = gateways.start("--encryption=optional")
        uid, process = running_consumer(server, WAIT)
    with calling(server) as caller:
        caller.release(uid)
    ended = finish(process)
    assert ended.code == 7
    assert names(ended)[-2:] == ["ended", "error"]
    assert (events(ended)[-2]["state"], events(ended)[-1]["exit_code"]) == ("released", 7)
    assert events(ended)[-2]["reason"] == "released on request"
    assert f"appctrl: error: session {uid} has ended: released: released on request" in ended.err
    assert gone(next(event["pid"] for event in events(ended) if event["event"] == "started"))


def test_a_session_whose_lease_ends_kills_a_command_that_heeds_no_signal(gateways: Gateways) -> None:
    server = gateways.start("--encryption=optional", "--lifetime-s=2")
    _, process = running_consumer(server, STUBBORN, "--grace-s=0.3")
    ended = finish(process)
    assert ended.code == 7
    assert events(ended)[-2]["state"] == "expired"
    assert gone(next(event["pid"] for event in events(ended) if event["event"] == "started"))


def test_a_command_may_go_on_without_its_session(gateways: Gateways) -> None:
    server = gateways.start("--encryption=optional")
    source = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); " + WAIT
    uid, process = running_consumer(server, source, "--when-session-ends=continue")
    with calling(server) as caller:
        caller.release(uid)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert next(line for line in lines if '"ended"' in line)
    assert "the command goes on without it" in next(lines)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert (ended.code, names(ended)) == (4, ["done"])


def test_a_control_server_that_is_started_again_is_no_end_of_a_session(gateways: Gateways) -> None:
    kept = f"--state-dir={gateways.directory / 'state'}"
    server = gateways.start(kept, "--encryption=optional")
    uid, process = running_consumer(server, WAIT)
    server.process.kill()
    server.process.communicate()
    assert process.stderr is not None
    assert any("its control server does not answer" in line for line in iter(process.stderr.readline, ""))
    again = gateways.start(kept, "--encryption=optional", f"--listen={server.address}")
    assert again.ready["recovered"] == 1
    assert states(again)[uid] == "connected"
    assert process.poll() is None
    with calling(again) as caller:
        caller.release(uid)
    ended = finish(process)
    assert (ended.code, names(ended)) == (7, ["ended", "error"])


def test_a_control_server_that_stays_away_is_the_end(gateways: Gateways) -> None:
    server = gateways.start("--encryption=optional")
    _, process = running_consumer(server, WAIT, "--gateway-timeout-s=2")
    server.stop()
    ended = finish(process)
    assert ended.code == 4
    assert events(ended)[-2]["state"] == "unreachable"
    assert "could not be asked for 2 s" in ended.err


# --- the reference's form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "kind"), [("mock", "AppCtrl"), ("create-appctrl", "IperfCtrl"), ("create_appctrl", "IperfCtrl")]
)
def test_the_positional_form_announces_the_ports_of_the_reference(
    gateways: Gateways, form: str, kind: str
) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    token = server.tokens["alice"].read_text().strip()
    with calling(server) as caller:
        waiting = caller.req(uid, "PROD", 5)
        process = subprocess.Popen(
            [Path(sys.executable).parent / "appctrl", form, uid, server.address, token, "PROD", "10.0.1.5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=gateways.directory,  # where server.crt is
            env={**os.environ, "XDG_CONFIG_HOME": os.devnull},
        )
        announced = list(waiting.result().prod_listeners)
        caller.release(uid)
    ended = finish(process)
    assert ended.code == 0, ended.err
    assert ended.out == f"AppCtrl: SENDING HELLO\nAppCtrl: Hello sent\nCreated {kind} instance\n"
    assert announced == [f"10.0.1.5:{port}" for port in (5074, 5075, 5076, 37000, 47000)]
    assert "can be read by every user" in ended.err
    assert token not in ended.err


@pytest.mark.parametrize("placeholder", ["-", ""])
def test_the_positional_form_takes_the_token_from_elsewhere(gateways: Gateways, placeholder: str) -> None:
    server, uid = gateways.start(), str(uuid.uuid4())
    arguments = ["mock", uid, server.address, placeholder, "CONS", f"--certificate={server.certificate}"]
    token = server.tokens["alice"]
    for more, environment in (
        ([f"--token-file={token}"], {}),
        ([], {"APPCTRL_TOKEN": token.read_text().strip()}),
    ):
        with calling(server) as caller:
            waiting = caller.req(uid, "CONS")
            ended = finish(start_program("appctrl", *arguments, *more, **environment))
            assert (ended.code, ended.err) == (0, "")
            waiting.result()
            caller.release(uid)
    refused = finish(start_program("appctrl", *arguments, "--timeout-s=5"))
    assert refused.code == 6
