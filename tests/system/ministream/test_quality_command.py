"""``ministream quality`` as a process: files, tables, JSON, a live run, and mistakes."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.sinks import write_volume
from ministream.stages.broadcast import VolumePublisher
from support.processes import MarkedProcesses


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    at = np.arange(32) - 15.5
    disc = (at**2 + at[:, np.newaxis] ** 2 < 64).astype(np.float32)
    write_volume(tmp_path / "volume.h5", np.stack([disc, 2 * disc]))
    return tmp_path / "volume.h5"


def test_two_files_are_compared_as_json(processes: MarkedProcesses, volume: Path) -> None:
    finished = processes.run("quality", volume, volume, "--json")
    assert finished.returncode == 0, finished.stderr
    figures = json.loads(finished.stdout)
    assert figures["ssim"] == pytest.approx(1)
    assert figures["mse"] == 0
    assert figures["psnr"] is None
    assert figures["uqi"] == 1
    assert "MS-SSIM is left out" in finished.stderr


def test_files_of_other_programs_are_compared_and_drawn(
    processes: MarkedProcesses, volume: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).random((2, 180, 180)).astype(np.float32)
    np.save(tmp_path / "reference.npy", images)
    with h5py.File(tmp_path / "000001-recon.h5", "w") as file:
        file["data"] = images + 0.1
    plot = tmp_path / "slices.svg"
    finished = processes.run(
        *("quality", f"{tmp_path}/000001-recon.h5:/data", tmp_path / "reference.npy"),
        *("--json", "--whole", "--plot", plot),
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    figures = json.loads(finished.stdout)
    assert figures["mse"] == pytest.approx(0.01, rel=1e-4)
    assert 0.9 < figures["ms_ssim"] < 1
    assert "<!-- ms_ssim -->" in plot.read_text()


def test_one_file_is_judged_as_a_table(processes: MarkedProcesses, volume: Path) -> None:
    finished = processes.run("quality", volume)
    assert finished.returncode == 0, finished.stderr
    assert "sharpness" in finished.stdout


def test_live_it_follows_a_publisher_to_its_end(processes: MarkedProcesses, volume: Path) -> None:
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0.05) as publisher:
        live = processes.start("quality", "--connect", publisher.address, "--reference", volume, "--json")
        assert live.stdout is not None
        come = threading.Event()
        reader = threading.Thread(target=lambda: (live.stdout.readline(), come.set()))
        reader.start()
        give_up_at = time.monotonic() + 30
        while not come.is_set():
            assert time.monotonic() < give_up_at
            publisher.offer(
                [np.zeros((2, 32, 32), np.float32)], slice_begin=0, projections=5, rotation_center=15.5
            )
            come.wait(0.05)
        reader.join()
        publisher.finish(
            [np.ones((2, 32, 32), np.float32)], slice_begin=0, projections=9, rotation_center=15.5
        )
        out, err = live.communicate(timeout=30)
    assert live.returncode == 0, err
    done = json.loads(out.splitlines()[-1])
    assert done["event"] == "done"
    assert done["projections"] == 9
    assert 0 < done["ssim"] < 1


def test_live_it_ends_on_sigterm(processes: MarkedProcesses) -> None:
    with VolumePublisher("tcp://127.0.0.1:0", interval_s=0.05) as publisher:
        live = processes.start("quality", "--connect", publisher.address, "--json")
        publisher.offer(
            [np.ones((1, 32, 32), np.float32)], slice_begin=0, projections=1, rotation_center=15.5
        )
        assert live.stdout is not None
        give_up_at = time.monotonic() + 30
        come = threading.Event()
        reader = threading.Thread(target=lambda: (live.stdout.readline(), come.set()))
        reader.start()
        while not come.is_set():
            assert time.monotonic() < give_up_at
            publisher.offer(
                [np.ones((1, 32, 32), np.float32)], slice_begin=0, projections=1, rotation_center=15.5
            )
            come.wait(0.05)
        reader.join()
        live.send_signal(signal.SIGTERM)
        _, err = live.communicate(timeout=30)
    assert live.returncode == 143
    assert not err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "either a VOLUME or --connect"),
        (("nowhere.h5",), 3, "nowhere.h5"),
        (("a.h5", "--connect", "tcp://127.0.0.1:9"), 2, "either"),
        (("a.h5", "--reference", "b.h5"), 2, "--reference is for --connect"),
        (("--connect", "tcp://127.0.0.1:9", "--connect-timeout", "0.3"), 4, "127.0.0.1:9"),
        (("--connect", "nonsense"), 4, "nonsense"),
        (("a.h5", "--tolerance", "0.1"), 2, "--tolerance is for --connect"),
        (("a.h5", "--stop-daq", "tcp://127.0.0.1:9"), 2, "--stop-daq is for --connect"),
        (("--connect", "tcp://127.0.0.1:9", "--stop-daq", "tcp://127.0.0.1:9"), 2, "needs --projections"),
        (("nowhere.h5", "--plot", "a.gif"), 3, "a.gif"),
    ],
)
def test_mistakes_are_one_clear_line_and_a_code(
    processes: MarkedProcesses, arguments: tuple[str, ...], code: int, message: str
) -> None:
    finished = processes.run("quality", *arguments)
    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_volume_is_refused(processes: MarkedProcesses, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    finished = processes.run("quality", tmp_path / "text.h5", "--json")
    assert finished.returncode == 3
    event = json.loads(finished.stdout)
    assert event["event"] == "error"
    assert event["exit_code"] == 3
