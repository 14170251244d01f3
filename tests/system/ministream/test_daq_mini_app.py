"""The DAQ in place of the mini-app's: its options and its wire, to distributors of its kind."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.sources import ViewOrder, view_order
from ministream.transport import Inlet
from support.consuming import consume, event
from support.mini_app import DARK, DARK_RESET, PROJECTION, WHITE, WHITE_RESET, Distributor, Image, parse
from support.processes import MarkedProcesses

DATA = np.random.default_rng(2).integers(0, 60_000, (40, 4, 32)).astype("u2")
ANGLES = np.linspace(0, 180, 40, endpoint=False)
LOCAL = ("--publisher_addr", "tcp://127.0.0.1:0", "--synch_addr", "tcp://127.0.0.1:0")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exchange/data"] = DATA
        file["exchange/data_white"] = DATA[:3] // 2
        file["exchange/data_dark"] = DATA[:2] // 100
        file["exchange/theta"] = ANGLES
        file["exchange/theta"].attrs["units"] = "degrees"
    return tmp_path / "scan.h5"


def start(
    processes: MarkedProcesses, *arguments: str | Path, local: tuple[str, ...] = LOCAL
) -> tuple[subprocess.Popen[str], str, str]:
    daq = processes.start("daq", *arguments, *local, "--json")
    ready = event(daq)
    return daq, ready["publish_address"], ready["synch_address"]


def ends_well(daq: subprocess.Popen[str]) -> dict[str, object]:
    out, err = daq.communicate(timeout=30)
    assert daq.returncode == 0, err
    done = json.loads(out.splitlines()[-1])
    assert done["event"] == "done"
    return done  # type: ignore[no-any-return]


def test_a_distributor_gets_the_scan_on_its_wire(processes: MarkedProcesses, scan: Path) -> None:
    daq, publisher, synch = start(processes, "--mode", "1", "--simulation_file", scan, "--synch_count", "1")
    with Distributor(publisher, synch) as distributor:
        distributor.synchronise()
        images = distributor.images()
    done = ends_well(daq)
    assert done["projections_sent"] == 40
    assert [image.itype for image in images] == [
        *(DARK_RESET, DARK),
        *(WHITE_RESET, WHITE, WHITE),
        *[PROJECTION] * 40,
    ]
    assert [image.seq for image in images] == [image.unique_id for image in images] == list(range(45))
    assert {image.dims for image in images} == {(1, 4, 32)}
    assert {image.center for image in images} == {16.0}
    views = view_order(40, ViewOrder.INTERLACED)
    for image, view in zip(images[5:], views, strict=True):
        assert image.rotation == pytest.approx(ANGLES[view], abs=1e-4)
        np.testing.assert_array_equal(image.pixels("<f4"), DATA[view])
    np.testing.assert_array_equal(images[1].pixels("<f4"), DATA[1] // 100)


def test_it_waits_for_all_subscribers(processes: MarkedProcesses, scan: Path) -> None:
    daq, publisher, synch = start(processes, "--mode", "1", "--simulation_file", scan, "--synch_count", "2")
    with Distributor(publisher, synch) as one, Distributor(publisher, synch) as two:
        one.synchronise()
        assert one.message(0.4) is None
        two.synchronise()
        assert one.images() == two.images()
    ends_well(daq)


def test_without_a_synch_address_it_waits_for_subscriptions(processes: MarkedProcesses, scan: Path) -> None:
    daq, publisher, synch = start(processes, scan, local=LOCAL[:2])
    assert synch is None
    with Distributor(publisher) as distributor:
        images = distributor.images()
    ends_well(daq)
    # not the mini-app's mode: as measured, of the file's type
    assert [image.rotation for image in images[5:]] == pytest.approx(list(ANGLES), abs=1e-4)
    np.testing.assert_array_equal(images[5].pixels("<u2"), DATA[0])


def test_rows_and_repetitions_are_those_asked_for(processes: MarkedProcesses, scan: Path) -> None:
    daq, publisher, synch = start(
        processes,
        *("--mode", "1", "--simulation_file", scan, "--order", "as-measured"),
        *("--beg_sinogram", "1", "--num_sinograms", "2", "--d_iteration", "2", "--iteration_sleep", "0.3"),
    )
    with Distributor(publisher, synch) as distributor:
        distributor.synchronise()
        began_s = time.monotonic()
        images = distributor.images()
        assert time.monotonic() - began_s >= 0.3
    ends_well(daq)
    assert [image.seq for image in images] == list(range(90))
    assert [image.seq for image in images if image.itype in (WHITE_RESET, DARK_RESET)] == [0, 2, 45, 47]
    for index, image in enumerate(images[50:]):
        np.testing.assert_array_equal(image.pixels("<f4"), DATA[index, 1:3])


def test_a_phantom_has_the_sizes_of_mode_2(processes: MarkedProcesses) -> None:
    sizes = ("--num_sinograms", "3", "--num_sinogram_columns", "48", "--num_sinogram_projections", "20")
    daq, publisher, synch = start(processes, "--mode", "2", *sizes)
    with Distributor(publisher, synch) as distributor:
        distributor.synchronise()
        images = distributor.images()
    ends_well(daq)
    assert {image.dims for image in images} == {(1, 3, 48)}
    assert [image.itype for image in images].count(PROJECTION) == 20


def test_projections_come_as_far_apart_as_asked(processes: MarkedProcesses, scan: Path) -> None:
    daq, publisher, synch = start(
        processes, "--mode", "1", "--simulation_file", scan, "--projection_sleep", "0.02"
    )
    with Distributor(publisher, synch) as distributor:
        distributor.synchronise()
        distributor.images()
    assert 39 * 0.02 <= ends_well(daq)["seconds"] < 39 * 0.02 + 0.5  # type: ignore[operator]


def large(path: Path, projections: int) -> Path:
    """A scan of 1 MB a frame that is read faster than any subscriber takes it: nothing of it is stored."""
    with h5py.File(path, "w") as file:
        file.create_dataset("exchange/data", (projections, 512, 1024), "u2")
        file["exchange/theta"] = np.linspace(0, 180, projections)
        file["exchange/theta"].attrs["units"] = "degrees"
    return path


def test_a_slow_subscriber_loses_nothing(processes: MarkedProcesses, tmp_path: Path) -> None:
    """The mini-app's queue is without end, or drops; here the DAQ waits."""
    scan = large(tmp_path / "scan.h5", 150)
    fields = ("--flat-value", "9", "--dark-value", "0")
    daq, publisher, synch = start(processes, scan, "--send-queue", "2", *fields)
    with Distributor(publisher, synch, queue=2) as distributor:
        distributor.synchronise()
        images: list[Image] = []
        for _ in range(5):
            message = distributor.message()
            assert message is not None
            images.append(parse(message))
        # nothing is taken for a while: longer than reading the whole scan takes
        time.sleep(2)
        assert daq.poll() is None
        images += distributor.images()
    ends_well(daq)
    assert [image.seq for image in images] == list(range(152))


