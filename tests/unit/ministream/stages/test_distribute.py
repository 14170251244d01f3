"""The distributor between a DAQ and workers that the test plays itself, over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from ministream.errors import (
    ConnectionFailed,
    InputError,
    OutputError,
    PortInUse,
    ProtocolError,
    StageError,
)
from ministream.frames import Frame, FrameKind
from ministream.stages import distribute
from ministream.stages.distribute import DistributeOptions, run
from ministream.stages.distributor_memory import Shares
from ministream.stages.memory import Demand
from ministream.stages.workers import COMPLETE
from ministream.transport import Ended, Inlet, Message, Notice, Outlet
from ministream.wire import timage
from support.driven_daq import Daq
from support.stages import StageThread

WAIT_S = 20.0
ROWS, COLUMNS, PROJECTIONS = 3, 40, 24
CENTER = 17.0


class Distributor(StageThread):
    """The stage, in a thread."""

    def __init__(self, daq: str, **options: Any) -> None:
        values = {
            "workers": 1,
            "center": CENTER,
            "stripes": "none",
            "connect_timeout_s": 2.0,
            "reconnect_timeout_s": 0.5,
        } | options
        super().__init__(run, DistributeOptions(connect=[daq], **values), wait_s=WAIT_S)


class Worker:
    """A worker's inlet; the test receives."""

    def __init__(
        self, address: str, number: int = 0, credits: int = 64, attributes: dict[str, Any] | None = None
    ) -> None:
        self.inlet = Inlet([address], flow=f"worker-{number}", credits=credits, attributes=attributes)

    def next(self) -> Message | Notice | Ended:
        item = self.inlet.receive(WAIT_S)
        assert item is not None
        return item

    def frame(self) -> Frame:
        item = self.next()
        assert isinstance(item, Message), item
        self.inlet.acknowledge(item.sequence)
        return timage.decode(item.payload, "float32")

    def notice(self) -> Notice:
        item = self.next()
        assert isinstance(item, Notice), item
        return item

    def drain(self) -> list[Message | Notice | Ended]:
        """Take everything to the end, and leave; what is needed no more is not returned."""
        items = [self.next()]
        while not isinstance(items[-1], Ended):
            if isinstance(items[-1], Message):
                self.inlet.acknowledge(items[-1].sequence)
            items.append(self.next())
        self.inlet.close()
        return items


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as cleanup:
        yield cleanup


@pytest.fixture
def daq(stack: ExitStack) -> Daq:
    made = Daq()
    stack.callback(made.outlet.close)
    return made


def start(stack: ExitStack, daq: Daq, **options: Any) -> Distributor:
    made = Distributor(daq.outlet.address, **options)
    stack.callback(made.stop)
    return made


def join(stack: ExitStack, address: str, number: int = 0, **options: Any) -> Worker:
    made = Worker(address, number, **options)
    stack.callback(made.inlet.close)
    return made


def view(index: int) -> tuple[np.ndarray, float]:
    """Return counts and angle of one projection: a disc off the axis, and a stripe in row 1."""
    angle = np.pi * index / PROJECTIONS
    t = np.arange(COLUMNS) - CENTER - 4 * np.cos(angle) - 3 * np.sin(angle)
    row = 0.2 * np.sqrt(np.maximum(0, 64 - t**2))
    rows = np.tile(row, (ROWS, 1))
    rows[1, 25] += 0.3
    return (100 + 60_000 * np.exp(-rows)).astype(np.uint16), angle


