"""What is left of a run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from ministream.errors import ConnectionFailed, StageError
from ministream.pipeline.scratch import MARK, new_mark, no_stragglers


@pytest.fixture
def straggler() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    mark = new_mark()
    with subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: mark}) as process:
        yield mark, process
        process.kill()


def test_a_process_that_is_left_is_killed_and_an_error(
    straggler: tuple[str, subprocess.Popen[bytes]],
) -> None:
    mark, process = straggler
    with pytest.raises(StageError, match=rf"{process.pid} had not ended"), no_stragglers(mark):
        pass
    assert process.wait(10) == -signal.SIGKILL


def test_it_does_not_hide_why_it_is_left(
    straggler: tuple[str, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    mark, process = straggler
    with pytest.raises(ConnectionFailed, match="the scheduler has gone"), no_stragglers(mark):
        raise ConnectionFailed("the scheduler has gone")
    assert process.wait(10) == -signal.SIGKILL
    assert "had not ended" in caplog.text


def test_others_are_left_alone(straggler: tuple[str, subprocess.Popen[bytes]]) -> None:
    _, process = straggler
    with no_stragglers(new_mark()):
        pass
    assert process.poll() is None
