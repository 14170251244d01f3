"""Sessions as users have them: programs, gateways and applications of their own, nothing in between."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from scistream.auth.certificates import write_certificate
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import DeadlineExceeded, SessionNotFound
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

Applications = Callable[[str], Application]


def request(
    producer: ControlServerProcess,
    consumer: ControlServerProcess,
    application: Application,
    *more: str,
    user: str = "alice",
) -> subprocess.Popen[str]:
    return start_program(
        "s2uc",
        "request",
        producer.address,
        consumer.address,
        f"--target={application.address}",
        f"--producer-certificate={producer.certificate}",
        f"--consumer-certificate={consumer.certificate}",
        f"--token-file={producer.tokens[user]}",
        "--json",
        *more,
    )


def sessions(server: ControlServerProcess, user: str = "alice") -> list[dict[str, Any]]:
    finished = run_program("s2uc", "status", "--json", *server.options(user))
    assert finished.code == 0, finished.err
    listed: list[dict[str, Any]] = finished.json["sessions"]
    return listed


def complaint(finished: Finished) -> str:
    """The one line that a program failed with."""
    lines = finished.err.splitlines()
    assert len(lines) == 1, finished.err
    return lines[0]


def test_a_session_carries_bytes_encrypted_between_the_applications_and_leaves_nothing(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    opened = finish(request(producer, consumer, app))
    assert opened.code == 0, opened.err
    session = opened.json
    assert session["encrypted"] is True
    message = os.urandom(3_000_000)
    answer = ask(session["listeners"][0], message)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(b"detector:" + message).digest()

    ours, theirs = sessions(producer)[0], sessions(consumer)[0]
    assert (ours["state"], theirs["state"]) == ("connected", "connected")
    assert (ours["role"], theirs["role"]) == ("PROD", "CONS")
    assert (ours["encrypted"], theirs["encrypted"]) == (True, True)
    assert (ours["principal"], ours["data_server"]) == ("alice", "native")
    assert theirs["targets"] == ours["listeners"]
    assert ours["targets"] == [app.address]
    for side in (ours, theirs):
        assert side["channels"][0]["bytes_to_target"] == len(message)
        assert side["channels"][0]["bytes_from_target"] == len(answer)

    released = run_program(
        "s2uc", "release", session["uid"], *producer.options(), f"--s2cs={consumer.address}"
    )
    assert released.code == 0, released.err
    assert all(map(can_be_bound, ours["listeners"] + theirs["listeners"]))
    ended = sessions(producer)[0]
    assert ended["state"] == "released"
    assert ended["channels"][0] == {**ours["channels"][0], "connections_open": 0}
    for server in (producer, consumer):
        assert server.stop() == (143, [])


@pytest.mark.skipif(not shutil.which("ss"), reason="needs ss")
def test_two_gateways_with_mptcp_use_it_between_them_only(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer, app = gateways.start("--mptcp"), gateways.start("--mptcp"), application("detector")
    session = finish(request(producer, consumer, app)).json
    wan = Endpoint.parse(sessions(producer)[0]["listeners"][0])
    lan = Endpoint.parse(session["listeners"][0])
    with socket.create_connection((lan.host, lan.port)) as sock:
        sock.settimeout(20)
        sock.sendall(b"a")
        until(lambda: _multipath(wan.port) == 2)
        sock.sendall(b"b")
        sock.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: sock.recv(100), b"")) == b"detector:ab"
    assert _multipath(app.listener.getsockname()[1]) == 0
    assert _multipath(lan.port) == 0


def _multipath(port: int) -> int:
    """Return how many ends of connections to or from `port` are MPTCP, and their peer's too."""
    filtered = ["ss", "-HMni", "state", "established", f"( sport = :{port} or dport = :{port} )"]
    return subprocess.run(filtered, capture_output=True, text=True, check=True).stdout.count("remote_key")


