"""A group whose default command need not be named."""

from __future__ import annotations

import click
import pytest

from scistream.cli import options
from scistream.cli.config_file import config_option
from scistream.cli.groups import DefaultCommandGroup
from support.programs import Run


@click.group(cls=DefaultCommandGroup, default_command="serve", context_settings=options.CONTEXT_SETTINGS)
@config_option()
@options.version_option()
def program() -> None:
    """Do things."""


@program.command()
@click.option("--port", type=int, default=1)
@config_option()
@options.verbose_option()
def serve(port: int) -> None:
    """Serve."""
    click.echo(f"serve {port}")


@program.command()
def other() -> None:
    """Do something else."""
    click.echo("other")


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        ("serve --port 2", "serve 2\n"),
        ("--port 2", "serve 2\n"),
        ("--port=2 -v", "serve 2\n"),
        ("-v", "serve 1\n"),
        ("", "serve 1\n"),
        ("--config FILE", "serve 3\n"),
        ("--config=FILE --port 2", "serve 2\n"),
        ("--config FILE serve", "serve 3\n"),
        ("--port 2 --config FILE", "serve 2\n"),
        ("other", "other\n"),
        ("--config FILE other", "other\n"),
    ],
)
def test_the_default_command_is_meant_where_none_is_named(
    run: Run, tmp_path: object, arguments: str, out: str
) -> None:
    file = f"{tmp_path}/config.toml"
    with open(file, "w") as config:
        config.write("[serve]\nport = 3\n")
    assert run(program, *arguments.replace("FILE", file).split()) == (0, out, "")


def test_help_and_version_are_the_groups_and_the_commands_own_help_is_reached(run: Run) -> None:
    assert run(program, "--help")[1].startswith("Usage: prog [OPTIONS] COMMAND")
    assert run(program, "--version")[1].startswith("prog, version")
    assert run(program, "--port", "2", "--help")[1].startswith("Usage: prog serve")


def test_a_mistyped_command_or_option_is_an_error(run: Run) -> None:
    assert "No such command 'srve'" in run(program, "srve")[2]
    code, _, err = run(program, "--prot", "2")
    assert (code, "No such option: --prot" in err or "No such option '--prot'" in err) == (2, True)
