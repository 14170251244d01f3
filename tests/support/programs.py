"""Runs click programs within the test's process, and puts back what they change of it.

A conftest imports the fixtures `run` and `restored` from here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import click
import pytest

from scistream.cli.running import run_program

#: No directory, so that no file can be in it.
NO_CONFIG = os.devnull


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put logging and environment back; the configuration of whoever runs the tests is not read."""
    root, program = logging.getLogger(), logging.getLogger("scistream.cli.running")
    before = root.level, list(root.handlers), program.level, dict(os.environ)
    os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_DATA_HOME"] = NO_CONFIG
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    program.setLevel(before[2])
    os.environ.clear()
    os.environ.update(before[3])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command as a program: exit code, stdout, stderr."""

    def run(command: click.Command, *arguments: object, name: str = "prog") -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_program(command, name, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run
