"""Certificates that are wrong, for another host or none at all, and control servers without TLS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scistream.auth.certificates import fingerprint, write_certificate
from support.gateways import Application, ControlServerProcess, Finished, Gateways, ask, run_program

Profiles = Callable[..., dict[str, str]]


def s2uc(*arguments: str | Path, **environment: str) -> Finished:
    return run_program("s2uc", *arguments, **environment)


def complaint(finished: Finished) -> str:
    """The one line that a program says before it fails: nothing of gRPC's or of Python's besides."""
    (line,) = finished.err.splitlines()
    assert finished.out == ""
    return line


@pytest.fixture
def elsewhere(gateways: Gateways, tmp_path: Path) -> ControlServerProcess:
    """A control server at 127.0.0.1 whose certificate is for another host."""
    certificate, key = write_certificate(tmp_path / "elsewhere", ["gateway.example"])
    server = gateways.start(f"--certificate={certificate}", f"--private-key={key}")
    server.certificate = certificate
    return server


def test_every_program_calls_a_server_that_is_not_trusted_the_same(
    gateways: Gateways, tmp_path: Path
) -> None:
    server = gateways.start()
    other, _ = write_certificate(tmp_path / "other", ["127.0.0.1"])
    token = f"--token-file={server.tokens['alice']}"
    for certificate in ([], [f"--certificate={other}"]):
        for program, *arguments in (
            ("s2uc", "list"),
            ("s2uc", "update", "A", "--plain"),
            ("s2uc", "inbound-request"),
            ("appctrl", "hello", "A", "--role=PROD", "--address=127.0.0.1:9", "--timeout-s=20"),
        ):
            refused = run_program(program, *arguments, f"--s2cs={server.address}", token, *certificate)
            assert refused.code == 6, (program, arguments, refused)
            assert f"s2uc trust {server.address}" in complaint(refused)


def test_a_certificate_for_another_host_says_for_which_and_is_not_trusted_either(
    elsewhere: ControlServerProcess, profiles: Profiles, tmp_path: Path
) -> None:
    says = "not for 127.0.0.1, but for gateway.example"
    listed = s2uc("list", *elsewhere.options())
    assert listed.code == 6
    assert says in complaint(listed)
    env = profiles()
    shown = fingerprint(elsewhere.certificate.read_bytes())
    trusted = s2uc("trust", elsewhere.address, f"--fingerprint={shown}", **env)
    assert trusted.code == 6
    assert says in complaint(trusted)
    assert not list(Path(env["XDG_DATA_HOME"]).rglob("*.crt"))
    config = tmp_path / "profiles.toml"
    config.write_text(
        f'[facilities.aps]\naddress = "{elsewhere.address}"\nfingerprint = "{shown}"\n'
        f'token_file = "{elsewhere.tokens["alice"]}"\n'
    )
    by_profile = s2uc("list", "--s2cs=aps", "--config", config)
    assert by_profile.code == 6
    assert says in complaint(by_profile)


def test_a_file_that_is_no_certificate_is_named(gateways: Gateways, tmp_path: Path) -> None:
    server = gateways.start()
    garbage = tmp_path / "garbage.crt"
    garbage.write_text("garbage")
    says = f"{garbage} is no PEM certificate"
    for arguments in (
        ["list", f"--s2cs={server.address}", f"--certificate={garbage}"],
        ["request", server.address, "b:1", "--target=a:1", f"--producer-certificate={garbage}"],
        ["update", "A", *server.options(), f"--peer-certificate={garbage}"],
        ["outbound-request", "A", "127.0.0.1:9", *server.options(), f"--peer-certificate={garbage}"],
    ):
        refused = s2uc(*arguments)
        assert refused.code == 3, (arguments, refused)
        assert says in complaint(refused)


# --- control servers without TLS -------------------------------------------------------------------------


def test_control_servers_without_tls_are_called_by_plaintext_addresses(
    gateways: Gateways, application: Callable[[str], Application], profiles: Profiles
) -> None:
    aps, alcf, app = (*(gateways.start("--ssl=False") for _ in range(2)), application("detector"))
    token = f"--token-file={aps.tokens['alice']}"
    plain = [f"plaintext://{server.address}" for server in (aps, alcf)]
    opened = s2uc("request", *plain, f"--target={app.address}", token, "--json")
    assert opened.code == 0, opened.err
    assert opened.json["encrypted"] is True  # the session is, whatever the calls are
    assert ask(opened.json["listeners"][0], b"hi") == b"detector:hi"

    with_tls = s2uc("list", *aps.options())
    assert with_tls.code == 4
    assert plain[0] in complaint(with_tls)
    assert plain[0] in complaint(s2uc("trust", aps.address, **profiles()))
    for_nothing = s2uc("list", f"--s2cs={plain[0]}", f"--certificate={gateways.certificate}", token)
    assert for_nothing.code == 3
    assert "without TLS" in complaint(for_nothing)


def test_a_server_with_tls_that_is_called_without_is_said(gateways: Gateways) -> None:
    server = gateways.start()
    called = s2uc("list", f"--s2cs=plaintext://{server.address}", f"--token-file={server.tokens['alice']}")
    assert called.code == 4
    assert "leave plaintext:// out" in complaint(called)


@pytest.mark.parametrize("command", ["request", "list", "update", "inbound-request", "cons-req", "release"])
def test_the_help_says_how_to_call_a_server_without_tls(command: str) -> None:
    assert "plaintext://" in s2uc(command, "--help").out
