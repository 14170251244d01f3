"""What processes hold: descriptors by kind, threads, memory, listening ports."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Footprint:
    """One process at one moment.

    Parameters
    ----------
    descriptors : Counter of str
        How many of each kind; files and devices by their names.
    private_bytes : int
        Memory that would be free if it ended.
    """

    command: str
    descriptors: Counter[str]
    threads: int
    private_bytes: int

    @classmethod
    def of(cls, process: psutil.Process) -> Footprint:
        kinds: Counter[str] = Counter()
        for entry in os.scandir(f"/proc/{process.pid}/fd"):
            target = os.readlink(entry.path)
            kinds[target.split(":")[0] if target.startswith(("socket:", "pipe:")) else target] += 1
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        private_kb = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
        return cls(" ".join(process.cmdline()), kinds, process.num_threads(), private_kb * 1024)


def footprints(processes: Iterable[psutil.Process]) -> dict[int, Footprint]:
    return {process.pid: Footprint.of(process) for process in processes}


def listening_ports(processes: Iterable[psutil.Process]) -> set[int]:
    return {
        one.laddr.port
        for process in processes
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
