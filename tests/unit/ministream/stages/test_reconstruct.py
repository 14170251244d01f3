"""A worker whose distributor the test plays itself, over real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ministream.errors import (
    ConnectionFailed,
    InputError,
    OutputError,
    PortInUse,
    ProtocolError,
)
from ministream.frames import Frame, FrameKind
from ministream.sinks import read_volume
from ministream.stages.broadcast import VolumeSubscriber
from ministream.stages.reconstruct import ReconstructOptions, run
from ministream.stages.worker_results import ResultOptions
from ministream.stages.workers import COMPLETE
from ministream.transport import Acknowledged, FlowEvent, Joined, Left, Outlet
from ministream.wire import timage
from support.stages import StageThread
from support.tmq_peers import Distributor as MiniAppDistributor
from support.tmq_peers import free_ports

WAIT_S = 30.0
COLUMNS, VIEWS, SLICES = 32, 24, 2
CENTER = 17.0


class Worker(StageThread):
    """The stage, in a thread."""

    def __init__(self, distributor: str, **options: Any) -> None:
        values = {"threads": 1, "window": 8, "refine": 2, "connect_timeout_s": 2.0} | options
        names = {entry.name for entry in fields(ResultOptions)} & values.keys()
        results = ResultOptions(**{name: values.pop(name) for name in names})
        chosen = ReconstructOptions(connect=[distributor], results=results, **values)
        super().__init__(run, chosen, wait_s=WAIT_S)


class Distributor:
    """A distributor's outlet; the test sends."""

    def __init__(self, address: str = "tcp://127.0.0.1:0") -> None:
        self.outlet = Outlet(address, description={})
        self.flow = ""
        self.attributes: Mapping[str, Any] = {}
        self.events: list[FlowEvent] = []

    def accept(self) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while not self.flow:
            assert time.monotonic() < give_up_at
            for event in self.outlet.poll(0.1):
                if isinstance(event, Joined):
                    self.flow, self.attributes = event.flow, event.attributes

    def assign(self, **changes: Any) -> None:
        message = {
            "kind": "assignment",
            "scan": "a scan",
            "slices_total": 5,
            "blocks": [[3, 3 + SLICES, 0]],
            "columns": COLUMNS,
            "projections": VIEWS,
            "rotation_center": CENTER,
            "name": "test",
        }
        self.outlet.notify(self.flow, message | changes)

    def calibrate(self, center: float | None, stripes: bytes = b"") -> None:
        self.outlet.notify(self.flow, {"kind": "calibration", "rotation_center": center, "views": 1}, stripes)

    def send(self, index: int, rows: np.ndarray | None = None) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while not self.outlet.can_send(self.flow):
            assert time.monotonic() < give_up_at
            self.events += self.outlet.poll(0.05)
        angle = np.pi * index / VIEWS
        if rows is None:
            t = np.arange(COLUMNS) - CENTER - 3 * np.cos(angle)
            rows = np.tile(0.1 * np.sqrt(np.maximum(0, 49 - t**2)), (SLICES, 1)).astype(np.float32)
        frame = Frame(sequence=index, kind=FrameKind.PROJECTION, pixels=rows, angle_rad=angle)
        self.outlet.send(self.flow, timage.encode(frame))

    def complete(self) -> None:
        """Say that this was all, and wait until everything is written."""
        give_up_at = time.monotonic() + WAIT_S
        while not self.outlet.can_send(self.flow):
            assert time.monotonic() < give_up_at
            self.events += self.outlet.poll(0.05)
        self.outlet.send(self.flow, COMPLETE)
        while self.outlet.outstanding(self.flow):
            assert time.monotonic() < give_up_at
            self.events += self.outlet.poll(0.05)

    def finish(self) -> None:
        self.complete()
        if self.flow in self.outlet.flows:
            self.outlet.finish(self.flow)

    def wait_for(self, kind: type[FlowEvent]) -> FlowEvent:
        give_up_at = time.monotonic() + WAIT_S
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    return event
            assert time.monotonic() < give_up_at
            self.events += self.outlet.poll(0.1)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as cleanup:
        yield cleanup


@pytest.fixture
def distributor(stack: ExitStack) -> Distributor:
    made = Distributor()
    stack.callback(made.outlet.close)
    return made


def start(stack: ExitStack, distributor: Distributor, **options: Any) -> Worker:
    made = Worker(distributor.outlet.address, **options)
    stack.callback(made.stop)
    return made


