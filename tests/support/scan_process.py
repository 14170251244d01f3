"""A scan whose parts can be killed and started again."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np

from ministream.sinks import merge_volumes, read_volume
from support.processes import MarkedProcesses
from support.stage_process import Stage
from support.undisturbed import CENTER, PROJECTIONS, SCAN


class Scan:
    """A DAQ, a distributor and workers; each can be killed, and another one started."""

    def __init__(
        self, processes: MarkedProcesses, folder: Path, *, rate: float, daq_relay: bool = False
    ) -> None:
        self.processes = processes
        self.folder = folder
        self.workers: list[Stage] = []
        self.daq = Stage(processes, "daq", SCAN, "--rate", f"{rate:g}", "--reconnect-timeout", "40")
        self.daq_address = self.daq.until("ready")["address"]
        self.listen = "tcp://127.0.0.1:0"

    def distribute(self, workers: int, *options: str, daq: str | None = None) -> None:
        """Start a distributor: the first, or one that goes on."""
        self.distributor = Stage(
            self.processes,
            *("distribute", "--connect", daq or self.daq_address, "--listen", self.listen),
            *("--workers", str(workers), "--center", str(CENTER), "--stripes", "none"),
            *("--state-dir", self.folder / "state", "--worker-timeout", "1.5", *options),
        )
        self.listen = self.distributor.until("ready")["address"]

    def worker(self, *options: str | Path, distributor: str | None = None, refine: int = 1) -> Stage:
        """Start one more worker."""
        stage = Stage(
            self.processes,
            *("reconstruct", "--connect", distributor or self.listen, "--threads", "1"),
            *("--refine", str(refine)),
            *("--output", self.folder / f"part-{len(self.workers)}.h5", "--reconnect-timeout", "40"),
            *options,
        )
        self.workers.append(stage)
        return stage

    def until_received(self, count: int) -> None:
        """Wait until the distributor has so many projections."""
        while self.distributor.until("progress")["projections_received"] < count:
            pass

    def done(self, undisturbed: np.ndarray) -> dict[str, Any]:
        """Wait for the end; check that the result is whole; return the distributor's summary."""
        received = self.distributor.done()
        sent = [event for event in self.daq.events if event["event"] == "done"] or [self.daq.done()]
        assert sent[0]["projections_sent"] == PROJECTIONS
        assert received["projections_received"] == PROJECTIONS
        merge_volumes(self.folder / "whole.h5", [part["output"] for part in received["parts"]])
        for part in received["parts"]:
            _, attributes = read_volume(part["output"])
            assert attributes["projections_reconstructed"] == PROJECTIONS
            assert (attributes["slice_begin"], attributes["slice_count"]) == (
                part["slice_begin"],
                part["slice_count"],
            )
        volume, _ = read_volume(self.folder / "whole.h5")
        np.testing.assert_array_equal(volume, undisturbed)
        assert not (self.folder / "state").exists()
        return received

    def end_of_workers(self, killed: list[Stage]) -> None:
        for worker in self.workers:
            assert worker.end() == (-signal.SIGKILL if worker in killed else 0), worker.log


def a_moment(seed: int) -> int:
    """Somewhere in the scan, neither at its beginning nor at its end."""
    return random.Random(seed).randrange(20, PROJECTIONS - 40)
