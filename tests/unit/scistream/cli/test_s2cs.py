"""s2cs: what it says when something is missing, and the files that it makes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from scistream.auth.shared_key import read_token_file
from scistream.cli.s2cs import s2cs
from scistream.cli.s2cs_settings import default_state_dir
from scistream.dataserver.registry import installed
from support.programs import Run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 3
    assert err.count("\n") == 1
    return err


def test_without_authentication_it_says_the_commands_to_type(run: Run) -> None:
    err = complaint(run(s2cs, "start"))
    assert "s2cs token" in err
    assert "--auth shared-key" in err


def test_without_certificate_it_says_the_command_to_type(run: Run) -> None:
    assert "s2cs cert --host NAME" in complaint(run(s2cs, "start", "--auth=shared-key"))


def test_the_documented_command_names_all_that_is_missing_at_once(run: Run) -> None:
    err = complaint(run(s2cs, "start", "--port=5011", "--listener-ip=203.0.113.9", "--type=x"))
    for part in (
        "4 things are to be mended: (1) who may use this gateway is not said (--auth)",
        "--certificate server.crt and --private-key server.key: not there",
        "--listener-ip 203.0.113.9 is no address of this machine",
        "data server 'x' is not available",
    ):
        assert part in err


def test_an_unknown_authenticator_hides_nothing_else(run: Run) -> None:
    err = complaint(run(s2cs, "start", "--auth=bogus"))
    assert "--auth bogus: authenticator 'bogus' is not installed; there are: globus, mtls, none" in err
    assert "s2cs cert --host NAME" in err
    assert "--advertise 0.0.0.0" not in err


def test_settings_of_the_native_data_server_are_refused_for_others(run: Run) -> None:
    _, _, err = run(s2cs, "start", "--auth=none", "--type=haproxy", "--dscp=8", "--mptcp")
    assert "--dscp, --mptcp: only the native data server can do that, not haproxy" in err


def test_settings_of_containers_are_refused_for_others(run: Run) -> None:
    _, _, err = run(s2cs, "start", "--auth=none", "--type=Haproxy", "--container-image=haproxy:3")
    assert "--container-image: that is for data servers in containers (--type HaproxyContainer" in err
    assert "not for haproxy" in err


def test_help_and_reference_name_what_is_installed(run: Run) -> None:
    shown = " ".join(run(s2cs, "start", "--help")[1].split())
    assert "[installed: globus, mtls, none, oidc, shared-key]" in shown
    assert f"[installed: {', '.join(installed())}]" in shown


def prepare(run: Run) -> None:
    assert run(s2cs, "cert", "--host=127.0.0.1")[0] == 0
    assert run(s2cs, "token", "alice", "--auth-file=tokens.toml", "--out=alice.token")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--auth=shared-key", "--listen=127.0.0.1:0"], "needs the file with the tokens' hashes"),
        (["--auth=none", "--listen=0.0.0.0:0", "--advertise=gw"], "--insecure"),
        (["--auth=globos", "--listen=127.0.0.1:0"], "not installed; there are"),
        (["--auth=none", "--listen=127.0.0.1:0", "--advertise=::"], "--advertise :: is no address"),
        (["--auth=none", "--listen=127.0.0.1:0", "--bind-lan=no.invalid"], "--bind-lan no.invalid cannot"),
        (["--auth=shared-key", "--auth-file=tokens.toml", "--listen=nowhere"], "names no port"),
        (
            ["--auth=shared-key", "--auth-file=tokens.toml", "--listen=127.0.0.1:0", "--port-range=9-1"],
            "port range",
        ),
        (
            ["--auth=shared-key", "--auth-file=tokens.toml", "--listen=127.0.0.1:0", "--data-server=x"],
            "native",
        ),
        (
            [
                "--auth=shared-key",
                "--auth-file=tokens.toml",
                "--listen=127.0.0.1:0",
                "--certificate=tokens.toml",
            ],
            "no PEM certificate",
        ),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(run: Run, arguments: list[str], expected: str) -> None:
    prepare(run)
    code, _, err = run(s2cs, "start", *arguments)
    assert code == 3
    assert expected in err.splitlines()[-1]


def test_a_key_that_others_can_read_or_of_another_certificate_is_refused(run: Run) -> None:
    prepare(run)
    arguments = ["start", "--auth=none", "--listen=127.0.0.1:0"]
    Path("server.key").chmod(0o644)
    assert "chmod 600" in run(s2cs, *arguments)[2]
    assert run(s2cs, "cert", "--host=127.0.0.1", "--out=other")[0] == 0
    assert "not the key of" in run(s2cs, *arguments, "--private-key=other/server.key")[2]


def test_errors_are_events_too_with_json(run: Run) -> None:
    code, out, _ = run(s2cs, "start", "--json")
    assert json.loads(out)["event"] == "error"
    assert json.loads(out)["exit_code"] == code == 3


def test_cert_makes_files_and_says_the_fingerprint(run: Run) -> None:
    code, out, _ = run(s2cs, "cert", "--host", "gw.example.org", "--host", "::1", "--out", "a/b", "--json")
    assert code == 0
    made = json.loads(out)
    assert stat.S_IMODE(Path(made["private_key"]).stat().st_mode) == 0o600
    assert len(made["sha256"]) == 95
    assert "exists already" in complaint(run(s2cs, "cert", "--host=x", "--out=a/b"))


def test_a_second_token_for_the_same_user_is_said_to_be_one(run: Run) -> None:
    first = run(s2cs, "token", "alice", "--auth-file=tokens.toml", "--out=one.token")[1]
    second = run(s2cs, "token", "alice", "--auth-file=tokens.toml", "--out=two.token")[1]
    assert "tokens of alice" not in first
    assert "alice has 2 tokens now, the earlier ones hold" in second
    code, out, _ = run(s2cs, "token", "alice", "--auth-file=tokens.toml", "--out=3.token", "--json")
    assert (code, json.loads(out)["tokens"]) == (0, 3)


def test_token_makes_a_token_that_is_in_no_output(run: Run) -> None:
    code, out, err = run(s2cs, "token", "alice", "--auth-file=tokens.toml", "--out=alice.token")
    assert code == 0
    token = read_token_file(Path("alice.token"))
    assert token not in out + err + Path("tokens.toml").read_text()
    assert "exists already" in complaint(
        run(s2cs, "token", "bob", "--auth-file=tokens.toml", "--out=alice.token")
    )


ACCESS = ("--auth=none", "--listen=127.0.0.1:0")


@pytest.mark.parametrize("option", ["--client-secret", "--client_secret", "--oidc-client-secret"])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(run: Run, option: str) -> None:
    err = complaint(run(s2cs, "start", *ACCESS, option, "hush"))
    assert "-secret-file FILE, or set " in err
    assert "hush" not in err


def test_settings_of_an_authenticator_that_is_not_asked_for_are_refused(run: Run) -> None:
    prepare(run)
    err = complaint(run(s2cs, "start", *ACCESS, "--client-id=x"))
    assert "--client-id: for --auth globus, which is not asked for" in err


def test_none_cannot_stand_beside_others(run: Run) -> None:
    prepare(run)
    err = complaint(run(s2cs, "start", *ACCESS, "--auth=shared-key", "--auth-file=tokens.toml"))
    assert "'none' takes anybody" in err


@pytest.mark.parametrize("name", ["Haproxy2", "Mock", "x"])
def test_a_data_server_that_is_not_here_is_refused_with_those_that_are(run: Run, name: str) -> None:
    prepare(run)
    err = complaint(run(s2cs, "--type", name, *ACCESS))
    assert f"data server '{name}' is not available in this installation; there are: " in err
    assert "the default is native" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ssl=False", "--auth=none"], "--ssl=False on 0.0.0.0"),
        (["--state-dir=x", "--no-state", *ACCESS], "exclude each other"),
        (["--listen=127.0.0.1:5000", "--port=5001", "--auth=none"], "name different ports"),
        (["--listen=127.0.0.1", "--auth=none"], "names no port"),
        (["--on-terminate=keep", *ACCESS], "--state-dir DIR"),
        (["--on-terminate=keep", "--no-state", "--auth=none", "--listen=127.0.0.1:5999"], "--state-dir DIR"),
        (["--advertise-port-range=1-2", "--port-range=5-7", *ACCESS], "of the same length"),
        (["--capacity=-1", *ACCESS], "the capacity is -1.0 Mb/s"),
        (["--idle-timeout-s=-1", *ACCESS], "the idle timeout"),
        (["--lifetime-s=nan", *ACCESS], "the lifetime"),
        (["--queue-timeout-s=0", *ACCESS], "the queue timeout"),
        (["--early-hello-timeout-s=0", *ACCESS], "the early hello timeout"),
        (["--orphan-limit-s=0", *ACCESS], "the orphan limit"),
        (["--listener-ip=203.0.113.9", *ACCESS], "give the outer one with --advertise 203.0.113.9"),
        (["--bind=203.0.113.9", *ACCESS], "--bind 203.0.113.9 is no address of this machine"),
        (["--listen=203.0.113.9:0", "--auth=none"], "--listen 203.0.113.9:0 is no address of this machine"),
    ],
)
def test_what_does_not_fit_together_is_one_clear_line(run: Run, arguments: list[str], expected: str) -> None:
    prepare(run)
    code, _, err = run(s2cs, "start", *arguments)
    assert code in {2, 3}
    assert expected in err.splitlines()[-1]


def test_sessions_are_kept_by_port_where_the_user_or_systemd_keeps_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir(5000) == tmp_path / ".local/state/scistream/s2cs-5000"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_state_dir(5000) == tmp_path / ".local/state/scistream/s2cs-5000"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_state_dir(6000) == Path("/var/state/scistream/s2cs-6000")
    assert default_state_dir(0) is None
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/scistream:/var/lib/other")
    assert default_state_dir(5000) == Path("/var/lib/scistream")
