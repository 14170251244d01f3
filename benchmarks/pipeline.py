"""Throughput of the pipeline over a long path and a short one: projections per second, and their ratio.

DAQ, distributor and worker as processes of their own; a relay before the DAQ and one before the distributor
delay what passes by half the round trip in each direction, or by nothing. Both kinds take turns, so that what
else the machine does falls on both. The projections are those of the mini-app's case, 2 rows of 640 columns,
from a file as fast as they are taken.

The goal: over a round trip of 100 ms at least 90 % of what there is without.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --quick --json pipeline.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.delay_relay import DelayRelay

ROUND_TRIP_S = 0.1


class Stage:
    """A command of ``ministream``, and its events."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ministream", *arguments, "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )

    def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of that kind."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        raise SystemExit(f"{self.process.args} ended without {kind}")


def write_scan(path: Path, projections: int) -> None:
    """Write a scan of a disc; what it shows does not matter, only that it is no trouble to read."""
    t = np.arange(640) - 319.5
    row = 100 + 60_000 * np.exp(-0.01 * np.sqrt(np.maximum(0, 250**2 - t**2)))
    with h5py.File(path, "w") as file:
        file["exchange/data"] = np.broadcast_to(row.astype(np.uint16), (projections, 2, 640))
        file["exchange/data_white"] = np.full((2, 2, 640), 60_100, np.uint16)
        file["exchange/data_dark"] = np.full((2, 2, 640), 100, np.uint16)
        file["exchange/theta"] = np.linspace(0, 180, projections, endpoint=False)
        file["exchange/theta"].attrs["units"] = "degrees"


def projections_per_s(scan: Path, projections: int, round_trip_s: float) -> float:
    """Stream one scan; return how many projections per second, from the first frame to the last credit."""
    with ExitStack() as stack:

        def stage(*arguments: str) -> Stage:
            made = Stage(*arguments)
            stack.callback(made.process.wait)
            stack.callback(made.process.terminate)
            return made

        def relay(target: str) -> str:
            return stack.enter_context(DelayRelay(target, delay_s=round_trip_s / 2)).address

        daq = stage("daq", str(scan))
        distributor = stage(
            *("distribute", "--connect", relay(daq.until("ready")["address"])),
            *("--center", "319.5", "--stripes", "none"),
        )
        worker = stage(
            *("reconstruct", "--connect", relay(distributor.until("ready")["address"])),
            *("--algorithm", "sirt", "--window", "32", "--step", "32", "--refine", "0"),
        )
        sent, received, done = daq.until("done"), distributor.until("done"), worker.until("done")
        counts = {
            sent["projections_sent"],
            received["projections_received"],
            done["projections_reconstructed"],
        }
        if counts != {projections}:
            raise SystemExit(f"of {projections} projections {counts} were sent, received or reconstructed")
        return float(projections / sent["seconds"])


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shorter pair")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    projections, repeats = (4000, 1) if options.quick else (10_000, 5)
    near, far = [], []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.h5"
        write_scan(scan, projections)
        for _ in range(repeats):
            near.append(projections_per_s(scan, projections, 0.0))
            far.append(projections_per_s(scan, projections, ROUND_TRIP_S))
            print(
                f"{near[-1]:7.0f} projections/s over loopback, {far[-1]:7.0f} over a round trip of "
                f"{ROUND_TRIP_S * 1000:.0f} ms: {far[-1] / near[-1]:.2f}",
                flush=True,
            )
    # those of a pair ran one after the other: what else the machine does slows both down alike, mostly
    ratio = statistics.median(there / here for there, here in zip(far, near, strict=True))
    print(f"median of the pairs: {ratio:.2f}; best of each kind: {max(far) / max(near):.2f}")
    if options.json:
        figures = {
            "projections_per_second_loopback": max(near),
            "projections_per_second_100ms": max(far),
            "ratio_100ms_to_loopback": ratio,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
