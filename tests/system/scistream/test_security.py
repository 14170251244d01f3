"""What docs/security.md says of whole programs: policy and audit, credentials, secrets, TLS versions."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from support.gateways import (
    Application,
    ControlServerProcess,
    Gateways,
    ask,
    finish,
    run_program,
    start_program,
    until,
)
from support.module_gateways import calling

POLICY = """\
[[rules]]
name = "lab"
identities = ["alice"]
targets = ["127.0.0.0/8:*"]

[[administrators]]
identities = ["bob"]
"""

Applications = Callable[[str], Application]


def audit_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- two users ---------------------------------------------------------------------------------------------

COMMANDS: dict[str, list[str]] = {
    "status": ["s2uc", "status"],
    "watch": ["s2uc", "watch"],
    "renew": ["s2uc", "renew"],
    "update": ["s2uc", "update", "--target=127.0.0.1:9", "--plain"],
    "probe": ["s2uc", "probe", "--seconds=1"],
    "release": ["s2uc", "release"],
    "appctrl hello": ["appctrl", "hello", "--role=PROD", "--address=127.0.0.1:9", "--timeout-s=1"],
}


@pytest.mark.attack("another user's session, by any command")
def test_another_users_session_is_to_every_command_as_one_that_is_not_there(
    gateways: Gateways, application: Applications
) -> None:
    server, app = gateways.start("--encryption=none", "--no-state"), application("app")
    opened = run_program(
        *("s2uc", "inbound-request", "--uid=hers", f"--target={app.address}", "--plain", "--json"),
        *server.options("alice"),
    )
    assert opened.code == 0, opened.err
    bobs = server.options("bob")
    for what, (program, command, *options) in COMMANDS.items():
        hers, nobodys = (run_program(program, command, uid, *options, *bobs) for uid in ("hers", "nobd"))
        assert hers.code == nobodys.code != 0, (what, hers, nobodys)
        said = [
            re.sub(r"\d+(\.\d+)? ?m?s", "", (one.out + one.err).replace(uid, "UID"))
            for one, uid in ((hers, "hers"), (nobodys, "nobd"))
        ]
        assert said[0] == said[1], what
        assert "alice" not in said[0], what
    listed = run_program("s2uc", "list", "--all", *bobs)
    assert (listed.code, listed.out) == (0, "no sessions\n")
    assert ask(opened.json["listeners"][0], b"x") == b"app:x"


# --- policy and audit ------------------------------------------------------------------------------------


def test_sighup_reads_the_policy_again_and_opens_the_audit_again(gateways: Gateways, tmp_path: Path) -> None:
    policy, audit = tmp_path / "policy.toml", tmp_path / "audit.jsonl"
    policy.write_text(POLICY)
    server = gateways.start(f"--policy={policy}", f"--audit={audit}")
    request = ["s2uc", "inbound-request", "--target=127.0.0.1:9", "--rate=0", "--num-conn=1"]
    assert run_program(*request, *server.options()).code == 0
    refused = run_program(*request, *server.options("bob"))
    assert refused.code == 6
    assert "no rule by which bob may open sessions as PROD" in refused.err

    policy.write_text(POLICY.replace('identities = ["alice"]', "anyone = true").replace("max", ""))
    audit.rename(tmp_path / "audit.old")
    server.process.send_signal(signal.SIGHUP)
    until(audit.exists)
    until(lambda: "was read again" in server.log.read_text())
    assert run_program(*request, *server.options("bob")).code == 0
    assert {line["who"] for line in audit_lines(audit)} == {"bob"}

    policy.write_text(POLICY + "\n[[rules]]\nanyone = 1\n")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: "line 10: anyone has to be true or false" in server.log.read_text())
    assert run_program(*request, *server.options("bob")).code == 0
    shown = run_program("s2uc", "list", "--everybody", "--json", *server.options("bob"))
    assert shown.code == 0, shown.err
    assert "the one before goes on" in shown.err
    owners = [side["principal"] for one in shown.json["sessions"] for side in one["sides"]]
    assert sorted(owners) == ["alice", "bob", "bob"]
    (hers,) = (one for one in shown.json["sessions"] if one["sides"][0]["principal"] == "alice")
    for user, code in (("alice", 6), ("bob", 0)):
        released = run_program("s2uc", "release", hers["uid"], "--of=alice", *server.options(user))
        assert released.code == code, released.err
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600


def test_with_policies_on_both_sides_what_is_allowed_streams_and_what_is_not_leaves_nothing(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    policy, app = tmp_path / "policy.toml", application("app")
    port = app.address.rpartition(":")[2]
    policy.write_text(
        f'[[rules]]\nidentities = ["alice"]\nroles = ["PROD"]\ntargets = ["127.0.0.0/8:{port}"]\n'
        '[[rules]]\nidentities = ["alice"]\nroles = ["CONS"]\ntargets = ["127.0.0.1/32:*"]\n'
    )
    producer, consumer = (gateways.start("--no-state", f"--policy={policy}") for _ in range(2))
    reach = [
        f"--producer-certificate={producer.certificate}",
        f"--consumer-certificate={consumer.certificate}",
        f"--token-file={producer.tokens['alice']}",
    ]
    request = ["s2uc", "request", producer.address, consumer.address, *reach, "--json"]
    opened = run_program(*request, f"--target=localhost:{port}")
    assert opened.code == 0, opened.err
    assert ask(opened.json["listeners"][0], b"x") == b"app:x"
    refused = run_program(*request, "--uid=refused", "--target=127.0.0.1:22")
    assert refused.code == 6, refused.err
    assert "127.0.0.1:22 may not be connected to: rule 'rule 1'" in refused.err
    for server in (producer, consumer):
        shown = run_program("s2uc", "list", "--json", *server.options())
        assert [one["uid"] for one in shown.json["sessions"]] == [opened.json["uid"]]


def test_without_policy_and_audit_sighup_ends_it_as_any_program(gateways: Gateways) -> None:
    server = gateways.start("--no-state")
    server.process.send_signal(signal.SIGHUP)
    assert server.process.wait(20) == -signal.SIGHUP
    assert server.process.stdout is not None
    server.process.stdout.close()
    until(lambda: not [one for one in psutil.process_iter() if one.ppid() == server.process.pid])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, "administrators  1"),
        (["--as=alice", "--role=PROD", "--target=127.0.0.1:5000"], 0, "allowed: rule 'lab'"),
        (["--as=alice", "--target=10.0.0.1:22"], 6, "REFUSED: rule 'lab' of this gateway's policy has not"),
        (["--as=eve"], 6, "REFUSED: this gateway's policy has no rule"),
        (["--as=eve", "--identity=alice"], 0, "PROD  allowed"),
        (["--as=bob"], 6, "bob, an administrator"),
        (["--target=10.0.0.1:22"], 2, "--as"),
        (["--as=alice", "--target=host:22"], 3, "'host' is no IP address"),
    ],
)
def test_check_policy_explains(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    finished = run_program("s2cs", "check-policy", policy, *arguments)
    assert finished.code == code, finished.err
    assert said in finished.out + finished.err


def test_check_policy_names_the_line_and_has_json(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    finished = run_program("s2cs", "check-policy", policy, "--as=alice", "--role=CONS", "--json")
    assert finished.json["allowed"] is True
    assert [one["role"] for one in finished.json["decisions"]] == ["CONS"]
    policy.write_text(POLICY + "[[rules]]\nwho = 1\n")
    finished = run_program("s2cs", "check-policy", policy)
    assert finished.code == 3
    assert "line 9: who is not known" in finished.err


# --- the application's credential ------------------------------------------------------------------------


def waits(process: subprocess.Popen[str]) -> str:
    """Return the line that says what is to be typed for the application."""
    assert process.stderr is not None
    return next(line for line in process.stderr if " waits at " in line)


def test_appctrl_finds_the_sessions_credential_and_needs_no_token(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    server, app = gateways.start("--encryption=none"), application("app")
    home = {"XDG_STATE_HOME": str(tmp_path / "home")}
    user = start_program(
        "s2uc", "prod-req", "--uid=one", "--num-conn=1", "--plain", "--json", *server.options(), **home
    )
    line = waits(user)
    assert "token" not in line.partition("appctrl")[2]
    credentials = tmp_path / "home" / "scistream" / "credentials"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o700
    assert stat.S_IMODE((credentials / "one-PROD").stat().st_mode) == 0o600
    reach = [f"--s2cs={server.address}", f"--certificate={server.certificate}"]
    hello = run_program(
        "appctrl", "hello", "one", "--role=PROD", f"--address={app.address}", *reach, "--json", **home
    )
    assert hello.code == 0, hello.err
    opened = finish(user)
    assert opened.code == 0, opened.err
    assert ask(opened.json["listeners"][0], b"x") == b"app:x"


def test_appctrl_runs_a_command_with_a_credential_from_a_file_and_the_command_does_not_get_it(
    gateways: Gateways, tmp_path: Path
) -> None:
    server = gateways.start("--encryption=none")
    file = tmp_path / "session.credential"
    user = start_program(
        *("s2uc", "prod-req", "--uid=one", "--num-conn=1", "--plain", f"--credential-out={file}"),
        *server.options(),
    )
    assert f"--token-file {file}" in waits(user)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    source = (
        "import os, socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
        "print(sorted(os.environ), sys.argv, flush=True); s.accept()"
    )
    reach = [f"--s2cs={server.address}", f"--certificate={server.certificate}"]
    run = start_program(
        *("appctrl", "run", "one", "--role=PROD", f"--port={port}", *reach, "--json", "--"),
        *(sys.executable, "-c", source, str(port)),
        APPCTRL_TOKEN=file.read_text().strip(),
    )
    opened = finish(user)
    assert opened.code == 0, opened.err
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        assert file.read_text().strip() not in " ".join(process.cmdline())
    listener = opened.out.splitlines()[-1].split("'")[1]
    with socket.create_connection(listener.rsplit(":", 1), 20):
        ended = finish(run)
    assert ended.code == 0, ended.err
    assert "APPCTRL_TOKEN" not in ended.out
    assert file.read_text().strip() not in ended.out + ended.err
    # it has released its session, with the same credential
    shown = run_program("s2uc", "status", "one", "--json", *server.options())
    assert shown.json["sessions"][0]["state"] == "released"


# --- no secret anywhere ----------------------------------------------------------------------------------


@pytest.mark.attack("secrets in the audit, the log, the journal or arguments", result="none found")
def test_no_secret_of_a_whole_run_is_in_audit_log_journal_or_arguments(
    gateways: Gateways, application: Applications, tmp_path: Path
) -> None:
    app = application("app")
    home = {"XDG_STATE_HOME": str(tmp_path / "home")}
    states = [tmp_path / f"state-{number}" for number in range(2)]
    audits = [tmp_path / f"audit-{number}" for number in range(2)]
    producer, consumer = (
        gateways.start("-vv", f"--state-dir={state}", f"--audit={audit}")
        for state, audit in zip(states, audits, strict=True)
    )
    secrets = {name: path.read_text().strip() for name, path in producer.tokens.items()}
    certificate = producer.certificate  # both have the same
    request = run_program(
        *("s2uc", "request", producer.address, consumer.address, f"--target={app.address}", "--json", "-v"),
        *(f"--producer-certificate={certificate}", f"--consumer-certificate={certificate}"),
        f"--token-file={producer.tokens['alice']}",
    )
    assert request.code == 0, request.err
    assert ask(request.json["listeners"][0], b"x") == b"app:x"
    user = start_program("s2uc", "prod-req", "--uid=one", "--num-conn=1", *producer.options(), **home)
    waits(user)
    secrets["credential"] = (tmp_path / "home/scistream/credentials/one-PROD").read_text().strip()
    keys = [path.read_text() for state in states for path in (state / "keys").iterdir()]
    assert len(keys) == 3
    secrets |= {f"key {number}": key.splitlines()[1] for number, key in enumerate(keys)}
    family = [psutil.Process(server.process.pid) for server in (producer, consumer)]
    arguments = [one.cmdline() for parent in family for one in (parent, *parent.children(recursive=True))]
    wrong = run_program(
        *("s2uc", "status", f"--s2cs={producer.address}", f"--certificate={producer.certificate}"),
        S2UC_TOKEN="scistream_app.forged-and-wrong",
    )
    assert wrong.code == 6
    secrets["a wrong one"] = "forged-and-wrong"
    user.send_signal(signal.SIGINT)
    finish(user)
    outputs = [request.out, request.err, wrong.out, wrong.err, str(arguments)]
    written = [audits[0], audits[1], producer.log, consumer.log]
    written += [
        path for state in states for path in state.rglob("*") if path.is_file() and path.parent.name != "keys"
    ]
    for server in (producer, consumer):
        server.stop(signal.SIGINT)
    places = {str(path): path.read_bytes().decode("latin-1") for path in written if path.exists()}
    places |= {f"output {number}": text for number, text in enumerate(outputs)}
    assert all(len(audit_lines(audit)) >= 2 for audit in audits)
    found = [(place, name) for place, text in places.items() for name, one in secrets.items() if one in text]
    assert found == []
    # with the sessions their keys are gone
    assert [path for state in states for path in (state / "keys").iterdir()] == []


# --- TLS of the control port -----------------------------------------------------------------------------


def s_client(server: ControlServerProcess, *options: str) -> tuple[int, str]:
    finished = subprocess.run(
        ["openssl", "s_client", "-connect", server.address, "-alpn", "h2", "-brief", *options],
        input="",
        capture_output=True,
        text=True,
        errors="replace",  # what is said after the handshake is HTTP/2
        timeout=20,
        env={**os.environ, "OPENSSL_CONF": os.devnull},
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


@pytest.mark.peer("openssl")
@pytest.mark.attack("an old TLS version at the control port")
def test_the_control_port_speaks_tls_1_2_and_1_3_and_nothing_older(gateways: Gateways) -> None:
    server = gateways.start()
    for old in ("-tls1", "-tls1_1"):
        # its own library would refuse to speak so at its usual level
        code, said = s_client(server, old, "-cipher", "ALL:@SECLEVEL=0")
        assert code != 0, said
        # gRPC hangs up without saying why
        assert "unexpected eof" in said or "protocol version" in said, said
    code, said = s_client(server, "-tls1_2")
    assert code == 0, said
    assert "TLSv1.2" in said
    code, said = s_client(server)
    assert code == 0, said
    assert "TLSv1.3" in said


@pytest.mark.attack("weak ciphers at the control port")
def test_with_tls_1_2_only_ciphers_with_forward_secrecy_and_authentication_are_taken(
    gateways: Gateways,
) -> None:
    server = gateways.start()
    host, port = server.address.rsplit(":", 1)
    for ciphers, taken in (
        ("ECDHE+AESGCM", True),
        ("AES256-SHA256:AES128-SHA", False),
        ("aNULL:eNULL", False),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(server.certificate)
        context.set_alpn_protocols(["h2"])
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        try:
            with (
                socket.create_connection((host, int(port)), 20) as raw,
                context.wrap_socket(raw, server_hostname=host) as secure,
            ):
                assert secure.version() == "TLSv1.2"
                done = True
        except (ssl.SSLError, ConnectionError):
            done = False
        assert done is taken, ciphers


@pytest.mark.attack("a message that is too large")
def test_a_message_that_is_too_large_is_refused_and_the_server_goes_on(gateways: Gateways) -> None:
    server = gateways.start()
    with calling(server) as alice:
        with pytest.raises(grpc.RpcError) as refused:
            alice.req("x" * (1 << 20)).result()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert alice.all_sessions() == []
