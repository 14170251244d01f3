"""A worker of ours at a distributor of the mini-app, which the tests play by the described wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from ministream.errors import ConnectionFailed, InputError, ProtocolError
from ministream.stages.assignment import Assignment
from ministream.stages.rank_inlet import RankInlet
from ministream.stages.workers import COMPLETE
from ministream.transport import Ended, Message, Notice
from ministream.transport.rank_client import RankClient
from ministream.wire import timage
from support.delay_relay import DelayRelay
from support.tmq_peers import Distributor, free_ports

WAIT_S = 20.0
ROWS, COLUMNS = 5, 8


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as cleanup:
        yield cleanup


def projections(count: int = 4) -> list[tuple[int, float, float, np.ndarray]]:
    """As the mini-app plays them: not in the order of their numbers; the centre is found after two."""
    return [
        (
            10 * index % 7,
            0.3 * index,
            4.0 if index < 2 else 5.25,
            np.full((ROWS, COLUMNS), index, "f4") + rows(),
        )
        for index in range(count)
    ]


def rows() -> np.ndarray:
    return np.arange(ROWS)[:, np.newaxis] / 10 + np.zeros((ROWS, COLUMNS))


def start(stack: ExitStack, **options: Any) -> Distributor:
    distributor = Distributor(free_ports(3), options.pop("projections", projections()), **options)
    distributor.start()
    stack.callback(distributor.stop)
    return distributor


def inlet(stack: ExitStack, port: int, rank: int, ranks: int, *, most: int = 10) -> RankInlet:
    client = RankClient("127.0.0.1", port, rank=rank, ranks=ranks, connect_timeout_s=5.0)
    return stack.enter_context(RankInlet(client, projections=most))


def take_all(one: RankInlet) -> None:
    """Acknowledge what comes, until something fails."""
    while not isinstance(item := next_of(one), Ended):
        if isinstance(item, Message):
            one.acknowledge(item.sequence)


def wait_long(one: RankInlet) -> None:
    for _ in range(100):
        one.receive(0.1)


def next_of(one: RankInlet) -> Message | Notice | Ended:
    item = one.receive(WAIT_S)
    assert item is not None
    return item


@pytest.mark.parametrize("padding", [0, 8])
def test_each_rank_gets_its_slices_and_every_projection_of_them(stack: ExitStack, padding: int) -> None:
    distributor = start(stack, padding=padding)
    inlets = [inlet(stack, distributor.port, rank, 2) for rank in range(2)]
    for one, (begin, end) in zip(inlets, ((0, 3), (3, 5)), strict=True):
        notice = next_of(one)
        assert isinstance(notice, Notice)
        assignment = Assignment.parse(notice.message)
        assert assignment.blocks == ((range(begin, end), 0),)
        assert (assignment.slices_total, assignment.columns, assignment.projections) == (ROWS, COLUMNS, 10)
        assert assignment.rotation_center is None
    for index, (_, theta, center, _) in enumerate(projections()):
        for one, (begin, end) in zip(inlets, ((0, 3), (3, 5)), strict=True):
            item = next_of(one)
            if index in (0, 2):
                # counted from the middle of the first column
                assert isinstance(item, Notice)
                assert item.message["rotation_center"] == center - 0.5
                item = next_of(one)
            assert isinstance(item, Message)
            frame = timage.decode(item.payload, "float32")
            assert (frame.sequence, item.sequence) == (index, index)
            assert frame.angle_rad == pytest.approx(theta, abs=1e-6)
            np.testing.assert_allclose(frame.pixels, index + rows()[begin:end], rtol=1e-6)
        # lock step: none gets its next one before both have done with this one
        assert inlets[0].receive(0.05) is None
        for one in inlets:
            one.acknowledge(index)
    for one in inlets:
        last = next_of(one)
        assert isinstance(last, Message)
        assert last.payload == COMPLETE
        one.acknowledge(last.sequence)
        assert next_of(one) == Ended(4)
        assert next_of(one) == Ended(4)
    distributor.join(WAIT_S)
    assert distributor.failure is None


def test_a_distributor_that_is_not_there_is_a_failed_connection(stack: ExitStack) -> None:
    client = RankClient("127.0.0.1", free_ports(1), rank=0, ranks=1, connect_timeout_s=0.2)
    one = stack.enter_context(RankInlet(client, projections=1))
    with pytest.raises(ConnectionFailed, match=r"no answer after 0\.2 s"):
        wait_long(one)


def test_a_wrong_sequence_number_is_a_protocol_error(stack: ExitStack) -> None:
    distributor = start(stack, wrong_sequence_at=1)
    one = inlet(stack, distributor.port, 0, 1)
    with pytest.raises(ProtocolError, match="message 7 has come, and 5 is the next one"):
        take_all(one)


def test_more_projections_than_expected_are_an_input_error(stack: ExitStack) -> None:
    distributor = start(stack)
    one = inlet(stack, distributor.port, 0, 1, most=3)
    with pytest.raises(InputError, match="more than 3 projections"):
        take_all(one)


def test_a_connection_that_is_lost_is_said_so(stack: ExitStack) -> None:
    distributor = start(stack)
    relay = stack.enter_context(DelayRelay(f"tcp://127.0.0.1:{distributor.port}"))
    one = inlet(stack, int(relay.address.rpartition(":")[2]), 0, 1)
    assert isinstance(next_of(one), Notice)
    assert isinstance(next_of(one), Notice)
    assert isinstance(next_of(one), Message)
    relay.cut()
    with pytest.raises(ConnectionFailed, match="the connection was lost"):
        wait_long(one)


@pytest.mark.parametrize(("rank", "ranks", "port"), [(2, 2, 5560), (-1, 2, 5560), (0, 1, 0), (1, 2, 65535)])
def test_ranks_and_ports_are_checked(rank: int, ranks: int, port: int) -> None:
    with pytest.raises(InputError):
        RankClient("127.0.0.1", port, rank=rank, ranks=ranks)
