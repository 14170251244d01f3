"""What all programs share: configuration files, errors in one line, signals, events."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from scistream.cli import options
from scistream.cli.config_file import config_option, config_table
from scistream.cli.exit_codes import ExitCode
from scistream.cli.output import error_events, print_json
from scistream.cli.running import StoppedBySignal, run_until_done
from scistream.errors import AuthenticationError, ConfigurationError, ResourceExhausted
from support.programs import Run


@click.group(context_settings=options.CONTEXT_SETTINGS)
@config_option(tables=("facilities",))
@options.version_option()
def program() -> None:
    """Do things."""


@program.command("show-it")
@click.option("--port-range", default="from the default")
@click.option("--number", "count", type=int, default=1)
@click.option("--name", "names", multiple=True)
@options.json_option()
@config_option(tables=("facilities",))
@options.verbose_option()
@click.pass_context
def show_it(
    context: click.Context, port_range: str, count: int, names: tuple[str, ...], as_json: bool
) -> None:
    """Show options."""
    table = dict(config_table(context, "facilities"))
    print_json(range=port_range, count=count, names=names, facilities=table, json=as_json)


@program.command()
@click.argument("kind")
@options.verbose_option()
def fail(kind: str) -> None:
    """Fail."""
    raise {
        "auth": AuthenticationError("who\n are you"),
        "bug": ZeroDivisionError("oh"),
        "interrupt": KeyboardInterrupt(),
        "stopped": StoppedBySignal(signal.SIGTERM),
    }[kind]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_flags_win_over_environment_over_file_over_defaults(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(*arguments: object) -> str:
        code, out, err = run(program, *arguments)
        assert code == 0, err
        return str(json.loads(out)["range"])

    config.write_text("[show-it]\nport-range = 'file'\n")
    assert shown("show-it") == "from the default"
    assert shown("--config", config, "show-it") == "file"
    assert shown("show-it", "--config", config) == "file"
    monkeypatch.setenv("PROG_SHOW_IT_PORT_RANGE", "environment")
    assert shown("--config", config, "show-it") == "environment"
    assert shown("--config", config, "show-it", "--port-range=flag") == "flag"


def test_an_option_is_named_in_environment_and_file_as_it_is_written(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROG_SHOW_IT_NUMBER", "3")
    monkeypatch.setenv("PROG_SHOW_IT_NAME", "a b")
    monkeypatch.setenv("PROG_SHOW_IT_JSON", "1")
    monkeypatch.setenv("PROG_SHOW_IT_NAMES", "by the name in the code")
    shown = json.loads(run(program, "show-it")[1])
    assert (shown["count"], shown["names"], shown["json"]) == (3, ["a", "b"], True)
    config.write_text("[show-it]\nas_json = true\n")
    code, _, err = run(program, "--config", config, "show-it")
    assert code == 3
    assert "unknown key 'show-it.as_json'; known here: json, name, number, port_range, verbose" in err


def test_a_file_that_is_not_there_is_bad_input_as_everywhere(run: Run) -> None:
    code, _, err = run(program, "--config", "/nonexistent", "show-it")
    assert (code, err) == (3, "prog: error: /nonexistent cannot be read: No such file or directory\n")


def test_a_file_can_use_either_spelling_and_lists(run: Run, config: Path) -> None:
    config.write_text("[show_it]\nport_range = 'x'\nnumber = 7\nname = ['a', 'b']\njson = true\n")
    code, out, err = run(program, "--config", config, "show-it")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "range": "x",
        "count": 7,
        "names": ["a", "b"],
        "facilities": {},
        "json": True,
    }


def test_tables_that_are_no_options_are_handed_on(run: Run, config: Path) -> None:
    config.write_text("[facilities.aps]\naddress = 'x:1'\n")
    assert json.loads(run(program, "--config", config, "show-it")[1])["facilities"] == {
        "aps": {"address": "x:1"}
    }


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[show-it]\nport-rnage = 'x'\n", "unknown key 'show-it.port-rnage'"),
        ("prot = 1\n", "unknown key 'prot'"),
        ("[show-it.number]\n", "is an option, not a table"),
        ("[show-it]\nnumber = 'many'\n", "Invalid value for '--number'"),
        ("no toml", "is not a TOML file"),
        ("config = 'other'\n", "unknown key 'config'"),
        ("facilities = 1\n", "not a table"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(
    run: Run, config: Path, content: str, complaint: str
) -> None:
    config.write_text(content)
    code, out, err = run(program, "--config", config, "show-it")
    assert code in {ExitCode.BAD_INPUT, ExitCode.USAGE}
    assert out == ""
    assert complaint in err
    assert err.startswith("prog: error: ")
    assert err.count("\n") == 1


def test_both_spellings_of_options_and_commands_are_accepted(run: Run) -> None:
    assert json.loads(run(program, "show_it", "--port_range", "x")[1])["range"] == "x"


def test_help_and_version(run: Run) -> None:
    for arguments in (["-h"], ["--help"], ["show-it", "-h"]):
        code, out, _ = run(program, *arguments)
        assert code == 0
        assert out.startswith("Usage: prog")
    code, out, _ = run(program, "--version")
    assert (code, out[:14]) == (0, "prog, version ")


def test_errors_are_one_line_and_a_code(run: Run) -> None:
    assert run(program, "fail", "auth") == (6, "", "prog: error: who are you\n")
    assert run(program, "fail", "interrupt")[0] == 130
    assert run(program, "fail", "stopped")[0] == 143
    assert run(program, "nothing-like-it")[0] == 2
    code, _, err = run(program, "fail", "bug")
    assert code == 1
    assert err == "prog: error: unexpected ZeroDivisionError: oh; -v shows where\n"


@pytest.mark.parametrize("arguments", [["-h"], ["token", "alice", "--auth-file=t.toml", "--out=a.token"]])
def test_output_to_a_full_device_is_one_clear_line(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [sys.executable, "-m", "scistream.cli.s2cs", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=tmp_path,
            check=False,
        )
    assert finished.returncode == 5
    assert finished.stderr == (
        "s2cs: error: the output cannot be written: No space left on device; free space, or write elsewhere\n"
    )


LISTING = [sys.executable, "-m", "scistream.cli.s2cs", "start", "--help"]


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = subprocess.run(LISTING, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (finished.returncode, finished.stderr) == (141, b"")


def test_an_output_that_has_no_arrows_gets_question_marks() -> None:
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            "import click; from scistream.cli.running import run_program\n"
            "run_program(click.command()(lambda: click.echo('a → b')), 'prog', [])",
        ],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, b"a ? b\n", b"")


def test_verbose_shows_where_a_bug_is(run: Run) -> None:
    assert "Traceback" in run(program, "fail", "-v", "bug")[2]


def test_error_events_say_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResourceExhausted), error_events(enabled=True):
        raise ResourceExhausted("full")
    assert json.loads(capsys.readouterr().out) == {"event": "error", "message": "full", "exit_code": 5}
    with pytest.raises(ResourceExhausted), error_events(enabled=False):
        raise ResourceExhausted("full")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_work_and_lets_it_clean_up(signum: int) -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signum)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            done.append("cleaned up")

    with pytest.raises(StoppedBySignal) as stopped:
        run_until_done(work)
    assert (stopped.value.signum, done) == (signum, ["cleaned up"])


def test_work_that_ends_by_itself_gives_its_result_or_error() -> None:
    async def result() -> int:
        return 7

    async def error() -> Any:
        raise ConfigurationError("x")

    assert run_until_done(result) == 7
    with pytest.raises(ConfigurationError):
        run_until_done(error)
