"""What every command shares: where values come from, errors as one line, events, signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from ministream.cli.options import (
    StoppedBySignal,
    config_option,
    run_program,
    run_stage,
    run_until_done,
    verbose_option,
)
from ministream.errors import ConnectionFailed, InputError


def program(work: Callable[..., Any]) -> click.Group:
    @click.group()
    def group() -> None:
        pass

    @group.command()
    @click.option("--rate", type=float, default=1.0)
    @click.option("--flat-value", type=int, default=2)
    @config_option()
    @verbose_option()
    def daq(**options: Any) -> Any:
        return work(**options)

    @group.command()
    @config_option()
    def quality() -> None:
        pass

    return group


def run(work: Callable[..., Any], *arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run_program(program(work), "prog", list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def seen() -> dict[str, Any]:
    return {}


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[daq]\nrate = 5\n[quality]\n")
    assert run(seen.update, "daq") == 0
    assert seen == {"rate": 1.0, "flat_value": 2}
    assert run(seen.update, "daq", "--config", str(config)) == 0
    assert seen == {"rate": 5.0, "flat_value": 2}
    monkeypatch.setenv("PROG_DAQ_RATE", "6")
    assert run(seen.update, "daq", "--config", str(config)) == 0
    assert seen["rate"] == 6.0
    assert run(seen.update, "daq", "--config", str(config), "--rate", "7") == 0
    assert seen["rate"] == 7.0


def test_keys_outside_tables_and_with_dashes_are_options_too(tmp_path: Path, seen: dict[str, Any]) -> None:
    config = tmp_path / "c.toml"
    config.write_text("flat-value = 9\nrate = 3\n[daq]\nrate = 4\n")
    assert run(seen.update, "daq", "--config", str(config)) == 0
    assert seen == {"rate": 4.0, "flat_value": 9}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("[daq]\nrat = 5\n", 3, "unknown key 'rat'; daq knows flat_value, rate"),
        ("[dack]\nrate = 5\n", 3, "unknown table [dack]; known are daq, quality"),
        ("[daq.rate]\nx = 5\n", 3, "rate is an option of daq, not a table"),
        ("rate = \n", 3, "is not a TOML file"),
        ("[daq]\nrate = 'quick'\n", 2, "'quick' is not a valid float"),
        ("[daq]\nconfig = 'other.toml'\n", 3, "unknown key 'config'"),
    ],
)
def test_a_configuration_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seen: dict[str, Any], text: str, code: int, words: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    assert run(seen.update, "daq", "--config", str(config)) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("prog: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert captured.out == ""


def test_our_errors_are_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: Any) -> None:
        raise InputError("two\n   lines")

    assert run(fail, "daq") == 3
    assert capsys.readouterr().err == "prog: error: two lines\n"


def test_a_bug_is_one_line_and_with_v_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: Any) -> None:
        raise ZeroDivisionError("oops")

    assert run(fail, "daq") == 1
    assert capsys.readouterr().err == "prog: error: unexpected ZeroDivisionError: oops; -v shows where\n"
    assert run(fail, "daq", "-v") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_command_may_return_its_code() -> None:
    assert run(lambda **_: 8, "daq") == 8


# ---------------------------------------------------------------------- stages


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_events_are_json_lines_and_progress_is_thinned_out(capsys: pytest.CaptureFixture[str]) -> None:
    def work(report: Any, _: threading.Event) -> None:
        report({"event": "ready", "address": "a"})
        for index in range(100):
            report({"event": "progress", "n": index})
        report({"event": "done", "n": 100})

    run_stage(work, as_json=True)
    events = lines(capsys)
    assert events[0] == {"event": "ready", "address": "a"}
    assert events[-1] == {"event": "done", "n": 100}
    assert [event["n"] for event in events[1:-1]] == [0]


def test_without_json_only_the_summary_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    def work(report: Any, _: threading.Event) -> None:
        report({"event": "ready", "address": "a"})
        report({"event": "done", "projections_sent": 3, "seconds": 1.25})

    run_stage(work, as_json=False)
    captured = capsys.readouterr()
    assert captured.out == "done: projections sent 3; seconds 1.25\n"
    assert captured.err == "ready: address a\n"


def test_an_error_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    def work(*_: Any) -> None:
        raise ConnectionFailed("nobody")

    with pytest.raises(ConnectionFailed):
        run_stage(work, as_json=True)
    assert lines(capsys) == [{"event": "error", "message": "nobody", "exit_code": 4}]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_stage_and_handlers_are_put_back(signum: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    cleaned = []

    def work(_: Any, stop: threading.Event) -> None:
        os.kill(os.getpid(), signum)
        assert stop.wait(10)
        cleaned.append(True)

    with pytest.raises(StoppedBySignal) as caught:
        run_stage(work, as_json=False)
    assert caught.value.signum == signum
    assert cleaned
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_stage_that_is_done_when_the_signal_comes_has_succeeded() -> None:
    def work(report: Any, stop: threading.Event) -> None:
        report({"event": "done"})
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)

    run_stage(work, as_json=False)


def test_an_error_while_stopping_is_not_the_reason() -> None:
    def work(_: Any, stop: threading.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
        raise ConnectionFailed("the peer stopped as well")

    with pytest.raises(StoppedBySignal):
        run_stage(work, as_json=True)


def test_a_signal_cancels_an_event_loops_work_and_it_cleans_up() -> None:
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
        finally:
            cleaned.append(True)

    with pytest.raises(StoppedBySignal) as caught:
        run_until_done(work)
    assert caught.value.signum == signal.SIGTERM
    assert cleaned


def test_an_event_loops_work_returns_its_value() -> None:
    async def work() -> int:
        return 5

    assert run_until_done(work) == 5
