"""The command line as people meet it first."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import click
import pytest

from ministream.cli.main import ministream


def shown(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ministream", *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_help_lists_every_command_with_an_example() -> None:
    text = shown("--help")
    assert "Example" in text
    for name in ("run", "daq", "distribute", "reconstruct", "quality", "key", "bench"):
        assert f"\n  {name} " in text
    assert text == shown("-h")


def test_the_version_is_the_installed_one() -> None:
    assert shown("--version") == f"ministream, version {importlib.metadata.version('ministream')}\n"


@pytest.mark.parametrize("name", ["run", "daq", "distribute", "reconstruct", "quality", "key"])
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, ministream.cli.main as m; m.ministream.get_command(None, '{name}'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "h5py", "zmq", "numba", "rich", "dask", "distributed"} & set(loaded.split())


@pytest.mark.parametrize("name", ["run", "daq", "distribute", "reconstruct", "quality"])
def test_every_command_teaches(name: str) -> None:
    command = ministream.get_command(click.Context(ministream), name)
    assert command is not None
    assert command.name == name
    assert "Example" in str(command.help)
    options = {spelling for parameter in command.params for spelling in parameter.opts}
    assert {"--json", "--config", "--verbose"} <= options
