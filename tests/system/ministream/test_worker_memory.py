"""Workers with little memory: what cannot fit is refused before the first projection, what fits stays in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ministream.sinks import read_volume
from support.processes import MarkedProcesses
from support.stage_process import Stage

COLUMNS, PROJECTIONS = 256, 64
MIB = 1 << 20


def scan(rows: int) -> str:
    return f"phantom:object=cylinder,columns={COLUMNS},rows={rows},projections={PROJECTIONS},photons=1000000"


class Peak:
    """Looks at how much memory a process has had at most, until it ends."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            peak = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
            self.bytes = max([self.bytes, *peak])
            time.sleep(0.01)  # the interval of a poll

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.bytes


def start(
    processes: MarkedProcesses, tmp_path: Path, *, rows: int, budgets: list[int]
) -> tuple[Stage, Stage, list[Stage]]:
    daq = Stage(processes, "daq", scan(rows))
    distributor = Stage(
        processes,
        *("distribute", "--connect", daq.until("ready")["address"], "--workers", str(len(budgets))),
        *("--center", str((COLUMNS - 1) / 2), "--stripes", "none", "--worker-timeout", "1.5"),
    )
    address = distributor.until("ready")["address"]
    workers = [
        Stage(
            processes,
            *("reconstruct", "--connect", address, "--threads", "1", "--refine", "0"),
            *("--algorithm", "sirt", "--step", "16"),
            *("--memory", f"{budget / MIB:.0f}MiB", "--output", tmp_path / f"part-{number}.h5"),
        )
        for number, budget in enumerate(budgets)
    ]
    return daq, distributor, workers


@pytest.fixture
def base_bytes(processes: MarkedProcesses) -> int:
    """What a worker has before it has slices, with its kernels loaded."""
    worker = Stage(
        processes,
        "reconstruct",
        "--connect",
        "tcp://127.0.0.1:9",
        "--threads",
        "1",
        "--memory",
        "8GiB",
        "--connect-timeout",
        "0.1",
    )
    left = worker.until("ready")["memory"]
    worker.end()
    return int((8 << 30) - left)


def test_a_scan_that_fits_nowhere_is_refused_with_the_numbers(
    processes: MarkedProcesses, tmp_path: Path, base_bytes: int
) -> None:
    _, distributor, workers = start(
        processes, tmp_path, rows=300, budgets=[base_bytes + 100 * MIB, base_bytes + 150 * MIB]
    )
    assert distributor.end() == 3
    assert "300 slices of phantom" in distributor.log
    assert "do not fit into the memory of 2 workers" in distributor.log
    assert "workers of this size" in distributor.log
    assert "binned by two" in distributor.log
    assert not any(event["event"] == "progress" for event in distributor.events)
    for worker in workers:
        assert worker.end() == 4
        assert not any(event["event"] == "progress" for event in worker.events)


def test_slices_go_where_there_is_room_and_the_peak_stays_inside_the_budget(
    processes: MarkedProcesses, tmp_path: Path, base_bytes: int
) -> None:
    # 64 views of 256 columns are 64 KiB a slice, its image 256 KiB
    budgets = [base_bytes + 160 * MIB, base_bytes + 400 * MIB]
    _, distributor, workers = start(processes, tmp_path, rows=300, budgets=budgets)
    peaks = [Peak(worker.process.pid) for worker in workers]
    received = distributor.done()
    sizes = {Path(part["output"]).name: part["slice_count"] for part in received["parts"]}
    assert sum(sizes.values()) == 300
    # not even halves: the first has no room for so many
    assert 0 < sizes["part-0.h5"] < 140 < 160 < sizes["part-1.h5"]
    for number, (worker, peak, budget) in enumerate(zip(workers, peaks, budgets, strict=True)):
        done = worker.done()
        reached = max(peak.end(), done["memory_peak"])
        held = sizes[f"part-{number}.h5"] * (4 * COLUMNS * (COLUMNS + PROJECTIONS))
        assert base_bytes / 2 + held < reached <= budget
        volume, _ = read_volume(tmp_path / f"part-{number}.h5")
        assert np.isfinite(volume).all()
        assert volume.max() > 0


def test_a_size_that_is_none_is_refused(processes: MarkedProcesses) -> None:
    done = processes.run("reconstruct", "--connect", "tcp://127.0.0.1:9", "--memory", "much")
    assert done.returncode == 2
    assert "'much' is no size, such as 512MiB" in done.stderr