def test_the_last_frames_reach_a_subscriber_that_is_behind(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    scan = large(tmp_path / "scan.h5", 40)
    daq, publisher, synch = start(processes, scan, "--flat-value", "9", "--dark-value", "0")
    with Distributor(publisher, synch, queue=1) as distributor:
        distributor.synchronise()
        # it has sent everything into its queue by now, and waits
        time.sleep(2)
        assert daq.poll() is None
        assert len(distributor.images()) == 42
    ends_well(daq)


def test_both_kinds_of_consumers_get_everything(processes: MarkedProcesses, scan: Path) -> None:
    daq = processes.start("daq", scan, *LOCAL, "--consumers", "1", "--json")
    ready = event(daq)
    with (
        Distributor(ready["publish_address"], ready["synch_address"]) as distributor,
        Inlet([ready["address"]], flow="c") as inlet,
    ):
        distributor.synchronise()
        frames = consume(inlet)
        images = distributor.images()
    ends_well(daq)
    assert len(frames) == len(images) == 45
    for frame, image in zip(frames, images, strict=True):
        assert frame.sequence == image.seq
        np.testing.assert_array_equal(frame.pixels, image.pixels("<u2"))


def test_it_ends_when_every_subscriber_has_gone(processes: MarkedProcesses, scan: Path) -> None:
    daq, publisher, synch = start(processes, scan, "--rate", "10")
    with Distributor(publisher, synch) as distributor:
        distributor.synchronise()
        assert distributor.message() is not None
    _, err = daq.communicate(timeout=20)
    assert daq.returncode == 4
    assert "every subscriber has gone" in err


def test_a_signal_ends_it_also_while_a_subscriber_takes_nothing(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    scan = large(tmp_path / "scan.h5", 50)
    fields = ("--flat-value", "9", "--dark-value", "0")
    daq, publisher, synch = start(processes, scan, "--send-queue", "1", *fields)
    with Distributor(publisher, synch, queue=1) as distributor:
        distributor.synchronise()
        assert distributor.message() is not None
        daq.terminate()
        daq.communicate(timeout=20)
    assert daq.returncode == 143


def test_options_that_do_not_go_together_are_refused(processes: MarkedProcesses, scan: Path) -> None:
    file = str(scan)
    cases: list[tuple[list[str], int, str]] = [
        (["--mode", "0"], 2, "--mode 0 needs --image_pv"),
        (["--mode", "1"], 2, "--mode 1 needs --simulation_file"),
        (["--mode", "2", "--simulation_file", file], 2, "--mode 2 has no use for --simulation_file"),
        (["--mode", "1", file], 2, "two sources"),
        ([file, "--simulation_file", file], 2, "two sources"),
        (["--mode", "3"], 2, "--mode"),
        ([file, "--projection_sleep", "1", "--rate", "2"], 2, "say the same"),
        ([file, "--num_sinograms", "1", "--rows", "0:1"], 2, "say the same"),
        ([file, "--beg_sinogram", "1"], 2, "needs --num_sinograms"),
        ([file, "--rows", "3:1"], 2, "FIRST:LAST"),
        ([file, "--num_sinograms", "9"], 3, "rows 0 to 8 are wanted"),
        ([file, "--consumers", "0"], 3, "at least one is needed, or --publish"),
        ([file, "--publish", "nonsense"], 4, "cannot publish at nonsense"),
    ]
    for arguments, code, words in cases:
        finished = processes.run("daq", *arguments)
        assert finished.returncode == code, (arguments, finished.stderr)
        assert finished.stderr.count("\n") == 1
        assert words in finished.stderr


def test_the_mini_apps_spellings_stand_in_a_configuration_file_too(
    processes: MarkedProcesses, scan: Path, tmp_path: Path
) -> None:
    (tmp_path / "daq.toml").write_text(
        f'[daq]\nmode = 1\nsimulation_file = "{scan}"\n'
        'publisher_addr = "tcp://127.0.0.1:0"\nsynch_count = 1\n'
    )
    daq = processes.start("daq", "--config", tmp_path / "daq.toml", "--json")
    ready = event(daq)
    with Distributor(ready["publish_address"]) as distributor:
        assert len(distributor.images()) == 45
    ends_well(daq)


def test_a_known_rotation_axis_is_counted_from_the_first_columns_edge(processes: MarkedProcesses) -> None:
    """So that the middle is half the columns, as in the mini-app's default."""
    source = "phantom:columns=64,rows=2,projections=4,center_offset=1.5"
    daq, publisher, _ = start(processes, source, local=LOCAL[:2])
    with Distributor(publisher) as distributor:
        images = distributor.images()
    ends_well(daq)
    assert {image.center for image in images} == {32 + 1.5}