def test_each_worker_gets_the_attenuation_of_its_rows_of_every_projection(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    workers = []
    for rank in range(2):
        workers.append(join(stack, address, rank))
        workers[-1].inlet.await_welcome(WAIT_S)
    daq.accept()
    daq.send_fields()
    for rank, worker in enumerate(workers):
        message = dict(worker.notice().message)
        assert len(message.pop("scan")) == 32
        assert message == {
            "kind": "assignment",
            "slices_total": ROWS,
            "blocks": [([0, 2, 0], [2, 3, 0])[rank]],
            "columns": COLUMNS,
            "projections": PROJECTIONS,
            "rotation_center": CENTER,
            "name": "test",
        }
    for index in range(PROJECTIONS):
        pixels, angle = view(index)
        daq.send(FrameKind.PROJECTION, pixels, angle)
        wanted = -np.log((pixels - 100.0) / 60_000)
        for worker, rows in zip(workers, (slice(0, 2), slice(2, 3)), strict=True):
            frame = worker.frame()
            np.testing.assert_allclose(frame.pixels, wanted[rows], atol=1e-5)
            assert frame.angle_rad == pytest.approx(angle, abs=1e-6)
            # its number among the projections
            assert frame.sequence == index
            assert frame.kind is FrameKind.PROJECTION
    for worker in workers:
        threading.Thread(target=worker.drain).start()
    daq.finish()
    done = distributor.done
    assert done["projections_received"] == done["projections_total"] == PROJECTIONS
    assert (done["flat_fields"], done["dark_fields"]) == (1, 1)
    assert done["rotation_center"] == CENTER
    assert not done["rotation_center_estimated"]
    assert done["duplicates_dropped"] == done["invalid_pixels"] == 0
    assert daq.left is not None
    assert not daq.left.unacknowledged


def test_the_daq_is_left_alone_until_every_worker_is_there(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    join(stack, address, 0)
    assert daq.outlet.poll(0.5) == []
    join(stack, address, 1)
    daq.accept()


def test_a_worker_that_goes_before_the_start_may_come_again(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    join(stack, address, 0).inlet.close()
    join(stack, address, 1)
    assert daq.outlet.poll(0.3) == []
    join(stack, address, 0)
    daq.accept()


def test_the_slowest_worker_holds_the_daq_back(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2, credits=8)
    address = distributor.address
    quick, slow = (join(stack, address, rank, credits=4) for rank in range(2))
    daq.accept()
    daq.send_fields()
    quick.notice()
    slow.notice()
    # 4 at the slow worker, 8 (those among them) at the distributor: no more
    sent = 0
    quiet_at = time.monotonic() + 1.0
    while time.monotonic() < quiet_at:
        if daq.outlet.can_send(daq.flow):
            daq.send(FrameKind.PROJECTION, *view(sent))
            sent += 1
            quiet_at = time.monotonic() + 1.0
        daq.poll(0.01)
        if isinstance(item := quick.inlet.receive(0), Message):
            quick.inlet.acknowledge(item.sequence)
    assert 4 <= sent <= 8
    slow.frame()
    slow.frame()
    slow.frame()
    # the acknowledgement travels when there is nothing left to receive
    while isinstance(item := slow.inlet.receive(0.3), Message):
        slow.inlet.acknowledge(item.sequence)
    daq.send(FrameKind.PROJECTION, *view(sent))


def test_frames_that_the_daq_sends_twice_are_passed_on_once(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq)
    worker = join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    for index in range(PROJECTIONS):
        daq.send(FrameKind.PROJECTION, *view(index))
        if index % 5 == 0:
            daq.send(FrameKind.PROJECTION, *view(index), again=True)
    daq.outlet.finish(daq.flow)
    items = worker.drain()
    *frames, complete = [item for item in items if isinstance(item, Message)]
    numbers = [timage.decode(item.payload, "float32").sequence for item in frames]
    assert numbers == list(range(PROJECTIONS))
    assert complete.payload == COMPLETE
    assert distributor.done["duplicates_dropped"] == 5
    assert distributor.done["projections_received"] == PROJECTIONS


def test_centre_and_stripes_are_told_before_the_end(stack: ExitStack) -> None:
    # as many views as make a trustworthy estimate
    daq = Daq(projections=48, rows=ROWS)
    stack.callback(daq.outlet.close)
    distributor = start(stack, daq, workers=2, center=None, stripes="sorting")
    address = distributor.address
    workers = [join(stack, address, rank) for rank in range(2)]
    daq.accept()
    daq.send_fields()
    for index in range(48):
        daq.send(FrameKind.PROJECTION, *view(index / 2))  # type: ignore[arg-type]
    daq.outlet.finish(daq.flow)
    drained: list[list[Message | Notice | Ended]] = []
    threads = [threading.Thread(target=lambda w=worker: drained.append(w.drain())) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    done = distributor.done
    assert done["rotation_center_estimated"]
    assert done["rotation_center"] == pytest.approx(CENTER, abs=0.3)
    for items in drained:
        notices = [item for item in items if isinstance(item, Notice)]
        assert notices[0].message["rotation_center"] is None
        last = notices[-1]
        assert last.message == {
            "kind": "calibration",
            "rotation_center": done["rotation_center"],
            "views": 48,
        }
        # before it is told that this was all, and the end
        assert items.index(last) == len(items) - 3
        begin, end, _ = notices[0].message["blocks"][0]
        offset = np.frombuffer(last.payload, "<f4").reshape(end - begin, COLUMNS)
        if begin == 0:
            assert offset[1, 25] == pytest.approx(0.3, abs=0.1)
            assert offset[1, 25] > 5 * abs(offset[0, 25])


def test_a_centre_that_cannot_be_found_is_the_middle(stack: ExitStack, daq: Daq, caplog: Any) -> None:
    distributor = start(stack, daq, center=None)
    worker = join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    for _ in range(PROJECTIONS):
        daq.send(FrameKind.PROJECTION, *view(3))
    daq.outlet.finish(daq.flow)
    worker.drain()
    assert distributor.done["rotation_center"] == (COLUMNS - 1) / 2
    assert not distributor.done["rotation_center_estimated"]
    assert "rotation centre could not be found" in caplog.text


@pytest.mark.parametrize(("threshold", "found"), [(0.08, 2), (0.0, 0)])
def test_zingers_are_taken_off_before_workers_see_them(
    stack: ExitStack, daq: Daq, threshold: float, found: int
) -> None:
    distributor = start(stack, daq, zingers=threshold)
    worker = join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    worker.notice()
    for index in range(PROJECTIONS):
        pixels, angle = view(index)
        wanted = -np.log((pixels - 100.0) / 60_000)
        zinger = index in (5, 15)
        if zinger:
            pixels[2, 20] = 65_000
        daq.send(FrameKind.PROJECTION, pixels, angle)
        left = zinger and not threshold
        assert (abs(worker.frame().pixels[2, 20] - wanted[2, 20]) > 0.1) == left, index
    daq.outlet.finish(daq.flow)
    worker.drain()
    daq.finish_later()
    assert distributor.done["zinger_pixels"] == found


@pytest.mark.parametrize("asked_for", [True, False])
def test_fewer_projections_than_announced_are_a_warning_unless_they_were_asked_for(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture, *, asked_for: bool
) -> None:
    distributor = start(stack, daq)
    worker = join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    for index in range(3):
        daq.send(FrameKind.PROJECTION, *view(index))
    if asked_for:
        daq.outlet.notify(daq.flow, {"kind": "ended_early", "reason": "three are enough"})
        # what a later version may tell
        daq.outlet.notify(daq.flow, {"kind": "weather", "reason": "rain"})
    daq.outlet.finish(daq.flow)
    assert sum(isinstance(item, Message) for item in worker.drain()) == 3 + 1
    daq.finish_later()
    done = distributor.done
    assert done["projections_received"] == 3
    assert done.get("ended_early") == ("three are enough" if asked_for else None)
    assert ("has announced 24 projections and sent 3" in caplog.text) is not asked_for


def test_the_slices_of_a_worker_that_leaves_go_to_the_others_with_their_history(
    stack: ExitStack, daq: Daq
) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    workers = []
    for rank in range(2):
        workers.append(join(stack, address, rank))
        workers[-1].inlet.await_welcome(WAIT_S)
    daq.accept()
    daq.send_fields()
    wanted = []
    for index in range(3):
        pixels, angle = view(index)
        daq.send(FrameKind.PROJECTION, pixels, angle)
        wanted.append(-np.log((pixels - 100.0) / 60_000))
    workers[0].notice()
    for _ in range(3):
        workers[0].frame()
    workers[1].notice()
    workers[1].frame()
    workers[1].inlet.close("it was told to stop")
    # what it has goes on; what is new comes from the beginning, and then both together
    assert workers[0].notice().message["blocks"] == [[0, 2, 3], [2, 3, 0]]
    for index in range(3):
        frame = workers[0].frame()
        assert frame.sequence == index
        np.testing.assert_allclose(frame.pixels, wanted[index][2:], atol=1e-5)
    daq.send(FrameKind.PROJECTION, *view(3))
    frame = workers[0].frame()
    assert (frame.sequence, len(frame.pixels)) == (3, ROWS)
    threading.Thread(target=workers[0].drain).start()
    daq.finish()
    done = distributor.done
    assert (done["workers_joined"], done["workers_lost"]) == (2, 1)
    assert [(part["slice_begin"], part["slice_count"]) for part in done["parts"]] == [(0, ROWS)]


def test_when_the_last_worker_has_gone_for_too_long_it_is_a_stage_error(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq)
    worker = join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    daq.send(FrameKind.PROJECTION, *view(0))
    worker.notice()
    worker.inlet.close()
    distributor.join()
    assert isinstance(distributor.error, StageError)
    assert "the last worker has gone" in str(distributor.error)


def test_one_worker_too_many_is_a_spare(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=ROWS)
    address = distributor.address
    workers = [join(stack, address, number) for number in range(ROWS)]
    daq.accept()
    daq.send_fields()
    daq.send(FrameKind.PROJECTION, *view(0))
    for worker in workers:
        worker.notice()
    spare = join(stack, address, ROWS)
    assert spare.notice().message["blocks"] == []
    workers[1].inlet.close()
    [(begin, end, following)] = spare.notice().message["blocks"]
    assert (end - begin, following) == (1, 0)
    assert spare.frame().sequence == 0


def test_a_daq_that_goes_is_a_failed_connection(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq)
    worker = join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    daq.outlet.close()
    distributor.join()
    assert isinstance(distributor.error, ConnectionFailed)
    with pytest.raises(ConnectionFailed):
        worker.drain()


def test_a_daq_that_is_not_there_is_a_failed_connection(stack: ExitStack) -> None:
    distributor = Distributor("tcp://127.0.0.1:9", connect_timeout_s=0.3)
    stack.callback(distributor.stop)
    join(stack, distributor.address)
    distributor.join()
    assert isinstance(distributor.error, ConnectionFailed)
    assert "127.0.0.1:9" in str(distributor.error)


def test_a_projection_before_any_flat_field_is_an_input_error(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq)
    join(stack, distributor.address)
    daq.accept()
    daq.send(FrameKind.PROJECTION, *view(0))
    distributor.join()
    assert isinstance(distributor.error, InputError)
    assert "flat field" in str(distributor.error)


def test_more_projections_than_announced_are_a_protocol_error(stack: ExitStack) -> None:
    daq = Daq(projections=1)
    stack.callback(daq.outlet.close)
    distributor = start(stack, daq)
    join(stack, distributor.address)
    daq.accept()
    daq.send_fields()
    daq.send(FrameKind.PROJECTION, *view(0))
    daq.send(FrameKind.PROJECTION, *view(1))
    distributor.join()
    assert isinstance(distributor.error, ProtocolError)
    assert "announced" in str(distributor.error)


def test_what_is_no_daq_is_a_protocol_error(stack: ExitStack) -> None:
    other = Outlet(description={"stage": "something else"})
    stack.callback(other.close)
    distributor = Distributor(other.address)
    stack.callback(distributor.stop)
    join(stack, distributor.address)
    give_up_at = time.monotonic() + WAIT_S
    while distributor.error is None:
        other.poll(0.1)
        assert time.monotonic() < give_up_at
    assert isinstance(distributor.error, ProtocolError)
    assert "is it a DAQ" in str(distributor.error)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": ROWS + 1}, "4 workers for 3 detector rows"), ({"center": 40.0}, "not on the detector")],
)
def test_options_that_do_not_fit_the_scan_are_input_errors(
    stack: ExitStack, daq: Daq, options: dict[str, Any], message: str
) -> None:
    distributor = start(stack, daq, **options)
    address = distributor.address
    for rank in range(options.get("workers", 1)):
        join(stack, address, rank)
    daq.accept()
    distributor.join()
    assert isinstance(distributor.error, InputError)
    assert message in str(distributor.error)


def test_a_scan_that_finds_no_room_is_an_output_error_with_the_numbers(stack: ExitStack) -> None:
    daq = Daq(projections=10**9, rows=2048, columns=2048)
    stack.callback(daq.outlet.close)
    distributor = start(stack, daq)
    join(stack, distributor.address)
    daq.accept()
    distributor.join()
    assert isinstance(distributor.error, OutputError)
    assert "needs 16777" in str(distributor.error)


def test_an_address_in_use_is_said_so(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, listen=daq.outlet.address)
    distributor.join()
    assert isinstance(distributor.error, PortInUse)


@pytest.mark.parametrize("moment", ["waiting for workers", "streaming"])
def test_it_ends_soon_when_it_is_told_to(stack: ExitStack, daq: Daq, moment: str) -> None:
    distributor = start(stack, daq)
    if moment == "streaming":
        join(stack, distributor.address)
        daq.accept()
        daq.send_fields()
    began = time.monotonic()
    distributor.stop()
    assert time.monotonic() - began < 3
    assert distributor.error is None
    assert not any(event["event"] == "done" for event in distributor.events)


def with_room_for(slices: int, **said: Any) -> dict[str, Any]:
    """What a worker says at joining that has memory for so many slices, and for no more."""
    demand = Demand(algorithm="sirt", columns=COLUMNS, projections=PROJECTIONS)
    return {"algorithm": "sirt", "threads": 1, "memory": demand.bytes_for(slices), **said}


def join_in_order(stack: ExitStack, address: str, *said: dict[str, Any]) -> list[Worker]:
    workers = []
    for rank, attributes in enumerate(said):
        workers.append(join(stack, address, rank, attributes=attributes))
        workers[-1].inlet.await_welcome(WAIT_S)
    return workers


def test_nobody_gets_more_slices_than_there_is_memory_for(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    workers = join_in_order(stack, address, with_room_for(1), with_room_for(3))
    daq.accept()
    assert [worker.notice().message["blocks"] for worker in workers] == [[[0, 1, 0]], [[1, 3, 0]]]


def test_a_scan_that_does_not_fit_is_refused_before_its_first_projection(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    join_in_order(stack, address, with_room_for(1), with_room_for(1))
    daq.accept()
    distributor.join()
    assert isinstance(distributor.error, InputError)
    told = str(distributor.error)
    assert "3 slices of test (40 columns, 24 projections) do not fit into the memory of 2 workers" in told
    assert "which have room for 2: 1 at worker-0, 1 at worker-1" in told
    assert "start 3 workers of this size" in told
    assert not any(event["event"] == "progress" for event in distributor.events)


@pytest.mark.parametrize("comes", [True, False])
def test_without_room_for_a_lost_workers_slices_another_one_is_waited_for(
    stack: ExitStack, daq: Daq, caplog: pytest.LogCaptureFixture, comes: bool
) -> None:
    distributor = start(stack, daq, workers=2, reconnect_timeout_s=30.0 if comes else 1.0)
    address = distributor.address
    workers = join_in_order(stack, address, with_room_for(2), with_room_for(2))
    daq.accept()
    daq.send_fields()
    assert [worker.notice().message["blocks"] for worker in workers] == [[[0, 2, 0]], [[2, 3, 0]]]
    daq.send(FrameKind.PROJECTION, *view(0))
    assert [worker.frame().sequence for worker in workers] == [0, 0]
    workers[0].inlet.close()
    if comes:
        wait_until(lambda: "waiting 30 s for another worker" in caplog.text)
        # who is there goes on meanwhile
        daq.send(FrameKind.PROJECTION, *view(1))
        assert workers[1].frame().sequence == 1
        other = join(stack, address, 7, attributes=with_room_for(2))
        assert other.notice().message["blocks"] == [[0, 2, 0]]
        assert other.frame().sequence == 0
    else:
        distributor.join()
        assert isinstance(distributor.error, StageError)
        assert "no other has come for 1 s" in str(distributor.error)


def test_one_that_was_started_again_takes_its_place_with_what_it_has(stack: ExitStack, daq: Daq) -> None:
    distributor = start(stack, daq, workers=2)
    address = distributor.address
    workers = join_in_order(stack, address, {}, {})
    daq.accept()
    daq.send_fields()
    scans = {worker.notice().message["scan"] for worker in workers}
    for index in range(4):
        daq.send(FrameKind.PROJECTION, *view(index))
        assert [worker.frame().sequence for worker in workers] == [index, index]
    # the first is still there, for all that the distributor knows
    again = join(
        stack, address, 9, attributes={"replaces": "worker-0", "scan": scans.pop(), "blocks": [[0, 2, 3]]}
    )
    assert again.notice().message["blocks"] == [[0, 2, 3]]
    assert again.frame().sequence == 3
    with pytest.raises(ConnectionFailed, match="was started in its place"):
        workers[0].drain()
    daq.send(FrameKind.PROJECTION, *view(4))
    assert (again.frame().sequence, workers[1].frame().sequence) == (4, 4)


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)  # the interval of a poll


def test_workers_are_sent_no_more_than_there_is_memory_for(
    stack: ExitStack, daq: Daq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for three projections of all rows: two workers have them between them, and go on all the same."""
    room = 3 * 4 * ROWS * COLUMNS
    monkeypatch.setattr(distribute, "shares_of", lambda *_: Shares(credits=64, under_way_bytes=room))
    distributor = start(stack, daq, workers=2, memory=1 << 30)
    address = distributor.address
    workers = join_in_order(stack, address, {}, {})
    daq.accept()
    daq.send_fields()
    for worker in workers:
        assert worker.notice().message["kind"] == "assignment"
    for index in range(PROJECTIONS):
        daq.send(FrameKind.PROJECTION, *view(index))
    rows_here = 0
    for worker, rows in zip(workers, (2, 1), strict=True):
        count = 0
        while worker.inlet.receive(0.5) is not None:
            count += 1
        assert 1 <= count <= 4
        rows_here += count * rows
        worker.inlet.acknowledge(count - 1)
    assert rows_here <= 4 * ROWS
    for worker in workers:
        threading.Thread(target=worker.drain).start()
    daq.finish()
    assert distributor.done["projections_received"] == PROJECTIONS
