"""From an address or the name of a profile to a facility."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from scistream.auth.certificates import make_certificate
from scistream.cli import options
from scistream.cli.config_file import config_option
from scistream.cli.facilities import find_facilities, find_servers
from scistream.client.known_servers import fingerprint, store_known_server
from scistream.core.endpoint import Endpoint
from support.control_servers import tls_files
from support.programs import Run

__all__ = ["tls_files"]

PEM = make_certificate(["gw"])[0].decode()


@click.command(context_settings=options.CONTEXT_SETTINGS)
@click.argument("texts", nargs=-1)
@click.option("--certificate", "certificates", type=click.Path(path_type=Path), multiple=True)
@click.option("--token-file", "token_files", type=click.Path(path_type=Path), multiple=True)
@config_option(tables=("facilities",))
@click.pass_context
def show(
    context: click.Context,
    texts: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
) -> None:
    """Show facilities."""
    for facility in find_facilities(context, texts, certificates, token_files):
        pem = facility.server_certificate_pem
        # the first line: here it names the certificate
        click.echo(f"{facility.endpoint} {(pem or b'-').decode().splitlines()[0]} {facility.token}")
        assert str(facility.token) not in repr(facility) or facility.token is None


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("S2UC_TOKEN", raising=False)
    directory = tmp_path / "etc"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / f"{name}.crt").write_text(f"cert-{name}\n{PEM}")
        token = directory / f"{name}.token"
        token.touch(mode=0o600)
        token.write_text(f"token-{name}\n")
    (directory / "config.toml").write_text(
        "[facilities.aps]\naddress = 'gw.aps.example:5000'\ncertificate = 'a.crt'\ntoken_file = 'a.token'\n"
        "[facilities.bad]\naddress = 'x:1'\ntoken = 'secret'\n[facilities.empty]\n"
        "[facilities.clear]\naddress = 'plaintext://x:1'\ncertificate = 'a.crt'\n"
    )


CONFIG = "--config=etc/config.toml"


@click.command(context_settings=options.CONTEXT_SETTINGS)
@click.argument("texts", nargs=-1)
@config_option(tables=("facilities",))
@click.pass_context
def servers(context: click.Context, texts: tuple[str, ...]) -> None:
    """Show which control servers are meant."""
    click.echo(" ".join(find_servers(context, texts)))


@pytest.fixture
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own configuration file, with a profile."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    path = tmp_path / "xdg" / "scistream" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[facilities.own]\naddress = 'own:1'\ncertificate = 'own.crt'\n")
    (path.parent / "own.crt").write_text(f"cert-own\n{PEM}")
    return path


def test_a_profile_says_everything_with_paths_from_its_file(run: Run) -> None:
    assert run(show, CONFIG, "aps")[1] == "gw.aps.example:5000 cert-a token-a\n"


def test_the_users_own_file_is_read_unless_another_is_given(run: Run, own_config: Path) -> None:
    assert run(show, "own")[1] == "own:1 cert-own None\n"
    assert "neither HOST:PORT nor a profile" in run(show, CONFIG, "own")[2]
    own_config.write_text("not toml")
    assert str(own_config) in run(show, "own")[2]
    assert run(show, CONFIG, "aps")[0] == 0


def test_the_users_own_file_is_in_the_home_directory_by_default(
    run: Run, own_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xdg").rename(tmp_path / ".config")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert run(show, "own")[1] == "own:1 cert-own None\n"


def test_a_path_of_a_profile_may_begin_at_the_home_directory(
    run: Run, own_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own_config.write_text("[facilities.own]\naddress = 'own:1'\ncertificate = '~/etc/b.crt'\n")
    assert run(show, "own")[1] == "own:1 cert-b None\n"


def test_the_users_own_file_holds_profiles_only(run: Run, own_config: Path) -> None:
    own_config.write_text("[own]\naddress = 'own:1'\n")
    code, _, err = run(show, "own")
    assert code == 3
    assert f"{own_config}: unknown key 'own'; known here: facilities (was [facilities.own] meant?)" in err


def test_a_profile_outside_of_the_table_of_profiles_is_an_error_that_says_where_it_belongs(run: Run) -> None:
    Path("wrong.toml").write_text("[aps]\naddress = 'own:1'\n")
    code, _, err = run(show, "--config=wrong.toml", "aps")
    assert code == 3
    assert "facilities" in err.split("known here: ")[1].split(" (was ")[0]
    assert "[facilities.aps]" in err


def test_an_unknown_name_says_what_to_write_and_where(run: Run, own_config: Path) -> None:
    code, _, err = run(show, "alcf")
    assert code == 3
    assert f"profiles in {own_config}: own" in err
    assert "[facilities.alcf]" in err
    assert all(word in err for word in ("address =", "certificate =", "token_file ="))
    own_config.unlink()
    err = run(show, "alcf")[2]
    assert f"there is no {own_config}" in err
    assert "--config FILE" in err


def test_without_a_server_all_profiles_are_meant_and_without_profiles_this_machine(
    run: Run, own_config: Path
) -> None:
    assert run(servers)[1] == "own\n"
    assert run(servers, CONFIG)[1] == "aps bad empty clear\n"
    assert run(servers, CONFIG, "x:1")[1] == "x:1\n"
    own_config.unlink()
    assert run(servers)[1] == "localhost:5000\n"


def test_the_command_line_wins_over_the_profile_and_the_environment_over_its_token(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2UC_TOKEN", "token-e")
    assert run(show, CONFIG, "aps")[1] == "gw.aps.example:5000 cert-a token-e\n"
    out = run(show, CONFIG, "aps", "--certificate=etc/b.crt", "--token-file=etc/b.token")[1]
    assert out == "gw.aps.example:5000 cert-b token-b\n"


def test_certificates_are_one_for_all_or_one_for_each(run: Run) -> None:
    assert run(show, "x:1", "y:2", "--certificate=etc/a.crt")[1] == "x:1 cert-a None\ny:2 cert-a None\n"
    both = ["--certificate=etc/a.crt", "--certificate=etc/b.crt"]
    assert run(show, "x:1", "y:2", *both)[1] == "x:1 cert-a None\ny:2 cert-b None\n"
    assert run(show, "x:1", "y:2", "z:3", *both)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["apz"], "etc/config.toml: aps, bad, clear, empty"),
        (["bad"], "token"),
        (["empty"], "no address"),
        (["x:1", "--certificate=missing"], "missing cannot be read"),
        (["x:1", "--certificate=etc/a.token"], "etc/a.token is no PEM certificate"),
        (["plaintext://x:1", "--certificate=etc/a.crt"], "plaintext://x:1 is called without TLS"),
        (["clear"], "leave it or plaintext:// out"),
        (["x:99999"], "99999"),
    ],
)
def test_what_cannot_be_used_is_said(run: Run, arguments: list[str], expected: str) -> None:
    code, _, err = run(show, CONFIG, *arguments)
    assert code == 3
    assert expected in err


def test_a_profiles_authenticator_is_taken_and_another_key_is_not(run: Run) -> None:
    Path("with.toml").write_text("[facilities.aps]\naddress = 'own:1'\nauthenticator = 'shared-key'\n")
    assert run(show, "--config=with.toml", "aps")[:2] == (0, "own:1 - None\n")
    Path("with.toml").write_text("[facilities.aps]\naddress = 'own:1'\nlogin = 'globus'\n")
    code, _, err = run(show, "--config=with.toml", "aps")
    assert code == 3
    assert "address, authenticator, certificate, client_certificate, client_id, client_key, " in err


_GLOBUS = "[facilities.aps]\naddress = 'own:1'\nauthenticator = 'globus'\n"
_SERVICE = "c42c0dac-0a52-408e-a04f-5d31bfe0aef8"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (_GLOBUS, "client_id in the profile"),
        (_GLOBUS + "client_id = 'x'\n", "scope in the profile"),
        (_GLOBUS.replace("globus", "oidc") + "client_id = 'x'\n", "issuer in the profile"),
        ("[facilities.aps]\naddress = 'own:1'\nissuer = 'https://x'\n", "which is missing there"),
        (
            "[facilities.aps]\naddress = 'own:1'\nclient_certificate = 'x'\n",
            "client_certificate and client_key go together",
        ),
        (f"{_GLOBUS}client_id = 'x'\nscope = '{_SERVICE}'\n", "you are not logged in; type: s2uc login aps"),
    ],
)
def test_what_a_login_needs_is_said(run: Run, profile: str, expected: str) -> None:
    Path("with.toml").write_text(profile)
    code, _, err = run(show, "--config=with.toml", "aps")
    assert code == (6 if "logged in" in expected else 3)
    assert expected in err


def test_a_token_that_is_given_is_taken_without_login(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("with.toml").write_text(f"{_GLOBUS}client_id = 'x'\nscope = '{_SERVICE}'\n")
    monkeypatch.setenv("S2UC_TOKEN", "given")
    assert run(show, "--config=with.toml", "aps")[:2] == (0, "own:1 - given\n")


def test_a_trusted_certificate_is_used_where_none_is_given(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    store_known_server(Endpoint("x", 1), b"trusted")
    store_known_server(Endpoint("gw.aps.example", 5000), b"trusted")
    assert run(show, "x:1", "y:2")[1] == "x:1 trusted None\ny:2 - None\n"
    assert run(show, "x:1", "--certificate=etc/b.crt")[1] == "x:1 cert-b None\n"
    assert run(show, CONFIG, "aps")[1] == "gw.aps.example:5000 cert-a token-a\n"


def test_a_certificate_and_a_fingerprint_that_differ_are_refused(
    run: Run, tls_files: tuple[Path, Path]
) -> None:
    profile = f"[facilities.aps]\naddress = 'own:1'\ncertificate = '{tls_files[0]}'\nfingerprint = "
    shown = fingerprint(tls_files[0].read_bytes())
    Path("with.toml").write_text(f"{profile}'{shown}'\n")
    assert "BEGIN CERTIFICATE" in run(show, "--config=with.toml", "aps")[1]
    Path("with.toml").write_text(f"{profile}'{shown[:-1]}{'0' if shown[-1] != '0' else '1'}'\n")
    code, _, err = run(show, "--config=with.toml", "aps")
    assert code == 3
    assert shown in err
