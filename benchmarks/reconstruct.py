"""Time of SIRT per projection and slice: ours, and ASTRA's where it is installed.

The unit is µs/(proj·slice): forward projection, back projection and update of one projection of one slice,
once. A sliding window of 32 views moves over a scan of 180 by `step` views per update, as in the streaming
pipeline; the last row works on all 180 views at once, as ASTRA does. ASTRA (GPL; not a dependency) runs its
CPU algorithm 'SIRT' with the 'linear' projector, on one thread, as its CPU code always does.

Ours reconstructs the circle inscribed in the slice by default; 'square' rows do all pixels, as ASTRA does.
Minimum and median of some repetitions are given: the machine may be busy with something else.

    python benchmarks/reconstruct.py
    python benchmarks/reconstruct.py --quick --json reconstruct.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ministream.kernels.sirt import SirtEngine, warm_up

VIEWS = 180
WINDOW = 32


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table; `step` is VIEWS for all views at once."""

    columns: int
    slices: int
    step: int
    threads: int
    support: str = "circle"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured: µs/(proj·slice), and projections per second of all slices."""

    who: str
    case: Case
    minimum_us: float
    median_us: float
    projections_per_s: float


def measure(who: str, case: Case, work: Callable[[], int], repeats: int) -> Result:
    """Time `work`, which returns the number of projections of one slice that it has worked on."""
    times = []
    done = work()
    for _ in range(repeats):
        start = time.perf_counter()
        done = work()
        times.append(time.perf_counter() - start)
    unit = 1e6 / (done * case.slices)
    return Result(
        who=who,
        case=case,
        minimum_us=min(times) * unit,
        median_us=statistics.median(times) * unit,
        projections_per_s=VIEWS / min(times),
    )


def ours(case: Case, repeats: int) -> Result:
    """Stream one scan; the views have been added before."""
    engine = SirtEngine(
        slices=case.slices,
        columns=case.columns,
        rotation_center=(case.columns - 1) / 2,
        views=VIEWS,
        threads=case.threads,
        support=case.support,
    )
    rows = np.random.default_rng(0).random((case.slices, case.columns), np.float32)
    for angle in np.linspace(0, math.pi, VIEWS, endpoint=False):
        engine.add_view(float(angle), rows)
    window = VIEWS if case.step == VIEWS else WINDOW

    def work() -> int:
        done = 0
        for arrived in range(case.step, VIEWS + 1, case.step):
            views = range(max(0, arrived - window), arrived)
            engine.update(views)
            done += len(views)
        return done

    return measure("ministream", case, work, repeats)


def astra_sirt(astra: Any, columns: int, repeats: int) -> Result:
    """Time all views at once, one slice, one thread; a difference of iterations leaves the set-up out."""
    angles = np.linspace(0, math.pi, VIEWS, endpoint=False)
    volume = astra.create_vol_geom(columns, columns)
    projection = astra.create_proj_geom("parallel", 1.0, columns, angles)
    projector = astra.create_projector("linear", projection, volume)
    sinogram = astra.data2d.create("-sino", projection, 1.0)
    image = astra.data2d.create("-vol", volume, 0.0)
    settings = astra.astra_dict("SIRT")
    settings |= {"ProjectorId": projector, "ProjectionDataId": sinogram, "ReconstructionDataId": image}
    algorithm = astra.algorithm.create(settings)
    astra.algorithm.run(algorithm, 1)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        astra.algorithm.run(algorithm, 1)
        middle = time.perf_counter()
        astra.algorithm.run(algorithm, 3)
        times.append((time.perf_counter() - middle - (middle - start)) / 2)
    astra.algorithm.clear()
    astra.projector.clear()
    astra.data2d.clear()
    return Result(
        who="astra linear",
        case=Case(columns=columns, slices=1, step=VIEWS, threads=1, support="square"),
        minimum_us=min(times) * 1e6 / VIEWS,
        median_us=statistics.median(times) * 1e6 / VIEWS,
        projections_per_s=VIEWS / min(times),
    )


def cases(quick: bool, threads: int) -> list[Case]:
    """List the rows, those that are worth comparing with one thread twice."""
    sizes = [(640, 2, 1), (640, 2, 4), (640, 2, VIEWS)]
    if not quick:
        sizes += [(640, 16, 4), (640, 64, 4), (640, 1, VIEWS), (1280, 2, 4), (1280, 1, VIEWS)]
    many = [Case(columns=n, slices=s, step=step, threads=threads) for n, s, step in sizes]
    single = [Case(columns=640, slices=2, step=step, threads=1) for step in (4, VIEWS)]
    square = [
        Case(columns=640, slices=2, step=step, threads=t, support="square")
        for step in (4, VIEWS)
        for t in sorted({1, threads})
    ]
    return [*many, *(single if threads > 1 else []), *square]


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="most threads [all cores]")
    options = parser.parse_args()
    repeats = 3 if options.quick else 5

    start = time.perf_counter()
    warm_up(options.threads)
    warm_up_s = time.perf_counter() - start
    print(f"warm-up {warm_up_s:.2f} s (long when the kernels had to be compiled)")

    try:
        astra = importlib.import_module("astra")
    except ImportError:
        astra = None
        print("astra-toolbox is not installed: no comparison")
    peers = {}
    if astra is not None:
        for columns in [640] if options.quick else [640, 1280]:
            peers[columns] = astra_sirt(astra, columns, repeats)

    print(f"\n{'':14}columns slices step threads support   min µs  median µs  proj/s  ASTRA/this  per core")
    results = [*peers.values(), *(ours(case, repeats) for case in cases(options.quick, options.threads))]
    for result in results:
        case = result.case
        peer = peers.get(case.columns)
        ratio = peer.minimum_us / result.minimum_us if peer else math.nan
        ratios = f"{ratio:11.1f} {ratio / case.threads:9.1f}" if peer else ""
        step = "all" if case.step == VIEWS else str(case.step)
        print(
            f"{result.who:14}{case.columns:7} {case.slices:6} {step:>4} {case.threads:7} {case.support:8}"
            f"{result.minimum_us:8.1f} {result.median_us:10.1f} {result.projections_per_s:7.0f}{ratios}"
        )
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "unit": "us per projection and slice",
                    "machine": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "warm_up_s": warm_up_s,
                    "results": [asdict(result) for result in results],
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