def test_every_projection_is_reconstructed_written_and_published(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    output = tmp_path / "part.h5"
    worker = start(stack, distributor, output=output)
    with VolumeSubscriber([worker.address]) as viewer:
        distributor.accept()
        assert distributor.attributes["output"] == str(output)
        assert (distributor.attributes["scan"], distributor.attributes["blocks"]) == (None, [])
        assert distributor.attributes["memory"] > 0
        assert distributor.attributes["algorithm"] == "window-replay"
        distributor.assign()
        for index in range(VIEWS):
            distributor.send(index)
        distributor.finish()
        left = distributor.wait_for(Left)
        while not viewer.ended:
            viewer.receive(0.1)
        published, projections = viewer.assemble()
    done = worker.done
    assert isinstance(left, Left)
    assert not left.lost
    assert not left.unacknowledged
    assert done["projections_reconstructed"] == done["projections_total"] == projections == VIEWS
    assert (done["slice_begin"], done["slice_count"], done["slices_total"]) == (3, SLICES, 5)
    assert done["rotation_center"] == CENTER
    assert 0 < done["first_update_at"] <= done["last_update_at"] <= time.time()
    assert done["output"] == str(output)
    with h5py.File(output) as file:
        volume = file["exchange/data"][:]
        attributes = dict(file["exchange/data"].attrs)
    np.testing.assert_array_equal(volume, published)
    # the disc, and next to nothing elsewhere
    assert volume[:, 15, 18] == pytest.approx(0.05, rel=0.2)
    assert volume[:, 15, 2].max() < 0.01
    assert attributes["slice_begin"] == 3
    assert attributes["rotation_center"] == CENTER
    assert attributes["algorithm"] == "window-replay"


def test_it_acknowledges_as_it_goes(stack: ExitStack, distributor: Distributor) -> None:
    start(stack, distributor, credits=4)
    distributor.accept()
    distributor.assign()
    # more than the credits: each has to come back
    for index in range(VIEWS):
        distributor.send(index)
    while (
        not isinstance(event := distributor.wait_for(Acknowledged), Acknowledged)
        or event.sequence < VIEWS - 1
    ):
        distributor.events.remove(event)


def test_calibrations_are_applied(stack: ExitStack, distributor: Distributor, tmp_path: Path) -> None:
    volumes = []
    for center in (CENTER, None):
        stand_in = Distributor()
        stack.callback(stand_in.outlet.close)
        output = tmp_path / f"{center}.h5"
        worker = start(stack, stand_in, output=output, refine=4)
        stand_in.accept()
        stand_in.assign(rotation_center=center)
        for index in range(VIEWS):
            stand_in.send(index)
            if center is None and index == VIEWS // 2:
                stand_in.calibrate(CENTER, np.zeros((SLICES, COLUMNS), "<f4").tobytes())
        stand_in.finish()
        assert worker.done["rotation_center"] == CENTER
        with h5py.File(output) as file:
            volumes.append(file["exchange/data"][:])
    assert np.linalg.norm(volumes[1] - volumes[0]) < 0.1 * np.linalg.norm(volumes[0])


def test_without_refinement_the_last_projections_still_take_part(
    stack: ExitStack, distributor: Distributor
) -> None:
    worker = start(stack, distributor, refine=0, algorithm="sirt")
    distributor.accept()
    distributor.assign()
    for index in range(VIEWS - 1):
        distributor.send(index)
    distributor.finish()
    assert worker.done["projections_reconstructed"] == VIEWS - 1


def test_a_distributor_that_goes_is_a_failed_connection(stack: ExitStack, distributor: Distributor) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign()
    distributor.send(0)
    distributor.outlet.close()
    worker.join()
    assert isinstance(worker.error, ConnectionFailed)


def test_a_distributor_that_is_not_there_is_a_failed_connection(stack: ExitStack) -> None:
    worker = Worker("tcp://127.0.0.1:9", connect_timeout_s=0.3)
    stack.callback(worker.stop)
    worker.join()
    assert isinstance(worker.error, ConnectionFailed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": None}, "columns"),
        ({"blocks": None}, "blocks"),
        ({"blocks": [[3, 3, 0]]}, "blocks"),
        ({"blocks": [[0, 2, 0], [3, 4, 0]]}, "blocks"),
        ({"blocks": [[0, 2, 5]]}, "goes on with projection 5"),
        ({"projections": True}, "projections"),
        ({"rotation_center": "middle"}, "rotation_center"),
    ],
)
def test_an_impossible_assignment_is_a_protocol_error(
    stack: ExitStack, distributor: Distributor, changes: dict[str, Any], message: str
) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign(**changes)
    worker.join()
    assert isinstance(worker.error, ProtocolError)
    assert message in str(worker.error)


