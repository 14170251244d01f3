"""Time limits, and a loop that outlives the bugs of its connections."""

from __future__ import annotations

import logging
import math
import os
import select
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.dataserver.native.loop import Deadlines, Loop


@given(st.lists(st.tuples(st.sampled_from(["add", "discard"]), st.integers(0, 5))))
def test_what_is_added_and_not_discarded_is_late_exactly_once(steps: list[tuple[str, int]]) -> None:
    late: list[int] = []
    deadlines: Deadlines[int] = Deadlines(10.0, late.append)
    expected: list[int] = []
    for step, item in steps:
        if item in expected:
            expected.remove(item)
        if step == "add":
            deadlines.add(item)
            expected.append(item)
        else:
            deadlines.discard(item)
    deadlines.act(time.monotonic())
    assert late == []
    deadlines.act(time.monotonic() + 11)
    deadlines.act(time.monotonic() + 12)
    assert late == expected
    assert deadlines.next_due() == math.inf


def test_an_action_may_begin_the_same_time_anew() -> None:
    calls: list[str] = []

    def again(item: str) -> None:
        calls.append(item)
        deadlines.add(item)

    deadlines: Deadlines[str] = Deadlines(5.0, again)
    deadlines.add("poll")
    deadlines.act(time.monotonic() + 5)
    assert calls == ["poll"]
    assert deadlines.next_due() < math.inf


class Faulty:
    """An owner whose handler has a bug."""

    def __init__(self, loop: Loop, descriptor: int) -> None:
        self.loop = loop
        self.descriptor = descriptor
        self.aborted = False

    def handle(self, _events: int) -> None:
        raise ZeroDivisionError

    def abort(self) -> None:
        self.aborted = True
        self.loop.forget(self.descriptor)
        self.loop.stopping = True


def test_a_handlers_bug_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    reading, writing = os.pipe()
    faulty = Faulty(loop, reading)
    loop.watch(reading, select.EPOLLIN, faulty.handle, faulty)
    os.write(writing, b"x")
    with caplog.at_level(logging.ERROR):
        loop.run()
    assert faulty.aborted
    assert "handler failed" in caplog.text
    loop.close()
    os.close(reading)
    os.close(writing)


class GoneBefore(Faulty):
    """One that has given its descriptor up when its handler fails."""

    def handle(self, _events: int) -> None:
        self.loop.forget(self.descriptor)
        raise OSError(28, "No space left on device")


def test_a_handler_that_watches_no_more_when_it_fails_ends_its_connection_only() -> None:
    loop = Loop()
    reading, writing = os.pipe()
    faulty = GoneBefore(loop, reading)
    loop.watch(reading, select.EPOLLIN, faulty.handle, faulty)
    os.write(writing, b"x")
    loop.run()
    assert faulty.aborted
    loop.close()
    os.close(reading)
    os.close(writing)


class Turn:
    """A flow that always has more to move."""

    waiting = False

    def __init__(self, loop: Loop, turns: list[Turn]) -> None:
        self.loop = loop
        self.turns = turns

    def run(self) -> None:
        self.turns.append(self)
        self.waiting = True
        self.loop.run_again(self)  # type: ignore[arg-type]


def test_who_becomes_ready_does_not_wait_for_all_that_want_another_turn() -> None:
    loop, turns = Loop(), []
    reading, writing = os.pipe()

    def read(_events: int) -> None:
        loop.stopping = True

    loop.watch(reading, select.EPOLLIN, read, Faulty(loop, reading))
    for _ in range(50):
        loop.run_again(Turn(loop, turns))  # type: ignore[arg-type]
    os.write(writing, b"x")
    loop.run()
    assert len(turns) == 1
    loop.close()
    os.close(reading)
    os.close(writing)


def test_those_that_wait_get_as_many_turns_as_those_that_are_ready_again_and_again() -> None:
    loop, turns, reads = Loop(), [], []
    pipes = [os.pipe() for _ in range(5)]

    def read(_events: int) -> None:
        reads.append(1)
        loop.pumped += 1  # as a flow does
        loop.stopping = len(reads) == 50

    for reading, writing in pipes:
        loop.watch(reading, select.EPOLLIN, read, Faulty(loop, reading))
        os.write(writing, b"x")  # which nobody reads
    waiting = [Turn(loop, turns) for _ in range(5)]
    for turn in waiting:
        loop.run_again(turn)  # type: ignore[arg-type]
    loop.run()
    assert [turns.count(turn) for turn in waiting] == [10] * 5
    loop.close()
    for pipe in pipes:
        os.close(pipe[0])
        os.close(pipe[1])


def test_a_deadline_wakes_a_loop_without_events() -> None:
    loop = Loop()
    stop = loop.deadlines(0.05, lambda loop: setattr(loop, "stopping", True))
    stop.add(loop)
    began = time.monotonic()
    loop.run()
    assert 0.04 < time.monotonic() - began < 5
    loop.close()


class Step:
    """What a time limit belongs to; its owner ends the connection."""

    def __init__(self, owner: Faulty) -> None:
        self.owner = owner

    def too_late(self) -> None:
        raise ZeroDivisionError


def test_a_bug_in_a_time_limit_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scistream.dataserver.native.loop.ESTABLISH_LIMIT_S", 0.01)
    loop = Loop()
    faulty = Faulty(loop, -1)
    loop.establishing.add(Step(faulty))
    with caplog.at_level(logging.ERROR):
        loop.run()
    assert faulty.aborted
    assert "handler failed" in caplog.text
    loop.close()