def test_who_does_not_hold_the_session_key_does_not_reach_the_application(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    session = finish(request(producer, consumer, app)).json
    listener = Endpoint.parse(sessions(producer)[0]["listeners"][0])
    with socket.create_connection((listener.host, listener.port), 10) as stranger:
        stranger.sendall(b"let me in\r\n" * 100)
        stranger.settimeout(20)
        try:
            while stranger.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert ask(session["listeners"][0], b"me") == b"detector:me"
    assert app.received == [b"me"]


def test_two_users_at_once_reach_their_own_applications_and_do_not_see_each_other(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer = gateways.start(), gateways.start()
    apps = {user: application(user) for user in ("alice", "bob")}
    waiting = {user: request(producer, consumer, app, user=user) for user, app in apps.items()}
    opened = {user: finish(process).json for user, process in waiting.items()}
    for user in apps:
        assert ask(opened[user]["listeners"][0], b"hi") == user.encode() + b":hi"
        assert [one["uid"] for one in sessions(producer, user)] == [opened[user]["uid"]]
    stolen = run_program("s2uc", "status", opened["alice"]["uid"], *producer.options("bob"))
    assert stolen.code == 7
    assert "alice" not in stolen.out + stolen.err.replace(opened["alice"]["uid"], "")
    assert run_program("s2uc", "release", opened["alice"]["uid"], *producer.options("bob")).code == 7
    assert ask(opened["alice"]["listeners"][0], b"still") == b"alice:still"


def test_simultaneous_requests_are_not_cross_wired(gateways: Gateways, application: Applications) -> None:
    producer, consumer = gateways.start(), gateways.start()
    apps = [application(f"app-{number}") for number in range(5)]
    opened = [finish(process).json for process in [request(producer, consumer, app) for app in apps]]
    answers = [ask(one["listeners"][0], b"who?") for one in opened]
    assert answers == [f"app-{number}:who?".encode() for number in range(5)]
    assert len({one["uid"] for one in opened}) == 5


def test_a_session_opened_one_side_at_a_time_is_encrypted_too(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    ours, theirs = tmp_path / "ours.crt", tmp_path / "theirs.crt"
    inbound = run_program(
        "s2uc",
        "inbound_request",
        f"--target={app.address}",
        f"--certificate_out={ours}",
        "--json",
        *producer.options(),
    )
    assert inbound.code == 0, inbound.err
    outbound = run_program(
        "s2uc",
        "outbound-request",
        inbound.json["uid"],
        ",".join(inbound.json["listeners"]),
        f"--peer-certificate={ours}",
        f"--certificate-out={theirs}",
        "--json",
        *consumer.options(),
    )
    assert outbound.code == 0, outbound.err
    connected = run_program(
        "s2uc",
        "update",
        inbound.json["uid"],
        "--role=PROD",
        f"--peer-certificate={theirs}",
        *producer.options(),
    )
    assert connected.code == 0, connected.err
    assert ask(outbound.json["listeners"][0], b"hi") == b"detector:hi"
    assert sessions(producer)[0]["encrypted"]


def test_profiles_in_a_file_say_where_the_facilities_are(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    config = tmp_path / "scistream" / "config.toml"
    config.parent.mkdir()
    config.write_text(
        "".join(
            f'[facilities.{name}]\naddress = "{server.address}"\n'
            'certificate = "../server.crt"\ntoken_file = "../alice.token"\n'
            for name, server in (("aps", producer), ("alcf", consumer))
        )
    )
    arguments = ["request", "aps", "alcf", f"--target={app.address}", "--json"]
    opened = run_program("s2uc", "--config", config, *arguments)
    assert opened.code == 0, opened.err
    assert ask(opened.json["listeners"][0], b"hi") == b"detector:hi"

    own = {"XDG_CONFIG_HOME": str(tmp_path)}
    again = run_program("s2uc", *arguments, **own)
    assert again.code == 0, again.err
    both = {"aps": producer.address, "alcf": consumer.address}
    shown = run_program("s2uc", "status", again.json["uid"], "--json", **own)
    assert [one["server"] for one in shown.json["sessions"]] == [*both.values()]
    released = run_program("s2uc", "release", again.json["uid"], "--json", **own)
    assert released.json["released"] == [*both]
    for server in (producer, consumer):
        states = {one["uid"]: one["state"] for one in sessions(server)}
        assert states == {opened.json["uid"]: "connected", again.json["uid"]: "released"}

    # what one facility says is shown even if another one cannot be asked
    assert consumer.stop() == (143, [])
    partly = run_program("s2uc", "status", "--json", **own)
    assert partly.code == 4
    assert consumer.address in complaint(partly)
    assert {one["server"] for one in partly.json["sessions"]} == {producer.address}


def test_a_session_is_shown_by_the_facilities_that_have_it(gateways: Gateways, tmp_path: Path) -> None:
    first, second = gateways.start("--encryption=optional"), gateways.start()
    opened = run_program("s2uc", "inbound-request", "--target=127.0.0.1:9", "--plain", *first.options())
    assert opened.code == 0, opened.err
    uid = sessions(first)[0]["uid"]
    both = [*first.options(), f"--s2cs={second.address}"]
    shown = run_program("s2uc", "status", uid, "--json", *both)
    assert shown.code == 0, shown.err
    assert [one["server"] for one in shown.json["sessions"]] == [first.address]
    missing = run_program("s2uc", "status", "never-seen", *both)
    assert missing.code == 7
    assert "never-seen" in complaint(missing)


def data_server_of(server: ControlServerProcess) -> psutil.Process:
    """The native data server's supervisor; its children are the workers."""
    (supervisor,) = psutil.Process(server.process.pid).children()
    return supervisor


def worker_that_carries(server: ControlServerProcess, app: Application) -> psutil.Process:
    """The worker with a connection to the application."""
    port = Endpoint.parse(app.address).port
    (carrier,) = (
        worker
        for worker in data_server_of(server).children()
        if any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp"))
    )
    return carrier


@pytest.mark.parametrize("which", ["supervisor", "worker"])
def test_a_session_whose_data_server_is_killed_goes_on_with_another_one_and_says_so(
    gateways: Gateways, application: Applications, which: str
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    opened = finish(request(producer, consumer, app)).json
    uid = opened["uid"]
    before = sessions(producer)[0]
    assert (before["state"], before["restarts"], before["notice"]) == ("connected", 0, "")
    listener = Endpoint.parse(opened["listeners"][0])
    with socket.create_connection((listener.host, listener.port), 20) as stream:
        stream.sendall(b"in mid-stream")
        until(lambda: sessions(producer)[0]["channels"][0]["bytes_to_target"])
        carrier = worker_that_carries(producer, app)
        victim = data_server_of(producer) if which == "supervisor" else carrier
        victim.kill()
        # whoever used the stream learns that it has failed; nothing can seem to have ended well
        with pytest.raises(ConnectionResetError):
            stream.recv(1)

    def restarted() -> dict[str, Any] | None:
        now = sessions(producer)[0]
        return now if now["restarts"] and now["state"] == "connected" else None

    now = until(restarted)
    assert (now["uid"], now["restarts"]) == (uid, 1)
    assert which in now["notice"]
    assert f"(pid {victim.pid}) was killed by SIGKILL" in now["notice"]
    assert now["listeners"] == before["listeners"]
    assert ask(opened["listeners"][0], b"again") == b"detector:again"
    (channel,) = sessions(producer)[0]["channels"]
    assert (channel["connections_open"], channel["connections_total"]) == (0, 2)
    assert sessions(consumer)[0]["restarts"] == 0

    assert f"(pid {victim.pid}) was killed by SIGKILL" in producer.log.read_text()
    for_people = run_program("s2uc", "status", uid, *producer.options())
    assert for_people.code == 0
    assert "data server restarted 1 time:" in " ".join(for_people.out.split())


def test_a_session_whose_data_server_dies_again_and_again_ends_as_failed_and_says_so(
    gateways: Gateways, application: Applications
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    uid = finish(request(producer, consumer, app)).json["uid"]
    for restarts in range(1, 7):
        data_server_of(producer).kill()
        until(lambda restarts=restarts: _is_over(sessions(producer)[0], restarts))
    shown = run_program("s2uc", "status", uid, "--json", *producer.options())
    assert shown.code == 0, shown.err
    (failed,) = shown.json["sessions"]
    assert (failed["uid"], failed["state"], failed["restarts"]) == (uid, "failed", 5)
    assert failed["reason"].startswith("the data server ended: ")
    assert "supervisor" in failed["reason"]
    assert "SIGKILL" in failed["reason"]
    assert "after 5 restarts in a row" in failed["reason"]
    assert f"session {uid} of alice: failed (the data server ended: " in producer.log.read_text()
    for_people = run_program("s2uc", "status", uid, *producer.options())
    assert for_people.code == 0
    assert "the data server ended" in " ".join(for_people.out.split())
    assert all(map(can_be_bound, failed["listeners"]))
    # the next session is served as if nothing had been
    again = finish(request(producer, consumer, app))
    assert again.code == 0, again.err
    assert ask(again.json["listeners"][0], b"new") == b"detector:new"


def _is_over(session: dict[str, Any], restarts: int) -> bool:
    """Whether the session has taken the latest death of its data server in."""
    return session["state"] == "failed" or (session["state"], session["restarts"]) == ("connected", restarts)


def test_another_certificate_than_the_servers_is_one_line_that_says_what_to_do(
    gateways: Gateways, tmp_path: Path
) -> None:
    server = gateways.start()
    other, _ = write_certificate(tmp_path / "other", ["127.0.0.1"])
    wrong = run_program("s2uc", "status", f"--s2cs={server.address}", f"--certificate={other}")
    assert wrong.code == 6
    assert "another certificate than the one given" in complaint(wrong)
    none = run_program("s2uc", "status", f"--s2cs={server.address}")
    assert none.code == 6
    assert "--certificate FILE" in complaint(none)
    assert "given;" not in none.err


def test_the_clear_side_of_a_gateway_is_where_the_operator_wants_it(
    gateways: Gateways, application: Applications
) -> None:
    producer = gateways.start("--bind=127.0.0.2")
    consumer, app = gateways.start("--bind=127.0.0.2", "--bind-lan=127.0.0.3"), application("detector")
    opened = finish(request(producer, consumer, app)).json
    (listener,) = opened["listeners"]
    assert listener.startswith("127.0.0.3:")
    assert sessions(producer)[0]["listeners"][0].startswith("127.0.0.2:")
    assert ask(listener, b"hi") == b"detector:hi"
    assert can_be_bound(listener.replace("127.0.0.3", "127.0.0.2"))
    assert consumer.ready["advertise_lan"] == "127.0.0.3"


def test_an_application_that_says_hello_before_the_request_waits_for_it(
    gateways: Gateways, application: Applications
) -> None:
    server, app = gateways.start(), application("detector")
    waiting = start_program(
        "appctrl",
        "hello",
        "early-bird",
        "--role=PROD",
        f"--address={app.address}",
        "--json",
        *server.options(),
    )

    async def request_later() -> Any:
        async with server.facility().connect() as client:
            return await client.request("early-bird", Role.PRODUCER, timeout_s=20)

    grant = asyncio.run(request_later())
    registered = finish(waiting)
    assert registered.code == 0, registered.err
    assert registered.json["listeners"] == list(map(str, grant.listeners))
    assert list(map(str, grant.destinations)) == [app.address]


def test_a_lease_without_hello_runs_out_and_everything_is_free(gateways: Gateways) -> None:
    server = gateways.start("--hello-timeout-s=0.3")

    async def request_without_hello() -> None:
        async with server.facility().connect() as client:
            await client.request("lonely", Role.PRODUCER, timeout_s=20)

    with pytest.raises(DeadlineExceeded, match="no hello came"):
        asyncio.run(request_without_hello())
    expired = sessions(server)[0]
    assert expired["state"] == "expired"
    assert until(lambda: all(map(can_be_bound, expired["listeners"])))


def test_a_request_that_is_interrupted_releases_both_sides(
    gateways: Gateways, application: Applications
) -> None:
    producer, app = gateways.start(), application("detector")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # a consumer's gateway that takes the connection and says nothing
        process = start_program(
            "s2uc",
            "request",
            producer.address,
            f"127.0.0.1:{silent.getsockname()[1]}",
            f"--target={app.address}",
            f"--producer-certificate={producer.certificate}",
            f"--consumer-certificate={producer.certificate}",
            f"--token-file={producer.tokens['alice']}",
        )
        until(lambda: any(one["state"] == "announced" for one in sessions(producer)))
        process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    assert until(lambda: all(one["state"] == "released" for one in sessions(producer)))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_control_server_with_its_sessions_and_processes(
    gateways: Gateways, application: Applications, signum: int, code: int
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    session = finish(request(producer, consumer, app)).json
    listeners = sessions(producer)[0]["listeners"] + session["listeners"]
    endpoint = Endpoint.parse(session["listeners"][0])
    with socket.create_connection((endpoint.host, endpoint.port), 10) as stream:
        stream.sendall(b"in mid-stream")
        for server in (producer, consumer):
            assert server.stop(signum) == (code, [])
    assert all(map(can_be_bound, [*listeners, producer.address, consumer.address]))


def test_a_second_control_server_on_the_same_port_is_refused(gateways: Gateways) -> None:
    first = gateways.start()
    second = run_program("s2cs", *gateways.arguments(f"--listen={first.address}"))
    assert second.code == 5
    assert first.address in second.err.splitlines()[-1]
    event = json.loads(second.out)
    assert (event["event"], event["exit_code"]) == ("error", 5)
    assert sessions(first) == []


def test_a_wrong_token_is_refused_and_leaves_nothing(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    producer, consumer, app = gateways.start(), gateways.start(), application("detector")
    wrong = tmp_path / "wrong.token"
    wrong.touch(mode=0o600)
    wrong.write_text("not-a-token\n")
    refused = finish(request(producer, consumer, app, f"--consumer-token-file={wrong}"))
    assert refused.code == 6
    assert consumer.address in complaint(refused)
    assert "not-a-token" not in refused.err
    assert all(one["state"] in {"released", "failed"} for one in sessions(producer))
    assert sessions(consumer) == []


def test_a_token_that_others_can_read_is_not_used(gateways: Gateways) -> None:
    server = gateways.start()
    gateways.tokens["alice"].chmod(0o644)
    refused = run_program("s2uc", "status", *server.options())
    assert refused.code == 3
    assert "chmod 600" in complaint(refused)


def test_a_plain_session_is_refused_by_default_and_served_where_it_is_allowed(
    gateways: Gateways, application: Applications
) -> None:
    strict, lenient, app = gateways.start(), gateways.start("--encryption=optional"), application("app")
    arguments = ["inbound-request", f"--target={app.address}", "--plain", "--json"]
    refused = run_program("s2uc", *arguments, *strict.options())
    assert refused.code == 7
    assert "--encryption optional" in complaint(refused)
    assert [one["state"] for one in sessions(strict)] == ["released"]
    served = run_program("s2uc", *arguments, *lenient.options())
    assert served.code == 0, served.err
    assert ask(served.json["listeners"][0], b"plain") == b"app:plain"
    assert sessions(lenient)[0]["encrypted"] is False


def test_secrets_are_neither_in_argv_nor_in_the_log(gateways: Gateways, application: Applications) -> None:
    producer, consumer, app = gateways.start("-vv"), gateways.start("-vv"), application("detector")
    secret = gateways.tokens["alice"].read_text().strip()
    opened = finish(request(producer, consumer, app))
    assert opened.code == 0
    for server in (producer, consumer):
        family = psutil.Process(server.process.pid)
        for process in (family, *family.children(recursive=True)):
            assert secret not in " ".join(process.cmdline())
            assert "PRIVATE KEY" not in " ".join(process.cmdline())
        log = server.log.read_text()
        assert opened.json["uid"] in log
        assert secret not in log
        assert "PRIVATE KEY" not in log


def test_a_token_in_the_environment_is_used(gateways: Gateways) -> None:
    server = gateways.start()
    listed = run_program(
        "s2uc",
        "status",
        "--json",
        f"--s2cs={server.address}",
        f"--certificate={server.certificate}",
        S2UC_TOKEN=gateways.tokens["alice"].read_text().strip(),
    )
    assert (listed.code, listed.json) == (0, {"sessions": []})


def test_a_session_that_nobody_asked_for_is_not_found(gateways: Gateways) -> None:
    server = gateways.start()
    missing = run_program("s2uc", "status", "never-seen", *server.options())
    assert missing.code == 7
    assert "never-seen" in complaint(missing)

    async def update() -> None:
        async with server.facility().connect() as client:
            await client.update("never-seen", Role.PRODUCER)

    with pytest.raises(SessionNotFound):
        asyncio.run(update())
