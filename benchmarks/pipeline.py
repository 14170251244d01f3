"""Throughput of the pipeline over a long path and a short one: projections per second, and their ratio.

DAQ, distributor and worker as processes of their own; a relay before the DAQ and one before the distributor
delay what passes by half the round trip in each direction, or by nothing. Both kinds take turns, so that what
else the machine does falls on both. The projections are those of the mini-app's case: 2 rows, 640 columns.

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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


def projections_per_s(projections: int, round_trip_s: float) -> float:
    """Stream one scan; return how many projections per second, from the first frame to the last credit."""
    with ExitStack() as stack:

        def stage(*arguments: str) -> Stage:
            made = Stage(*arguments)
            stack.callback(made.process.wait)
            stack.callback(made.process.terminate)
            return made

        def relay(target: str) -> str:
            return stack.enter_context(DelayRelay(target, delay_s=round_trip_s / 2)).address

        daq = stage("daq", f"phantom:columns=640,rows=2,projections={projections}")
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
    projections, repeats = (2000, 1) if options.quick else (5000, 3)
    near, far = [], []
    for _ in range(repeats):
        near.append(projections_per_s(projections, 0.0))
        far.append(projections_per_s(projections, ROUND_TRIP_S))
        print(
            f"{near[-1]:7.0f} projections/s over loopback, {far[-1]:7.0f} over a round trip of "
            f"{ROUND_TRIP_S * 1000:.0f} ms: {far[-1] / near[-1]:.2f}",
            flush=True,
        )
    ratio = statistics.median(there / here for there, here in zip(far, near, strict=True))
    print(f"median {ratio:.2f}")
    if options.json:
        figures = {
            "projections_per_second_loopback": statistics.median(near),
            "projections_per_second_100ms": statistics.median(far),
            "ratio_100ms_to_loopback": ratio,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
