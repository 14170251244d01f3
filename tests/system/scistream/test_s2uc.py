"""``s2uc`` as its users type it: processes of their own, exit codes, JSON, and what it says when it fails."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.certificates import fingerprint, write_certificate
from scistream.auth.shared_key import read_token_file
from support.gateways import (
    TIMEOUT_S,
    Application,
    ControlServerProcess,
    Finished,
    Gateways,
    ask,
    finish,
    run_program,
    start_program,
    until,
)
from support.terminal import Terminal

Applications = Callable[[str], Application]


def s2uc(*arguments: str | Path, **environment: str) -> Finished:
    return run_program("s2uc", *arguments, **environment)


# --- opening, looking, ending ----------------------------------------------------------------------------


def test_a_session_from_request_to_release_by_profiles_alone(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    opened = s2uc("request1", "aps", "alcf", f"--target={app.address}", "--lifetime_s=600", "--json", **env)
    assert opened.code == 0, opened.err
    uid = opened.json["uid"]
    assert ask(opened.json["listeners"][0], b"hi") == b"detector:hi"

    listed = s2uc("list", **env)
    (line,) = listed.out.splitlines()
    assert line.startswith(uid)
    assert all(part in line for part in ("PROD connected", "CONS connected", "13 B", "1 channel"))
    (in_json,) = s2uc("list", "--json", **env).json["sessions"]
    assert [side["role"] for side in in_json["sides"]] == ["PROD", "CONS"]

    shown = s2uc("check_status", uid, **env)
    assert shown.code == 0
    assert "ends in 0:09:" in shown.out

    renewed = s2uc("renew", uid, "--json", **env)
    assert (renewed.code, renewed.json) == (0, {"uid": uid, "renewed": ["aps", "alcf"]})

    released = s2uc("release", uid, **env)
    assert released.code == 0
    assert released.out.splitlines()[-1] == "Release completed"
    assert s2uc("list", **env).out == "no sessions\n"
    assert [one["uid"] for one in s2uc("list", "--all", "--json", **env).json["sessions"]] == [uid]
    assert s2uc("renew", uid, **env).code == 7


@pytest.mark.peer("nginx")
@pytest.mark.parametrize("kinds", [("native", "nginx"), ("nginx", "native")], ids="-".join)
def test_half_closed_streams_go_on_between_native_and_nginx(
    gateways: Gateways,
    application: Applications,
    profiles: Callable[..., dict[str, str]],
    kinds: tuple[str, str],
) -> None:
    aps, alcf = (gateways.start(f"--type={kind}") for kind in kinds)
    app = application("detector")
    env = profiles(aps=aps, alcf=alcf)
    opened = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json
    message = os.urandom(1_000_000)
    for _ in range(20):
        assert ask(opened["listeners"][0], message) == b"detector:" + message
    assert s2uc("update", opened["uid"], "--s2cs=aps", f"--target={app.address}", **env).code == 0
    assert ask(opened["listeners"][0], b"again") == b"detector:again"


def test_one_side_is_released_where_one_is_named(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    uid = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json["uid"]
    assert s2uc("release", uid, "--s2cs=aps", **env).code == 0
    sides = s2uc("status", uid, "--json", **env).json["sessions"]
    assert [side["state"] for side in sides] == ["released", "connected"]


def test_release_says_what_there_was_and_a_mistyped_uid_is_an_error(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    uid = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json["uid"]
    mistyped = s2uc("release", uid[:-1], **env)
    assert (mistyped.code, mistyped.out.split()) == (7, ["not", "there", "aps", "not", "there", "alcf"])
    assert "nothing was released" in mistyped.err
    in_json = s2uc("release", uid[:-1], "--json", **env)
    assert (in_json.code, in_json.json["not_there"]) == (7, ["aps", "alcf"])
    assert [side["state"] for side in s2uc("status", uid, "--json", **env).json["sessions"]] == [
        "connected",
        "connected",
    ]
    assert s2uc("release", uid, "--s2cs=aps", **env).code == 0
    rest = s2uc("release", uid, "--json", **env)
    assert (rest.code, rest.json) == (
        0,
        {"uid": uid, "released": ["alcf"], "ended_before": ["aps"], "not_there": [], "failed": {}},
    )


def test_release_says_what_was_released_where_another_server_is_away(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    uid = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json["uid"]
    alcf.stop(signal.SIGINT)
    released = s2uc("release", uid, "--json", **env)
    assert released.code == 4
    assert released.json["released"] == ["aps"]
    assert "cannot be reached" in released.json["failed"]["alcf"]
    again = s2uc("release", uid, **env)
    assert again.code == 4
    assert again.out.splitlines() == ["ended before  aps", "failed        alcf"]


def test_a_target_that_refuses_is_seen_in_status_list_and_watch(
    gateways: Gateways, profiles: Callable[..., dict[str, str]]
) -> None:
    env = profiles(aps=gateways.start(), alcf=gateways.start())
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = f"127.0.0.1:{closed.getsockname()[1]}"
    opened = s2uc("request", "aps", "alcf", f"--target={target}", "--json", **env).json
    host, _, port = opened["listeners"][0].rpartition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as stream, suppress(ConnectionResetError):
        assert stream.recv(1) == b""
    until(lambda: "1 in all, 1 failed" in s2uc("status", opened["uid"], **env).out)
    assert ", 1 failed" in s2uc("list", **env).out
    watching = start_program("s2uc", "watch", opened["uid"], **env)
    assert watching.stdout is not None
    assert "open 0 of 1  failed 1" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    finish(watching)


def test_a_request_beyond_the_capacity_is_refused_and_waits_where_it_is_asked_to(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start("--capacity=100"), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    ask_for = ["request", "aps", "alcf", f"--target={app.address}", "--rate=80", "--json"]
    first = s2uc(*ask_for, **env)
    assert first.code == 0, first.err
    refused = s2uc(*ask_for, **env)
    assert refused.code == 5
    waiting = start_program("s2uc", *ask_for, "--queue", **env)
    until(lambda: "queued" in s2uc("status", "--s2cs=aps", "--json", **env).out)
    assert waiting.poll() is None
    assert s2uc("release", first.json["uid"], **env).code == 0
    second = finish(waiting)
    assert second.code == 0, second.err
    assert ask(second.json["listeners"][0], b"hi") == b"detector:hi"


def test_a_queued_request_that_is_interrupted_leaves_the_queue(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start("--capacity=100"), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    ask_for = ["request", "aps", "alcf", f"--target={app.address}", "--rate=80", "--json"]
    assert s2uc(*ask_for, **env).code == 0
    waiting = start_program("s2uc", *ask_for, "--queue", **env)
    until(lambda: "queued" in s2uc("status", "--s2cs=aps", "--json", **env).out)
    waiting.send_signal(signal.SIGINT)
    assert finish(waiting).code == 130
    for name in ("aps", "alcf"):
        sides = s2uc("status", f"--s2cs={name}", "--json", **env).json["sessions"]
        assert sorted(side["state"] for side in sides) == ["connected", "released"]


# --- one side at a time ----------------------------------------------------------------------------------


def test_prod_req_and_cons_req_wait_for_the_application_controllers(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    ours, theirs = tmp_path / "ours.crt", tmp_path / "theirs.crt"

    def hello(server: ControlServerProcess, role: str, *more: str) -> None:
        said = run_program("appctrl", "hello", "by-hand", f"--role={role}", *more, *server.options())
        assert said.code == 0, said.err

    producing = start_program(
        "s2uc",
        *("prod_req", "--uid=by-hand", "--num_conn=1", f"--certificate-out={ours}", "--json"),
        *aps.options(),
    )
    hello(aps, "PROD", f"--address={app.address}")
    produced = finish(producing)
    assert produced.code == 0, produced.err
    assert "appctrl hello by-hand --role PROD --s2cs" in produced.err
    assert (produced.json["connected"], produced.json["certificate"]) == (False, str(ours))
    consuming = start_program(
        "s2uc",
        *("cons-req", "by-hand", ",".join(produced.json["listeners"])),
        *(f"--peer-certificate={ours}", f"--certificate-out={theirs}", "--json"),
        *alcf.options(),
    )
    hello(alcf, "CONS")
    consumed = finish(consuming)
    assert consumed.code == 0, consumed.err
    connected = s2uc("update", "by-hand", "--role=PROD", f"--peer_certificate={theirs}", *aps.options())
    assert connected.code == 0, connected.err
    assert ask(consumed.json["listeners"][0], b"hi") == b"detector:hi"


def test_prod_req_gives_up_when_no_application_comes(gateways: Gateways) -> None:
    aps = gateways.start()
    late = s2uc("prod-req", "--timeout-s=0.5", "--json", *aps.options())
    assert (late.code, late.out) == (7, "")
    sides = s2uc("status", "--json", *aps.options()).json["sessions"]
    assert [side["state"] for side in sides] == ["released"]


def test_inbound_request_without_a_certificate_says_what_comes_next(gateways: Gateways) -> None:
    aps = gateways.start()
    opened = s2uc("inbound-request", "--uid=by-hand", *aps.options())
    assert opened.code == 0, opened.err
    assert "BEGIN CERTIFICATE" in opened.out
    assert "s2uc outbound-request by-hand" in opened.out
    last = opened.out.splitlines()[-1]
    assert last.startswith("Listeners: ['127.0.0.1:")
    (side,) = s2uc("status", "--json", *aps.options()).json["sessions"]
    assert (side["state"], side["num_conn"], side["rate_mbps"]) == ("announced", 5, 10000)
    assert side["uid"] == "by-hand"


def test_outbound_request_says_that_it_must_know_the_other_side() -> None:
    refused = s2uc("outbound_request", "uid", "127.0.0.1:1")
    assert refused.code == 2
    assert "--peer-certificate" in refused.err
    assert "--plain" in refused.err


def test_the_reference_clients_server_certificate_is_taken_where_it_lies(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = gateways.start()
    token = read_token_file(server.tokens["alice"])
    monkeypatch.chdir(gateways.directory)  # server.crt is there
    assert s2uc("list", f"--s2cs={server.address}", S2UC_TOKEN=token).code == 0
    monkeypatch.chdir("/")
    assert s2uc("list", f"--s2cs={server.address}", S2UC_TOKEN=token).code == 6


# --- watching --------------------------------------------------------------------------------------------


def test_watch_shows_rates_as_json_lines_and_ends_with_the_session(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    opened = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json
    watching = start_program("s2uc", "watch", opened["uid"], "--interval-s=0.1", "--json", **env)
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert first["event"] == "status"
    assert [side["role"] for side in first["sides"]] == ["PROD", "CONS"]
    message = os.urandom(300_000)
    assert ask(opened["listeners"][0], message).endswith(message)
    rates, total = [], 0
    while total < len(message):
        (channel,) = json.loads(watching.stdout.readline())["sides"][1]["channels"]
        rates.append(channel["rate_to_target"])
        total = channel["bytes_to_target"]
    assert total == len(message)
    assert max(rates) > 0
    assert s2uc("release", opened["uid"], **env).code == 0
    finished = finish(watching)
    last = json.loads(finished.out.splitlines()[-1])
    assert (finished.code, last["event"], last["state"], last["exit_code"]) == (0, "ended", "released", 0)


def test_watch_ends_with_the_code_of_a_session_that_has_expired(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    arguments = ["request", "aps", "alcf", f"--target={app.address}", "--lifetime-s=2", "--json"]
    uid = s2uc(*arguments, **env).json["uid"]
    watched = s2uc("watch", uid, "--interval-s=0.1", **env)
    assert watched.code == 7
    assert "lifetime" in watched.err
    assert "PROD connected channel 0  open 0" in watched.out


def test_watch_is_ended_by_ctrl_c_and_leaves_the_session(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    opened = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json
    watching = start_program("s2uc", "watch", opened["uid"], "--json", **env)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    finished = finish(watching)
    assert (finished.code, finished.err) == (130, "")
    assert ask(opened["listeners"][0], b"hi") == b"detector:hi"


def test_watch_draws_a_table_on_a_terminal(
    gateways: Gateways, application: Applications, profiles: Callable[..., dict[str, str]]
) -> None:
    aps, alcf, app = gateways.start(), gateways.start(), application("detector")
    env = profiles(aps=aps, alcf=alcf)
    uid = s2uc("request", "aps", "alcf", f"--target={app.address}", "--json", **env).json["uid"]
    with Terminal("watch", uid, "--interval-s=0.1", COLUMNS="80", **env) as terminal:
        terminal.expect(f"session {uid}")
        for server, role in ((aps, "PROD"), (alcf, "CONS")):
            terminal.expect(f"{role} connected at {server.address}")
        terminal.expect("channel  open  in all failed")
        assert s2uc("release", uid, **env).code == 0
        terminal.expect("was released")
        assert terminal.process.wait(TIMEOUT_S) == 0


def test_watching_a_session_that_is_not_there(
    gateways: Gateways, profiles: Callable[..., dict[str, str]]
) -> None:
    env = profiles(aps=gateways.start(), alcf=gateways.start())
    missing = s2uc("watch", "never-seen", **env)
    assert missing.code == 7
    assert "never-seen" in missing.err


# --- trust -----------------------------------------------------------------------------------------------


def test_nobody_is_trusted_without_an_answer(
    gateways: Gateways, profiles: Callable[..., dict[str, str]]
) -> None:
    server, env = gateways.start(), profiles()
    shown = fingerprint(server.certificate.read_bytes())
    refused = s2uc("trust", server.address, **env)
    assert (refused.code, refused.out) == (6, "")
    assert shown in refused.err
    wrong = s2uc("trust", server.address, f"--fingerprint={'00' * 32}", **env)
    assert wrong.code == 6
    assert shown in wrong.err
    assert s2uc("trust", server.address, "--fingerprint=abc", **env).code == 3
    unknown = s2uc("list", f"--s2cs={server.address}", **env)
    assert unknown.code == 6
    assert f"s2uc trust {server.address}" in unknown.err
    assert shown in unknown.err


def test_a_server_is_trusted_once_its_fingerprint_is_confirmed(
    gateways: Gateways, profiles: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    server, env = gateways.start(), profiles()
    env["S2UC_TOKEN"] = read_token_file(server.tokens["alice"])
    shown = fingerprint(server.certificate.read_bytes())
    trusted = s2uc("trust", server.address, f"--fingerprint={shown.lower()}", "--json", **env)
    assert trusted.code == 0, trusted.err
    assert trusted.json["fingerprint"] == shown
    assert {"127.0.0.1", "localhost"} <= set(trusted.json["names"])
    assert Path(trusted.json["file"]).read_bytes().split() == server.certificate.read_bytes().split()
    listed = s2uc("list", f"--s2cs={server.address}", "--json", **env)
    assert (listed.code, listed.json) == (0, {"sessions": []})

    # another server in its place, with a certificate of its own, is refused
    server.stop()
    other, key = write_certificate(tmp_path / "other", ["127.0.0.1"])
    again = gateways.start(f"--listen={server.address}", f"--certificate={other}", f"--private-key={key}")
    assert again.address == server.address
    changed = s2uc("list", f"--s2cs={server.address}", **env)
    assert changed.code == 6
    assert shown in changed.err
    assert fingerprint(other.read_bytes()) in changed.err
    assert "s2uc trust" in changed.err
    refused = s2uc("trust", server.address, **env)
    assert refused.code == 6
    assert f"{shown} was trusted until now" in refused.err
    new = fingerprint(other.read_bytes())
    assert s2uc("trust", server.address, f"--fingerprint={new}", **env).code == 0
    assert s2uc("list", f"--s2cs={server.address}", **env).code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 6), ("\n", 6)])
def test_a_person_is_asked_on_a_terminal(
    gateways: Gateways, profiles: Callable[..., dict[str, str]], answer: str, code: int
) -> None:
    server, env = gateways.start(), profiles()
    with Terminal("trust", server.address, **env) as terminal:
        terminal.expect("[y/N]")
        assert fingerprint(server.certificate.read_bytes()) in terminal.seen
        terminal.type(answer)
        assert terminal.process.wait(TIMEOUT_S) == code
    kept = list(Path(env["XDG_DATA_HOME"]).rglob("*.crt"))
    assert bool(kept) == (code == 0)


def test_a_profiles_fingerprint_stands_for_the_certificate(gateways: Gateways, tmp_path: Path) -> None:
    server = gateways.start()
    config = tmp_path / "profiles.toml"

    def listed(text: str) -> Finished:
        config.write_text(
            f'[facilities.aps]\naddress = "{server.address}"\ntoken_file = "alice.token"\n'
            f'fingerprint = "{text}"\n'
        )
        return s2uc("--config", config, "list", "--s2cs=aps")

    assert listed(fingerprint(server.certificate.read_bytes())).code == 0
    wrong = listed("00" * 32)
    assert wrong.code == 6
    assert "somebody may be in" in wrong.err.lower()
    assert listed("00").code == 3


# --- the command line itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        *("request", "request1", "inbound-request", "inbound_request", "outbound_request", "prod_req"),
        *("prod-req", "cons_req", "update", "release", "check_status", "check-status", "status", "list"),
        *("watch", "probe", "renew", "trust"),
    ],
)
def test_every_command_has_help_and_json_in_both_spellings(command: str) -> None:
    shown = s2uc(command, "--help")
    assert shown.code == 0
    assert "--json" in shown.out
    assert "--config" in shown.out


def test_help_imports_neither_grpc_nor_rich() -> None:
    traced = run_program("s2uc", "--help", PYTHONPROFILEIMPORTTIME="1")
    modules = {line.rpartition("|")[2].strip() for line in traced.err.splitlines()}
    assert "scistream.cli.s2uc.parameters" in modules
    heavy = {"grpc", "rich", "cryptography", "google"}
    assert not {module.partition(".")[0] for module in modules} & heavy


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell: str) -> None:
    printed = s2uc("completion", shell)
    assert printed.code == 0
    assert "_S2UC_COMPLETE" in printed.out


def test_a_request_tells_a_terminal_what_it_waits_for_and_ctrl_c_undoes_it(
    gateways: Gateways, profiles: Callable[..., dict[str, str]]
) -> None:
    aps = gateways.start()
    env = profiles(aps=aps)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with Terminal("request", "aps", address, "--target=127.0.0.1:9", **env) as terminal:
            terminal.expect(f"waiting for ports at {address} …")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.process.wait(TIMEOUT_S) == 130
    sides: list[dict[str, Any]] = s2uc("status", "--s2cs=aps", "--json", **env).json["sessions"]
    assert [side["state"] for side in sides] == ["released"]
