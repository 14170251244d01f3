"""A scan whose workers a cluster has, as processes: what there is of it, and how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ministream.sinks import read_volume
from support.processes import MarkedProcesses
from support.stage_process import Stage
from support.undisturbed import CENTER, PROJECTIONS, SCAN


class ClusterScan:
    """A DAQ, a distributor that wants two workers, and a launcher that places them.

    Parameters
    ----------
    folder : Path
        For the volume, and the link key.
    """

    def __init__(self, processes: MarkedProcesses, folder: Path, *, rate: float = 60.0) -> None:
        self.processes = processes
        self.key = folder / "run.key"
        self.volume = folder / "volume.h5"
        assert processes.run("key", self.key).returncode == 0
        daq = ("daq", SCAN, "--rate", f"{rate:g}", "--reconnect-timeout", "60")
        self.daq = Stage(processes, *daq)
        self.distributor = Stage(
            processes,
            *("distribute", "--connect", self.daq.until("ready")["address"], "--link-key", self.key),
            *("--workers", "2", "--center", str(CENTER), "--stripes", "none", "--worker-timeout", "60"),
        )
        self.address = self.distributor.until("ready")["address"]

    def launch(self, where: str, *options: str, environment: Mapping[str, str] | None = None) -> Stage:
        """Have two workers placed; return when they are ready."""
        self.launcher = Stage(
            self.processes,
            *("reconstruct", "--connect", self.address, "--link-key", self.key, "--output", self.volume),
            *("--refine", "1", "--dask", where, "--workers", "2", *options),
            environment=environment,
        )
        self.launcher.until("ready")
        return self.launcher

    def workers(self) -> list[psutil.Process]:
        """The reconstruction workers themselves, the one that was started first first."""
        found = []
        for process in self.processes.named("reconstruct"):
            with contextlib.suppress(psutil.Error):
                if "--dask" not in process.cmdline() and "-I" not in process.cmdline():
                    found.append(process)
        return sorted(found, key=psutil.Process.create_time)

    def until_received(self, count: int) -> None:
        """Wait until the distributor has so many projections."""
        while self.distributor.until("progress")["projections_received"] < count:
            pass

    def done(self, undisturbed: np.ndarray) -> dict[str, Any]:
        """Wait for the end; check that each projection is in each slice once; return the summary."""
        summary = self.launcher.done()
        self.received = self.distributor.done()
        assert self.received["projections_received"] == PROJECTIONS
        assert self.daq.done()["projections_sent"] == PROJECTIONS
        volume, attributes = read_volume(self.volume)
        np.testing.assert_array_equal(volume, undisturbed)
        assert attributes["projections_reconstructed"] == PROJECTIONS
        assert summary["projections_reconstructed"] == PROJECTIONS
        assert self.left(["volume.h5", "run.key"]) == []
        return summary

    def left(self, expected: Sequence[str]) -> list[str]:
        """Names in the folder that are not expected there."""
        return sorted({path.name for path in self.volume.parent.iterdir()} - set(expected))
