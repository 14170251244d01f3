"""DAQ, distributor and workers as processes of their own over loopback: complete, in step, and in trouble."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import h5py
import pytest

from support.processes import MarkedProcesses

WAIT_S = 60.0
SCAN = "phantom:columns=96,rows=4,projections=120,photons=100000"
TRUE_CENTER = (96 - 1) / 2 + 5.3


class Stage:
    """One ``ministream`` command, and its events."""

    def __init__(self, processes: MarkedProcesses, *arguments: str | Path) -> None:
        self.process = processes.start(*arguments, "--json")
        self.events: list[dict[str, Any]] = []
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._log)]
        self.log = ""
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(json.loads(line))
        self._news.put(None)

    def _log(self) -> None:
        assert self.process.stderr is not None
        self.log = self.process.stderr.read()

    def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of that kind."""
        while (event := self._news.get(timeout=WAIT_S)) is not None:
            self.events.append(event)
            if event["event"] == kind:
                return event
        pytest.fail(f"{self.process.args} ended without {kind}: {self.log}")

    def end(self) -> int:
        """Return its exit code; its log is complete then."""
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        return code

    def done(self) -> dict[str, Any]:
        """Return its summary."""
        summary = self.until("done")
        assert self.end() == 0, self.log
        return summary


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
    daq = Stage(processes, "daq", source, *daq_options)
    address = daq.until("ready")["address"]
    distributor = Stage(
        processes, "distribute", "--connect", address, "--workers", str(workers), *distribute_options
    )
    address = distributor.until("ready")["address"]
    reconstructors = [
        Stage(
            processes,
            *("reconstruct", "--connect", address, "--rank", str(rank), "--workers", str(workers)),
            *("--threads", "1", "--output", folder / f"part-{rank}.h5"),
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
    for rank, reconstructor in enumerate(reconstructors):
        done = reconstructor.done()
        assert done["projections_reconstructed"] == 120
        # a worker does not follow the last hundredth of a column
        assert done["rotation_center"] == pytest.approx(received["rotation_center"], abs=0.02)
        slices += range(done["slice_begin"], done["slice_begin"] + done["slice_count"])
        with h5py.File(tmp_path / f"part-{rank}.h5") as file:
            data = file["exchange/data"]
            assert data.shape == (4 // workers, 96, 96)
            assert data.attrs["slice_begin"] == done["slice_begin"]
            assert data.attrs["projections_reconstructed"] == 120
    assert slices == [0, 1, 2, 3]
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


def test_a_killed_worker_ends_everything_with_a_reason(processes: MarkedProcesses, tmp_path: Path) -> None:
    daq, distributor, (first, second) = start(processes, tmp_path, workers=2, daq_options=("--rate", "20"))
    second.until("progress")
    second.process.kill()
    assert distributor.end() == 8
    assert "worker 1" in distributor.log
    assert len(distributor.log.strip().splitlines()) == 1
    assert distributor.until("error")["exit_code"] == 8
    # its neighbours learn it from the distributor
    assert first.end() == 4
    assert daq.end() in (4, 8)
    assert second.end() == -signal.SIGKILL
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
        (("reconstruct", "--connect", "tcp://127.0.0.1:9", "--rank", "1"), 3, "rank 1"),
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
