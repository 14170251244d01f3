"""What is asked of workers, and what becomes of those that do not answer."""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from scistream.dataserver.tree.children import Children
from scistream.dataserver.tree.fanout import ANSWER_LIMIT_S, Fanout
from scistream.dataserver.tree.work import Work


class Deaf(Work):
    """Workers that never answer."""

    @property
    def workers(self) -> int:
        return 2

    def prepare(self) -> None:
        pass

    def run(self, index: int, control: socket.socket) -> None:
        # as one has to be that is killed: it can do nothing about it
        os.kill(os.getpid(), signal.SIGSTOP)

    def forget(self, slot: int, index: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children(Deaf(), lambda: None)
    for index in range(2):
        made.fork(index)
    yield made
    for child in made:
        child.kill("the test ends")
    made.end()


def test_a_worker_that_hangs_is_killed_once(children: Children, caplog: pytest.LogCaptureFixture) -> None:
    fanout = Fanout(children, lambda *_: None)
    fanout.ask({"operation": "statistics", "key": 1}, only=0)
    now_s = time.monotonic()
    assert 0 < fanout.left_s(now_s) <= ANSWER_LIMIT_S
    fanout.kill_hung(now_s)
    assert caplog.records == []
    late_s = now_s + ANSWER_LIMIT_S
    for _ in range(3):  # its death is not seen at once
        fanout.kill_hung(late_s)
    assert [record.getMessage() for record in caplog.records] == [
        f"worker 0 (pid {children[0].pid}) is killed: it has not answered for 8 s"
    ]
    assert fanout.left_s(late_s) == math.inf
    assert "SIGKILL" in children.bury(children[0])


def test_of_two_that_hang_the_one_that_was_asked_first_is_the_next(children: Children) -> None:
    fanout = Fanout(children, lambda *_: None)
    fanout.ask({"operation": "statistics", "key": 1}, only=0)
    first_s = fanout.left_s(0.0)
    fanout.ask({"operation": "statistics", "key": 1}, only=1)
    assert fanout.left_s(0.0) == first_s
    fanout.kill_hung(first_s)
    assert [child.killed for child in children] == [True, False]
    assert fanout.left_s(0.0) > first_s