def test_frames_before_an_assignment_are_a_protocol_error(stack: ExitStack, distributor: Distributor) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.send(0)
    worker.join()
    assert isinstance(worker.error, ProtocolError)


@pytest.mark.parametrize("number", [0, 2])
def test_a_projection_that_is_missing_or_comes_twice_is_a_protocol_error(
    stack: ExitStack, distributor: Distributor, number: int
) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign()
    distributor.send(0)
    distributor.send(number)
    worker.join()
    assert isinstance(worker.error, ProtocolError)
    assert f"projection {number} has come, 1 is the one that is missing" in str(worker.error)


def test_slices_that_stay_go_on_and_those_that_come_catch_up(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    volumes = []
    for moves in (False, True):
        stand_in = Distributor()
        stack.callback(stand_in.outlet.close)
        output = tmp_path / f"{moves}.h5"
        worker = start(stack, stand_in, output=output)
        stand_in.accept()
        stand_in.assign(blocks=[[0, 3, 0]] if moves else [[1, 4, 0]])
        for index in range(10):
            stand_in.send(index, rows(index, range(3) if moves else range(1, 4)))
        if moves:
            stand_in.assign(blocks=[[1, 3, 10], [3, 4, 0]])
            for index in range(10):
                stand_in.send(index, rows(index, range(3, 4)))
        for index in range(10, VIEWS):
            stand_in.send(index, rows(index, range(1, 4)))
        stand_in.finish()
        done = worker.done
        assert (done["slice_begin"], done["slice_count"]) == (1, 3)
        assert done["projections_reconstructed"] == VIEWS
        with h5py.File(output) as file:
            volumes.append(file["exchange/data"][:])
    np.testing.assert_array_equal(volumes[0], volumes[1])


def rows(index: int, slices: range) -> np.ndarray:
    """Attenuation of some slices, each with a disc of its own size."""
    t = np.arange(COLUMNS) - CENTER - 3 * np.cos(np.pi * index / VIEWS)
    discs = [0.1 * np.sqrt(np.maximum(0, (4 + number) ** 2 - t**2)) for number in slices]
    return np.array(discs, np.float32)


def test_slices_that_come_after_the_end_are_finished_too_and_the_others_stay(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    output = tmp_path / "part.h5"
    worker = start(stack, distributor, output=output)
    distributor.accept()
    distributor.assign(blocks=[[1, 3, 0]])
    for index in range(VIEWS):
        distributor.send(index, rows(index, range(1, 3)))
    distributor.complete()
    with h5py.File(output) as file:
        before = file["exchange/data"][:]
    distributor.assign(blocks=[[1, 3, VIEWS], [3, 4, 0]])
    for index in range(VIEWS):
        distributor.send(index, rows(index, range(3, 4)))
    distributor.finish()
    assert worker.done["slice_count"] == 3
    with h5py.File(output) as file:
        after = file["exchange/data"][:]
    np.testing.assert_array_equal(after[:2], before)
    assert after[2].max() > 0


def test_it_joins_a_distributor_that_was_started_again_with_what_it_has(
    stack: ExitStack, distributor: Distributor
) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign()
    for index in range(5):
        distributor.send(index)
    while distributor.outlet.outstanding(distributor.flow):
        distributor.events += distributor.outlet.poll(0.05)
    address = distributor.outlet.address
    # as if it were killed: no farewell
    distributor.outlet._flows.clear()
    distributor.outlet.close()
    again = Distributor(address)
    stack.callback(again.outlet.close)
    again.accept()
    assert again.attributes["blocks"] == [[3, 3 + SLICES, 5]]
    assert again.attributes["scan"] == "a scan"
    again.assign(blocks=[[3, 3 + SLICES, 5]])
    for index in range(5, VIEWS):
        again.send(index)
    again.finish()
    assert worker.done["projections_reconstructed"] == VIEWS


def test_a_worker_without_slices_has_nothing_to_do(stack: ExitStack, distributor: Distributor) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign(blocks=[])
    distributor.outlet.finish(distributor.flow)
    distributor.wait_for(Left)
    assert worker.done["slice_count"] == 0


@pytest.mark.parametrize("shape", [(SLICES, COLUMNS - 1), (SLICES + 1, COLUMNS)])
def test_rows_of_a_wrong_shape_are_a_protocol_error(
    stack: ExitStack, distributor: Distributor, shape: tuple[int, int]
) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign()
    distributor.send(0, np.zeros(shape, np.float32))
    worker.join()
    assert isinstance(worker.error, ProtocolError)


def test_stripes_of_a_wrong_size_are_a_protocol_error(stack: ExitStack, distributor: Distributor) -> None:
    worker = start(stack, distributor)
    distributor.accept()
    distributor.assign()
    distributor.calibrate(CENTER, b"1234")
    worker.join()
    assert isinstance(worker.error, ProtocolError)
    assert "4 bytes" in str(worker.error)


def test_a_result_that_could_never_be_written_is_refused_before_the_scan_begins(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    worker = start(stack, distributor, output=tmp_path / "no such folder" / "part.h5")
    worker.join()
    assert isinstance(worker.error, OutputError)
    assert worker.events == []


def test_a_result_that_cannot_be_written_is_an_output_error(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    worker = start(stack, distributor, output=folder / "part.h5")
    distributor.accept()
    folder.rmdir()
    distributor.assign()
    for index in range(VIEWS):
        distributor.send(index)
    distributor.finish()
    worker.join()
    assert isinstance(worker.error, OutputError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads"),
        ({"window": 8, "step": 9}, "step"),
    ],
)
def test_impossible_options_are_input_errors(
    stack: ExitStack, distributor: Distributor, options: dict[str, Any], message: str
) -> None:
    worker = start(stack, distributor, **options)
    worker.join()
    assert isinstance(worker.error, InputError)
    assert message in str(worker.error)


def test_an_address_in_use_is_said_so(stack: ExitStack, distributor: Distributor) -> None:
    worker = start(stack, distributor, publish=distributor.outlet.address)
    worker.join()
    assert isinstance(worker.error, PortInUse)


@pytest.mark.parametrize("moment", ["connecting", "streaming"])
def test_it_ends_soon_when_it_is_told_to(stack: ExitStack, distributor: Distributor, moment: str) -> None:
    worker = start(stack, distributor, connect_timeout_s=WAIT_S)
    if moment == "streaming":
        distributor.accept()
        distributor.assign()
        distributor.send(0)
    assert worker.address
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 3
    assert worker.error is None
    assert not any(event["event"] == "done" for event in worker.events)


def test_the_newest_state_is_in_the_file_before_the_result_is(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    output = tmp_path / "part.h5"
    worker = start(stack, distributor, output=output, write_every=8, compression="lz4")
    distributor.accept()
    distributor.assign()
    for index in range(VIEWS):
        distributor.send(index)
    while distributor.outlet.outstanding(distributor.flow):
        distributor.events += distributor.outlet.poll(0.05)
    with h5py.File(output, "r", swmr=True) as file:
        dataset = file["exchange/data"]
        assert not dataset.attrs["complete"]
        assert dataset.attrs["slice_begin"] == 3
        assert file["live/projections"][:].min() >= VIEWS - 8
        assert dataset[()].max() > 0.01
    with pytest.raises(InputError, match="not complete"):
        read_volume(output)
    distributor.finish()
    assert worker.done["output"] == str(output)
    volume, attributes = read_volume(output)
    assert attributes["complete"]
    assert volume.shape == (SLICES, COLUMNS, COLUMNS)


def test_slices_that_move_get_another_live_file(
    stack: ExitStack, distributor: Distributor, tmp_path: Path
) -> None:
    output = tmp_path / "part.h5"
    start(stack, distributor, output=output, write_every=1)
    distributor.accept()
    distributor.assign(blocks=[[0, 3, 0]])
    for index in range(8):
        distributor.send(index, rows(index, range(3)))
    distributor.assign(blocks=[[1, 3, 8]])
    for index in range(8, 16):
        distributor.send(index, rows(index, range(1, 3)))
    while distributor.outlet.outstanding(distributor.flow):
        distributor.events += distributor.outlet.poll(0.05)
    with h5py.File(output, "r", swmr=True) as file:
        assert file["exchange/data"].shape[0] == 2
        assert file["exchange/data"].attrs["slice_begin"] == 1


@pytest.mark.parametrize("slices_total", [5, SLICES])
def test_each_so_many_updates_are_a_file_as_the_mini_app_writes_them(
    stack: ExitStack, distributor: Distributor, tmp_path: Path, slices_total: int
) -> None:
    begin = slices_total - SLICES
    worker = start(stack, distributor, series=tmp_path, series_every=2, series_dataset="/recon", step=4)
    distributor.accept()
    distributor.assign(slices_total=slices_total, blocks=[[begin, begin + SLICES, 0]])
    for index in range(VIEWS):
        distributor.send(index)
    distributor.finish()
    assert worker.done["projections_reconstructed"] == VIEWS
    part = "" if slices_total == SLICES else "-00003"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{number:06d}-recon{part}.h5" for number in (0, 2, 4)]
    with h5py.File(tmp_path / names[-1]) as file:
        assert file["recon"].shape == (SLICES, COLUMNS, COLUMNS)
        assert file["recon"].dtype == np.float32
        assert file["recon"].attrs["projections_reconstructed"] == 20


def test_files_on_the_way_that_cannot_be_written_are_told_once_and_left_out(
    stack: ExitStack, distributor: Distributor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    worker = start(stack, distributor, series=folder, series_every=1)
    distributor.accept()
    folder.rmdir()
    distributor.assign()
    for index in range(VIEWS):
        distributor.send(index)
    distributor.finish()
    assert worker.done["projections_reconstructed"] == VIEWS
    assert caplog.text.count("an update is not written, and reconstruction goes on") == 1


def test_a_volume_is_published_each_so_many_updates(stack: ExitStack, distributor: Distributor) -> None:
    worker = start(stack, distributor, publish_every=1, refine=0)
    with VolumeSubscriber([worker.address]) as viewer:
        distributor.accept()
        distributor.assign()
        for index in range(VIEWS - 4):
            distributor.send(index)
            while distributor.outlet.outstanding(distributor.flow):
                distributor.events += distributor.outlet.poll(0.01)
                viewer.receive(0)
        give_up_at = time.monotonic() + WAIT_S
        while not viewer.complete:
            viewer.receive(0.1)
            assert time.monotonic() < give_up_at
        assert viewer.assemble()[1] == VIEWS - 4
        distributor.finish()
        while not viewer.ended:
            viewer.receive(0.1)


def test_its_own_rotation_centre_is_used_whatever_the_distributor_says(
    stack: ExitStack, distributor: Distributor
) -> None:
    worker = start(stack, distributor, center=CENTER + 2)
    distributor.accept()
    distributor.assign()
    for index in range(VIEWS):
        distributor.send(index)
    distributor.calibrate(CENTER - 2)
    distributor.finish()
    assert worker.done["rotation_center"] == CENTER + 2


def test_slices_that_do_not_fit_are_refused_with_the_numbers(
    stack: ExitStack, distributor: Distributor
) -> None:
    worker = start(stack, distributor, memory=1 << 20)
    distributor.accept()
    assert distributor.attributes["memory"] == 0
    distributor.assign()
    worker.join()
    assert isinstance(worker.error, InputError)
    assert "2 slices of test need" in str(worker.error)
    assert "0 would fit" in str(worker.error)


def test_a_distributor_of_the_mini_app_is_served_too(stack: ExitStack, tmp_path: Path) -> None:
    views = [
        # the mini-app counts from the edge of the first column
        (index, np.pi * index / VIEWS, CENTER + 0.5, rows(index, range(4)).astype("f4"))
        for index in range(VIEWS)
    ]
    peer = MiniAppDistributor(free_ports(2), views)
    peer.start()
    stack.callback(peer.stop)
    workers = []
    for rank in range(2):
        options = ReconstructOptions(
            dest_host="127.0.0.1",
            dest_port=peer.port,
            rank=rank,
            ranks=2,
            most_projections=VIEWS,
            algorithm="sirt",
            threads=1,
            results=ResultOptions(output=tmp_path / f"part-{rank}.h5"),
        )
        workers.append(StageThread(run, options, wait_s=WAIT_S))
        stack.callback(workers[-1].stop)
    for rank, worker in enumerate(workers):
        done = worker.done
        assert (done["slice_begin"], done["slice_count"], done["slices_total"]) == (2 * rank, 2, 4)
        assert done["projections_reconstructed"] == VIEWS
        assert done["rotation_center"] == CENTER
        volume, _ = read_volume(tmp_path / f"part-{rank}.h5")
        # the disc, and next to nothing elsewhere
        assert volume[:, 15, 18] == pytest.approx(0.05, rel=0.2)
        assert volume[:, 15, 2].max() < 0.01
    assert peer.failure is None
