"""DAQ, distributor and workers as processes of their own over loopback: complete, in step, and in trouble."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import h5py
import pytest

from support.processes import MarkedProcesses
from support.stage_process import Stage

WAIT_S = 60.0
SCAN = "phantom:columns=96,rows=4,projections=120,photons=100000"
TRUE_CENTER = (96 - 1) / 2 + 5.3


def start(
    processes: MarkedProcesses,
    folder: Path,
    *,
    workers: int = 1,
    source: str | Path = SCAN,
    daq_options: tuple[str | Path, ...] = (),
    distribute_options: tuple[str, ...] = (),
    worker_options: tuple[str, ...] = (),
) -> tuple[Stage, Stage, list[Stage]]:
    lost = ("--reconnect-timeout", "1")
    daq = Stage(processes, "daq", source, *lost, *daq_options)
    address = daq.until("ready")["address"]
    distributor = Stage(
        processes,
        *("distribute", "--connect", address, "--workers", str(workers), *lost, *distribute_options),
    )
    address = distributor.until("ready")["address"]
    reconstructors = [
        Stage(
            processes,
            *("reconstruct", "--connect", address),
            *("--threads", "1", "--output", folder / f"part-{rank}.h5"),
            *lost,
            *worker_options,
        )
        for rank in range(workers)
    ]
    return daq, distributor, reconstructors


@pytest.mark.parametrize("workers", [1, 2])
def test_every_projection_is_sent_received_and_reconstructed_once(
    processes: MarkedProcesses, tmp_path: Path, workers: int
) -> None:
    daq, distributor, reconstructors = start(
        processes,
        tmp_path,
        workers=workers,
        daq_options=("--order", "bit-reversed", "--truth", tmp_path / "truth.h5"),
    )
    assert daq.done()["projections_sent"] == 120
    received = distributor.done()
    assert received["projections_received"] == 120
    assert received["duplicates_dropped"] == 0
    assert received["rotation_center"] == pytest.approx(TRUE_CENTER, abs=0.2)
    slices: list[int] = []
    assert (received["workers_joined"], received["workers_lost"]) == (workers, 0)
    assert received["frames_retransmitted"] == 0
    for rank, reconstructor in enumerate(reconstructors):
        done = reconstructor.done()
        assert done["duplicates_dropped"] == 0
        assert done["projections_reconstructed"] == 120
        # a worker does not follow the last hundredth of a column
        assert done["rotation_center"] == pytest.approx(received["rotation_center"], abs=0.02)
        slices += range(done["slice_begin"], done["slice_begin"] + done["slice_count"])
        with h5py.File(tmp_path / f"part-{rank}.h5") as file:
            data = file["exchange/data"]
            assert data.shape == (4 // workers, 96, 96)
            assert data.attrs["slice_begin"] == done["slice_begin"]
            assert data.attrs["projections_reconstructed"] == 120
    assert sorted(slices) == [0, 1, 2, 3]
    if workers == 1:
        judged = processes.run("quality", tmp_path / "part-0.h5", tmp_path / "truth.h5", "--json")
        # 96 columns resolve less than the 256 of the default phantom
        assert json.loads(judged.stdout)["ssim"] > 0.8


def test_the_daq_ends_when_the_image_has_had_enough_and_everybody_ends_well(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    source = "phantom:columns=48,rows=2,projections=1000,photons=100000"
    steered = ("--order", "golden-angle", "--rate", "100", "--steer", "tcp://127.0.0.1:0")
    daq = Stage(processes, "daq", source, *steered)
    ready = daq.until("ready")
    distributor = Stage(processes, "distribute", "--connect", ready["address"], "--center", "28.8")
    address = distributor.until("ready")["address"]
    worker = Stage(
        processes,
        *("reconstruct", "--connect", address, "--threads", "1", "--output", tmp_path / "part.h5"),
    )
    quality = Stage(
        processes,
        *("quality", "--connect", worker.until("ready")["address"], "--projections", "1000"),
        *("--order", "golden-angle", "--stop-daq", ready["steering_address"]),
    )
    enough = quality.until("enough")
    assert enough["daq_asked"] is True
    assert 250 <= enough["projections"] < 1000
    sent = daq.done()
    assert "projections" in sent["ended_early"]
    assert enough["projections"] <= sent["projections_sent"] < 1000
    assert distributor.done()["projections_received"] == sent["projections_sent"]
    assert worker.done()["projections_reconstructed"] == sent["projections_sent"]
    judged = quality.done()
    assert judged["projections"] == sent["projections_sent"]
    with h5py.File(tmp_path / "part.h5") as file:
        assert file["exchange/data"].shape == (2, 48, 48)


def test_a_slow_worker_slows_the_daq_and_nothing_is_lost(processes: MarkedProcesses, tmp_path: Path) -> None:
    daq, distributor, (worker,) = start(
        processes, tmp_path, distribute_options=("--credits", "8"), worker_options=("--credits", "4")
    )
    worker.until("progress")
    worker.process.send_signal(signal.SIGSTOP)
    # the worker stands still, so everything else soon does: nobody sends to the end
    with pytest.raises(subprocess.TimeoutExpired):
        daq.process.wait(1.5)
    assert distributor.process.poll() is None
    worker.process.send_signal(signal.SIGCONT)
    assert daq.done()["projections_sent"] == 120
    assert distributor.done()["projections_received"] == 120
    assert worker.done()["projections_reconstructed"] == 120


def test_the_daqs_rate_is_that_of_the_reconstruction(processes: MarkedProcesses, tmp_path: Path) -> None:
    daq, distributor, (worker,) = start(processes, tmp_path, daq_options=("--rate", "60"))
    summary = daq.done()
    # 120 at 60 per second, the first at once
    assert summary["seconds"] >= 119 / 60 - 0.1
    done = worker.done()
    assert done["first_update_at"] - summary["first_projection_at"] < 1.0
    assert done["last_update_at"] - summary["first_projection_at"] > 119 / 60 - 0.1
    distributor.done()


def test_when_the_only_worker_is_killed_and_none_comes_everything_ends_with_a_reason(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    daq, distributor, (worker,) = start(processes, tmp_path, daq_options=("--rate", "20"))
    worker.until("progress")
    worker.process.kill()
    assert distributor.end() == 8
    assert "the last worker has gone, and none has come for 1 s" in distributor.log
    assert distributor.until("error")["exit_code"] == 8
    assert daq.end() in (4, 8)
    assert worker.end() == -signal.SIGKILL
    assert not processes.alive()
    assert not list(tmp_path.iterdir())


def test_a_killed_daq_ends_everything_with_a_reason(processes: MarkedProcesses, tmp_path: Path) -> None:
    daq, distributor, (worker,) = start(processes, tmp_path, daq_options=("--rate", "20"))
    worker.until("progress")
    daq.process.kill()
    assert distributor.end() == 4
    assert "lost" in distributor.log
    assert worker.end() == 4
    assert daq.end() == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stage_cleanly(
    processes: MarkedProcesses, tmp_path: Path, signum: signal.Signals
) -> None:
    daq, distributor, (worker,) = start(processes, tmp_path, daq_options=("--rate", "20"))
    worker.until("progress")
    for stage in (worker, distributor):
        stage.process.send_signal(signum)
    assert worker.end() == 128 + signum
    # whether the signal or the worker's leave comes first
    assert distributor.end() in (128 + signum, 8)
    assert "Traceback" not in worker.log + distributor.log
    assert daq.end() in (4, 8)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("distribute",), 2, "--connect"),
        (("distribute", "--connect", "tcp://127.0.0.1:9", "--center", "middle"), 2, "neither"),
        (("distribute", "--connect", "tcp://127.0.0.1:9", "--listen", "nonsense"), 3, "nonsense"),
        (("reconstruct", "--connect", "tcp://127.0.0.1:9", "--connect-timeout", "0.5"), 4, "127.0.0.1:9"),
        (("reconstruct", "--connect", "tcp://127.0.0.1:9", "--step", "40"), 3, "step"),
    ],
)
def test_what_cannot_be_is_one_clear_line_and_a_code(
    processes: MarkedProcesses, arguments: tuple[str, ...], code: int, message: str
) -> None:
    finished = processes.run(*arguments)
    assert finished.returncode == code, finished.stderr
    assert message in finished.stderr
    # a worker tells that it is ready before it connects
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("ready: ")]
    assert len(lines) == 1
    assert lines[0].startswith("ministream: error: ")
