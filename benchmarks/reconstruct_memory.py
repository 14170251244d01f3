"""How much memory an engine takes, beside what any Python program with these libraries takes.

    python benchmarks/reconstruct_memory.py COLUMNS SLICES VIEWS ARRIVALS

It prints one line of JSON: by how many bytes the peak of this process grew while an engine with VIEWS places
was made, ARRIVALS views came, and every 4 of them were followed by an update over 32. `reconstruct.py` runs
it as a process of its own for each case, because a process does not give all back.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

from ministream.kernels.sirt import SirtEngine, warm_up


def status_bytes(name: str) -> int:
    """Return a figure of this process's memory, such as VmRSS or VmHWM (its peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"the kernel does not tell {name}")


def growth_bytes(columns: int, slices: int, views: int, arrivals: int) -> int:
    """Return how much the peak grows while views arrive, each followed by an update over all held."""
    warm_up()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status_bytes("VmRSS")
    engine = SirtEngine(slices=slices, columns=columns, rotation_center=(columns - 1) / 2, views=views)
    rows = np.ones((slices, columns), np.float32)
    for arrival in range(arrivals):
        if engine.views == engine.capacity:
            engine.drop_view(arrival % views)
        engine.add_view(arrival * math.pi / 180, rows)
        if (arrival + 1) % 4 == 0:
            engine.update(range(max(0, engine.views - 32), engine.views))
    return status_bytes("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps({"growth_bytes": growth_bytes(*(int(number) for number in sys.argv[1:]))}))
