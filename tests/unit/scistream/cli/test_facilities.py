"""From an address or the name of a profile to a facility."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from scistream.cli import options
from scistream.cli.facilities import find_facilities
from support.programs import Run


@click.command(context_settings=options.CONTEXT_SETTINGS)
@click.argument("texts", nargs=-1)
@click.option("--certificate", "certificates", type=click.Path(path_type=Path), multiple=True)
@click.option("--token-file", "token_files", type=click.Path(path_type=Path), multiple=True)
@options.config_option(tables=("facilities",))
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
        click.echo(f"{facility.endpoint} {(pem or b'-').decode()} {facility.token}")
        assert str(facility.token) not in repr(facility) or facility.token is None


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("S2UC_TOKEN", raising=False)
    directory = tmp_path / "etc"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / f"{name}.crt").write_text(f"cert-{name}")
        token = directory / f"{name}.token"
        token.touch(mode=0o600)
        token.write_text(f"token-{name}\n")
    (directory / "config.toml").write_text(
        "[facilities.aps]\naddress = 'gw.aps.example:5000'\ncertificate = 'a.crt'\ntoken_file = 'a.token'\n"
        "[facilities.bad]\naddress = 'x:1'\ntoken = 'secret'\n[facilities.empty]\n"
    )


CONFIG = "--config=etc/config.toml"


def test_a_profile_says_everything_with_paths_from_its_file(run: Run) -> None:
    assert run(show, CONFIG, "aps")[1] == "gw.aps.example:5000 cert-a token-a\n"


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
        (["apz"], "known: aps, bad, empty"),
        (["bad"], "token"),
        (["empty"], "no address"),
        (["x:1", "--certificate=missing"], "missing cannot be read"),
        (["x:99999"], "99999"),
    ],
)
def test_what_cannot_be_used_is_said(run: Run, arguments: list[str], expected: str) -> None:
    code, _, err = run(show, CONFIG, *arguments)
    assert code == 3
    assert expected in err
