"""The distributor serves workers of the mini-app; the tests play them in lock step, by the described wire."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from ministream.errors import InputError, PortInUse, StageError
from ministream.frames import FrameKind
from ministream.stages.distribute import DistributeOptions, run
from ministream.stages.workers import COMPLETE
from ministream.transport import Ended, Inlet, Message
from ministream.wire import timage
from support.driven_daq import Daq
from support.stages import StageThread
from support.tmq_peers import DATA_REQ, DATAINFO_REQ, FIN, Worker, free_ports, header

WAIT_S = 20.0
ROWS, COLUMNS, PROJECTIONS = 5, 40, 12
CENTER = 17.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as cleanup:
        yield cleanup


@pytest.fixture
def daq(stack: ExitStack) -> Daq:
    made = Daq(rows=ROWS, columns=COLUMNS, projections=PROJECTIONS)
    stack.callback(made.outlet.close)
    return made


class Served:
    """The distributor, in a thread, and where its ranks ask."""

    def __init__(self, stack: ExitStack, daq: Daq, **options: Any) -> None:
        self.port = options.pop("port", None) or free_ports(4)
        values = {
            "workers": 0,
            "center": CENTER,
            "stripes": "none",
            "connect_timeout_s": 5.0,
            "reconnect_timeout_s": 0.5,
            "worker_timeout_s": 0.3,
            "tmq": f"tcp://127.0.0.1:{self.port}",
        } | options
        self.stage = StageThread(
            run, DistributeOptions(connect=[daq.outlet.address], **values), wait_s=WAIT_S
        )
        stack.callback(self.stage.stop)
        self.address = self.stage.address

    def worker(self, stack: ExitStack, rank: int, ranks: int) -> Worker:
        return stack.enter_context(Worker("127.0.0.1", self.port, rank, ranks))


def view(index: int) -> tuple[np.ndarray, float]:
    """Return counts and angle of one projection; every row and view is another."""
    rows = 0.1 + 0.01 * np.arange(ROWS)[:, np.newaxis] + 0.002 * index + np.zeros((ROWS, COLUMNS))
    return (100 + 60_000 * np.exp(-rows)).astype(np.uint16), np.pi * index / PROJECTIONS


def wanted(index: int) -> np.ndarray:
    return -np.log((view(index)[0] - 100.0) / 60_000)


def send_scan(daq: Daq, count: int = PROJECTIONS) -> None:
    daq.accept()
    daq.send_fields()
    for index in range(count):
        pixels, angle = view(index)
        daq.send(FrameKind.PROJECTION, pixels, angle)


def check(found: list[tuple[int, float, float, np.ndarray]], begin: int, count: int) -> None:
    """Every projection once and in order, with angle, centre and these rows."""
    assert [number for number, *_ in found] == list(range(PROJECTIONS))
    for index, theta, center, rows in found:
        assert theta == pytest.approx(view(index)[1], abs=1e-6)
        assert center == CENTER + 0.5
        np.testing.assert_allclose(rows, wanted(index)[begin : begin + count], rtol=1e-4)


def begin(workers: list[Worker]) -> None:
    """Greet in the order in which they are given; then learn."""
    for worker in workers:
        worker.greet()
    for worker in workers:
        worker.learn()


def test_each_rank_gets_its_rows_of_every_projection_one_by_one(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq)
    workers = [served.worker(stack, rank, 2) for rank in range(2)]
    # rank 1 comes first, to a port that is not there yet
    workers[1].greet()
    workers[0].greet()
    send_scan(daq)
    for worker in workers:
        worker.learn()
    assert [(worker.total, worker.begin, worker.count, worker.columns) for worker in workers] == [
        (ROWS, 0, 3, COLUMNS),
        (ROWS, 3, 2, COLUMNS),
    ]
    for worker in workers:
        worker.ask()
        projection = worker.projection()
        assert projection is not None
        np.testing.assert_allclose(
            projection[3], wanted(0)[worker.begin : worker.begin + worker.count], rtol=1e-4
        )
        # no answer without a question
        assert worker.silent()
    # one may be ahead of the other, by as much as the DAQ's credits allow
    for index in range(1, 5):
        workers[1].ask()
        projection = workers[1].projection()
        assert projection is not None
        assert projection[0] == index


def test_ranks_alone_make_a_whole_scan(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq)
    workers = [served.worker(stack, rank, 3) for rank in range(3)]
    for worker in workers:
        worker.greet()
    send_scan(daq)
    for worker in workers:
        worker.learn()
        worker.ask()
    found: list[list[Any]] = [[], [], []]
    for index in range(PROJECTIONS):
        for worker, one in zip(workers, found, strict=True):
            projection = worker.projection()
            assert projection is not None, index
            one.append(projection)
            worker.ask()
    daq.finish()
    # every question but the last was answered with a projection; the last one with the end
    assert [worker.projection() for worker in workers] == [None, None, None]
    for worker, one in zip(workers, found, strict=True):
        check(one, worker.begin, worker.count)
        assert worker.sequence == 2 + 2 * PROJECTIONS + 3
    done = served.stage.done
    assert done["projections_received"] == PROJECTIONS
    assert done["parts"] == []


def test_ranks_and_workers_of_ours_both_get_everything(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq, workers=1)
    worker = served.worker(stack, 0, 1)
    worker.greet()
    inlet = Inlet([served.address], flow="ours", attributes={})
    stack.callback(inlet.close)
    send_scan(daq)
    worker.learn()
    found = []
    for index in range(PROJECTIONS):
        worker.ask()
        found.append(worker.projection())
        while not isinstance(item := inlet.receive(WAIT_S), Message):
            assert item is not None
        np.testing.assert_allclose(timage.decode(item.payload, "float32").pixels, wanted(index), rtol=1e-4)
        inlet.acknowledge(item.sequence)
    daq.outlet.finish(daq.flow)
    worker.ask()
    assert worker.projection() is None
    check([one for one in found if one is not None], 0, ROWS)
    ended = False
    while not ended:
        daq.poll(0.01)
        item = inlet.receive(0.05)
        if isinstance(item, Message) and item.payload == COMPLETE:
            inlet.acknowledge(item.sequence)
        ended = isinstance(item, Ended)
    inlet.close()
    daq.finish_later()
    assert served.stage.done["projections_received"] == PROJECTIONS


def test_the_slowest_rank_holds_the_daq_back(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq, credits=4)
    workers = [served.worker(stack, rank, 2) for rank in range(2)]
    for worker in workers:
        worker.greet()
    send_scan(daq, 4)
    for worker in workers:
        worker.learn()
        worker.ask()
    for _ in range(4):
        assert workers[0].projection() is not None
        workers[0].ask()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        daq.poll(0.05)
    assert not daq.outlet.can_send(daq.flow)
    for _ in range(4):
        assert workers[1].projection() is not None
        workers[1].ask()
    until = time.monotonic() + WAIT_S
    while not daq.outlet.can_send(daq.flow):
        assert time.monotonic() < until
        daq.poll(0.05)


# ---------------------------------------------------------------------- ranks that fail


def test_a_second_worker_of_a_rank_waits_and_takes_over_from_the_first(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(stack, daq, worker_timeout_s=WAIT_S)
    first = Worker("127.0.0.1", served.port, 0, 1)
    first.greet()
    send_scan(daq)
    first.learn()
    first.ask()
    assert first.projection() is not None
    second = served.worker(stack, 0, 1)
    second.greet()
    assert second.silent()
    first.ask()
    assert first.projection() is not None
    assert "second worker of rank 0" in caplog.text
    first.__exit__()
    second.learn()
    daq.outlet.finish(daq.flow)
    check(second.rest(), 0, ROWS)
    daq.finish_later()
    assert served.stage.done["projections_received"] == PROJECTIONS
    assert "rank 0, which has slices 0 to 4, has gone after 1 projections" in caplog.text


def wrong_sequence(worker: Worker) -> None:
    worker.send(DATA_REQ, sequence=worker.sequence + 2)


def wrong_kind(worker: Worker) -> None:
    worker.send(DATAINFO_REQ, struct.pack("<II", worker.rank, worker.ranks))


def wrong_size(worker: Worker) -> None:
    worker.socket.send(struct.pack("<QQQ", worker.sequence, DATA_REQ, 24) + bytes(8))


@pytest.mark.parametrize(
    ("fault", "words", "told"),
    [
        (wrong_sequence, "its message is number 6, not 4", True),
        (wrong_kind, "hello is out of place", True),
        (wrong_size, "says that it has 24 bytes, and has 32", False),
    ],
)
def test_a_rank_that_asks_wrongly_loses_nothing_for_the_other_and_can_be_started_again(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture, fault: Any, words: str, told: bool
) -> None:
    served = Served(stack, daq, worker_timeout_s=WAIT_S)
    good, bad = (served.worker(stack, rank, 2) for rank in range(2))
    good.greet()
    bad.greet()
    send_scan(daq)
    for worker in (good, bad):
        worker.learn()
    bad.ask()
    assert bad.projection() is not None
    fault(bad)
    if told:
        assert header(bad.receive())[1] == FIN
    else:
        assert bad.silent()
    daq.outlet.finish(daq.flow)
    check(good.rest(), 0, 3)
    assert words in caplog.text
    again = served.worker(stack, 1, 2)
    again.greet()
    again.learn()
    check(again.rest(), 3, 2)
    daq.finish_later()
    assert served.stage.done["projections_received"] == PROJECTIONS


def test_a_rank_that_dies_is_named_after_the_others_have_everything(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(stack, daq)
    good, dies = (served.worker(stack, rank, 2) for rank in range(2))
    good.greet()
    dies.greet()
    send_scan(daq)
    for worker in (good, dies):
        worker.learn()
    dies.ask()
    assert dies.projection() is not None
    dies.__exit__()
    daq.outlet.finish(daq.flow)
    check(good.rest(), 0, 3)
    daq.finish_later()
    served.stage.join()
    assert served.stage.events[-1]["event"] == "done"
    assert isinstance(served.stage.error, StageError)
    assert "rank 1 (slices 3 to 4)" in str(served.stage.error)
    assert "rank 1, which has slices 3 to 4, has gone after 0 projections" in caplog.text


def test_when_all_ranks_have_gone_for_too_long_it_is_a_stage_error(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq)
    only = served.worker(stack, 0, 1)
    only.greet()
    send_scan(daq, 2)
    only.learn()
    only.__exit__()
    served.stage.join()
    assert isinstance(served.stage.error, StageError)
    assert "rank 0 (slices 0 to 4)" in str(served.stage.error)


@pytest.mark.parametrize(
    ("rank", "body", "words"),
    [
        (0, struct.pack("<II", 1, 3), "it is rank 1"),
        (0, struct.pack("<II", 0, 2000), "one of 2000; at most 1024"),
    ],
)
def test_a_first_message_that_cannot_be_used_is_not_answered(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture, rank: int, body: bytes, words: str
) -> None:
    served = Served(stack, daq)
    worker = served.worker(stack, rank, 3)
    worker.send(DATAINFO_REQ, body)
    assert worker.silent()
    assert words in caplog.text


def test_ranks_that_disagree_on_how_many_they_are(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(stack, daq)
    worker = served.worker(stack, 0, 2)
    other = served.worker(stack, 1, 3)
    worker.greet()
    other.greet()
    assert other.silent()
    assert "it is one of 3, and rank 0 was one of 2" in caplog.text


def test_a_stranger_at_the_port_does_not_disturb(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(stack, daq)
    worker = served.worker(stack, 0, 1)
    worker.greet()
    send_scan(daq)
    worker.learn()
    stranger = served.worker(stack, 0, 1)
    stranger.socket.send(b"hello")
    late = served.worker(stack, 0, 1)
    late.send(DATA_REQ, sequence=7)
    late.sequence = 8
    assert header(late.receive())[1] == FIN
    until = time.monotonic() + WAIT_S
    while "5 bytes are no message" not in caplog.text:
        assert time.monotonic() < until
        time.sleep(0.01)
    daq.outlet.finish(daq.flow)
    check(worker.rest(), 0, ROWS)
    daq.finish_later()
    assert served.stage.done["projections_received"] == PROJECTIONS
    assert "it asks without having begun" in caplog.text


# ---------------------------------------------------------------------- what cannot be


def test_more_ranks_than_rows_are_an_input_error(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq, port=free_ports(ROWS + 1))
    workers = [served.worker(stack, rank, ROWS + 1) for rank in range(ROWS + 1)]
    for worker in workers:
        worker.greet()
    daq.accept()
    served.stage.join()
    assert isinstance(served.stage.error, InputError)
    assert "6 workers for 5 detector rows" in str(served.stage.error)


def test_nobody_to_serve_is_an_input_error(stack: ExitStack, daq: Daq) -> None:
    served = Served(stack, daq, tmq=None)
    served.stage.join()
    assert isinstance(served.stage.error, InputError)


def test_a_port_of_a_later_rank_that_is_taken_is_said_so(stack: ExitStack, daq: Daq) -> None:
    port = free_ports(2)
    taken = stack.enter_context(socket.socket())
    taken.bind(("127.0.0.1", port + 1))
    taken.listen()
    served = Served(stack, daq, port=port)
    served.worker(stack, 0, 2).greet()
    served.stage.join()
    assert isinstance(served.stage.error, PortInUse)
    assert str(port + 1) in str(served.stage.error)
