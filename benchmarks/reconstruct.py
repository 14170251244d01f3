"""Time of SIRT per projection and slice: ours, ASTRA's and a sparse matrix's, in one run.

    python benchmarks/reconstruct.py [--quick] [--json FILE] [--markdown docs/performance.md] [--threads N]

ASTRA is `pip install 'ministream[benchmark]'` (GPL: never a dependency); without it, its rows are left out.
The sparse matrix is SciPy's CSR, of Joseph's method, which this benchmark builds.

Contestants are asked for one round at a time, in turn, so that what else the machine does falls on all alike.
A figure is the median over the rounds, a ratio the median of the ratios of each round.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reconstruct_contestants import SCAN, WINDOW, AllViews, Astra, Contestant, Matrix, Window
from reconstruct_extras import Extra, extras
from reconstruct_quality import Quality, qualities
from reconstruct_report import Goal, replace_section, show, to_markdown

from ministream.kernels.sirt import warm_up

DEFINITIONS = {
    "speedup_vs_astra_per_core": (
        "time of ASTRA's CPU SIRT 'linear' by ours, both on one thread, on the same pixels: all 640 x 640 of "
        "one slice, 32 views, all in each iteration"
    ),
    "speedup_vs_csr_per_core": (
        "time of SIRT by a CSR matrix and its transpose by ours, both on one thread, on all 640 x 640 pixels "
        "of two slices, 32 views in each iteration"
    ),
    "us_per_projection_slice": (
        "µs for the forward and back projection and the update of one projection of one slice, once: 640 "
        "columns, 2 slices, window of 32, step 4, all cores; the circle inscribed in the slice, as the "
        "pipeline does it; taking the projection in and its tables included"
    ),
    "us_per_projection_slice_square": "the same with all 640 x 640 pixels of each slice",
    "projections_per_second_step4": (
        "projections that come per second, sustained: 640 columns, 2 slices, an update over the newest 32 "
        "after every 4, all cores; the circle"
    ),
    "projections_per_second_step4_square": "the same with all 640 x 640 pixels of each slice",
    "projections_per_second_step1": "as step4, with an update after each projection",
    "projections_per_second_step1_square": "the same with all 640 x 640 pixels of each slice",
    "growth_with_slices": (
        "µs per projection and slice with 64 slices by those with 2 (640 columns, step 4, all cores, "
        "circle): 1 is linear growth of the time with the slices"
    ),
    "growth_with_views": (
        "µs per projection and slice with 720 views in each update by those with 90 (2 slices)"
    ),
    "memory_window": (
        "by how much a process grows for the sliding window, 64 slices of 640 columns, 180 projections, in "
        "volumes of the slices; the goal is 2 and the window"
    ),
    "memory_window_2_slices": "the same with 2 slices",
    "memory_all_views": "as memory_window, all 180 views kept, as replay and subsets need them",
    "ssim_minus_astra": (
        "SSIM of ours less ASTRA linear's after 20, 50 or 100 iterations, with and without non-negativity; "
        "the least of these; 256 x 256 Shepp-Logan, the circle (ASTRA by a mask)"
    ),
    "psnr_minus_astra_db": "the same with PSNR",
}
"""What each figure of the JSON's first level is."""

_QUICK_S = 8.0
_FULL_ROUNDS = 5
_VIEWS_FOR_GROWTH = (90, 180, 360, 720)


@dataclass(kw_only=True)
class Row:
    """A contestant and what its rounds took."""

    contestant: Contestant
    seconds: list[float] = field(default_factory=list)

    @property
    def us(self) -> float:
        """Median µs per projection and slice."""
        return statistics.median(self.seconds) * 1e6 / self.contestant.work

    @property
    def projections_per_s(self) -> float | None:
        """Median of the projections that come per second, None where none come."""
        arrivals = self.contestant.arrivals
        return arrivals / statistics.median(self.seconds) if arrivals else None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as the JSON has it."""
        spread = [second * 1e6 / self.contestant.work for second in self.seconds]
        return asdict(self.contestant.case) | {
            "us_per_projection_slice": self.us,
            "least_us": min(spread),
            "most_us": max(spread),
            "projections_per_second": self.projections_per_s,
            "rounds": len(spread),
        }


def interleaved(contestants: Sequence[Contestant], rounds: int, limit_s: float = math.inf) -> list[Row]:
    """Ask all for a round in turn, after one that does not count; three rounds at least."""
    rows = [Row(contestant=contestant) for contestant in contestants]
    start = time.monotonic()
    for contestant in contestants:
        contestant.round_s()
    for done in range(rounds):
        if done >= 3 and time.monotonic() - start > limit_s:
            break
        for row in rows:
            row.seconds.append(row.contestant.round_s())
    return rows


def ratio(theirs: Row, ours: Row) -> float:
    """Return the median over the rounds of their time by ours, per projection and slice."""
    return statistics.median(
        (a / theirs.contestant.work) / (b / ours.contestant.work)
        for a, b in zip(theirs.seconds, ours.seconds, strict=True)
    )


def headline(astra: Any, threads: int) -> list[Contestant]:
    """Return what the figures of the first level are made of."""
    window = {"columns": 640, "slices": 2, "threads": threads, "arrivals": 64}
    contestants: list[Contestant] = [
        Window(**window, step=step, support=support) for support in ("circle", "square") for step in (4, 1)
    ]
    contestants += [
        AllViews(columns=640, slices=1, views=WINDOW, threads=1, support="square"),
        AllViews(columns=640, slices=2, views=WINDOW, threads=1, support="square"),
        Matrix(columns=640, slices=2, views=WINDOW),
    ]
    if astra is not None:
        contestants.append(Astra(astra, columns=640, views=WINDOW))
    return contestants


def headline_figures(rows: Sequence[Row], threads: int) -> dict[str, float | None]:
    """Return the figures of the rows of `headline`."""
    four, one, four_square, one_square, ours_as_astra, ours_as_matrix, matrix = rows[:7]
    return {
        "speedup_vs_astra_per_core": ratio(rows[7], ours_as_astra) if len(rows) > 7 else None,
        "speedup_vs_csr_per_core": ratio(matrix, ours_as_matrix),
        "us_per_projection_slice": four.us,
        "us_per_projection_slice_square": four_square.us,
        "projections_per_second_step4": four.projections_per_s,
        "projections_per_second_step4_square": four_square.projections_per_s,
        "projections_per_second_step1": one.projections_per_s,
        "projections_per_second_step1_square": one_square.projections_per_s,
        "threads": threads,
    }


def sizes(astra: Any, columns: int, threads: int) -> list[Contestant]:
    """Return slices, steps and threads of one number of columns, and the peers."""
    contestants: list[Contestant] = [
        Window(
            columns=columns,
            slices=slices,
            step=step,
            threads=count,
            arrivals={2: 32, 16: 16, 64: 8}[slices],
        )
        for slices in (2, 16, 64)
        for step in (4, 1)
        for count in sorted({1, threads})
    ]
    # a matrix of 640 columns has 6.5 MB for each view, twice: of 1280, four times as much
    views = WINDOW * 640 * 640 // columns**2
    contestants += [
        Window(columns=columns, slices=2, step=4, threads=threads, arrivals=32, support="square"),
        AllViews(columns=columns, slices=1, views=views, threads=1, support="square"),
        Matrix(columns=columns, slices=1, views=views),
    ]
    contestants += [Matrix(columns=columns, slices=16, views=views)] if columns == 640 else []
    contestants += [Astra(astra, columns=columns, views=views)] if astra is not None else []
    return contestants


def growth(rows: Sequence[Row], threads: int) -> tuple[list[Row], dict[str, float | None]]:
    """Time updates over more and more views; return the rows, and how the time grows."""
    views = interleaved(
        [
            AllViews(columns=640, slices=2, views=count, threads=threads, support="circle")
            for count in _VIEWS_FOR_GROWTH
        ],
        _FULL_ROUNDS,
    )

    def of(slices: int) -> Row:
        return next(
            row
            for row in rows
            if row.contestant.case.slices == slices
            and (row.contestant.case.step, row.contestant.case.threads) == (4, threads)
            and row.contestant.case.support == "circle"
        )

    return views, {
        "growth_with_slices": ratio(of(64), of(2)),
        "growth_with_views": ratio(views[-1], views[0]),
    }


def memory(columns: int, slices: int, views: int) -> float:
    """Return by how many volumes a process grows that reconstructs a scan of 180 with places for `views`."""
    program = Path(__file__).with_name("reconstruct_memory.py")
    arguments = [str(number) for number in (columns, slices, views, SCAN)]
    done = subprocess.run(
        [sys.executable, str(program), *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    growth_bytes: int = json.loads(done.stdout)["growth_bytes"]
    return growth_bytes / (slices * columns * columns * 4)


def quality_figures(results: Sequence[Quality]) -> dict[str, float | None]:
    """Return the least that ours is better by, of the circle."""
    pairs = [
        (ours, theirs)
        for ours in results
        for theirs in results
        if (ours.who, theirs.who) == ("ministream", "ASTRA linear")
        and (ours.support, ours.nonnegative, ours.iterations)
        == (theirs.support, theirs.nonnegative, theirs.iterations)
        and ours.support == "circle"
    ]
    return {
        "ssim_minus_astra": min(ours.ssim - theirs.ssim for ours, theirs in pairs),
        "psnr_minus_astra_db": min(ours.psnr_db - theirs.psnr_db for ours, theirs in pairs),
    }


def goals(figures: dict[str, float | None], rows: Sequence[Row], threads: int) -> list[Goal]:
    """Return what was wanted beside what was reached."""
    wanted = [
        Goal(name=name, value=figures.get(name), goal=goal, at_least=at_least)
        for name, goal, at_least in (
            ("us_per_projection_slice", 55.0, False),
            ("us_per_projection_slice_square", 55.0, False),
            ("speedup_vs_astra_per_core", 30.0, True),
            ("projections_per_second_step4", 1000.0, True),
            ("projections_per_second_step1", 300.0, True),
            ("growth_with_slices", 1.25, False),
            ("growth_with_views", 1.25, False),
            # 2 volumes and the window: 32 rows for each slice
            ("memory_window", 2 + WINDOW / 640, False),
            ("memory_window_2_slices", 2 + WINDOW / 640, False),
            ("memory_all_views", 2 + WINDOW / 640, False),
            # what a difference in rounding, or of weights at the rim, makes is none
            ("ssim_minus_astra", -0.003, True),
            ("psnr_minus_astra_db", -0.05, True),
        )
        if name in figures
    ]
    for row in rows:
        case = row.contestant.case
        here = (case.columns, case.step, case.threads, case.support) == (640, 4, threads, "circle")
        if here and case.slices > 2:
            name = f"µs, {case.slices} slices, step 4"
            wanted.append(Goal(name=name, value=row.us, goal=55.0, at_least=False))
    return wanted


def find_astra() -> Any:
    """Return the module, or None, and say so, where it is not installed."""
    try:
        return importlib.import_module("astra")
    except ImportError:
        print("ASTRA is not installed, so it is left out (pip install 'ministream[benchmark]')")
        return None


def machine(astra: Any, threads: int) -> dict[str, Any]:
    """Return where it was measured, and with what."""
    packages = ["numba", "numpy", "scipy", *(["astra-toolbox"] if astra is not None else [])]
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        **{package: importlib.metadata.version(package) for package in packages},
    }


def parser() -> argparse.ArgumentParser:
    """Return the options, with what each figure of the JSON is."""
    definitions = "\n".join(f"  {name}\n      {text}" for name, text in DEFINITIONS.items())
    made = argparse.ArgumentParser(
        description=__doc__,
        epilog="Figures of the JSON's first level (from growth_with_slices on not with --quick; the goals\n"
        f"and all rows are in it too):\n{definitions}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="the first figures only, in less than 50 s")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write them into its section, too")
    made.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="most threads [all cores]"
    )
    return made


def main() -> None:
    """Measure, print, and write what is asked for."""
    options = parser().parse_args()
    page = options.markdown.read_text(encoding="utf-8") if options.markdown else ""
    if options.markdown:
        replace_section(page, "")  # an error now rather than in some minutes
    began = time.monotonic()
    where = machine(astra := find_astra(), options.threads)
    start = time.perf_counter()
    warm_up(options.threads)
    warm_up_s = time.perf_counter() - start
    print(f"warm-up {warm_up_s:.2f} s (long when the kernels had to be compiled)", flush=True)

    rows = interleaved(headline(astra, options.threads), 7, _QUICK_S if options.quick else math.inf)
    figures = headline_figures(rows, options.threads)
    judged: list[Quality] = []
    others: list[Extra] = []
    if not options.quick:
        medium, large = (
            interleaved(sizes(astra, columns, options.threads), _FULL_ROUNDS) for columns in (640, 1280)
        )
        more, grown = growth(medium, options.threads)
        rows += [*medium, *large, *more]
        figures |= grown
        figures["memory_window"] = memory(640, 64, WINDOW)
        figures["memory_window_2_slices"] = memory(640, 2, WINDOW)
        figures["memory_all_views"] = memory(640, 64, SCAN)
        others = extras(options.threads)
        if astra is not None:
            judged = qualities(astra)
            figures |= quality_figures(judged)
    report = {
        **figures,
        "definitions": {name: text for name, text in DEFINITIONS.items() if name in figures},
        "goals": [asdict(goal) | {"met": goal.met} for goal in goals(figures, rows, options.threads)],
        "rows": [row.as_dict() for row in rows],
        "quality": [asdict(one) for one in judged],
        "extras": [asdict(one) for one in others],
        "machine": where,
        "warm_up_s": warm_up_s,
        "measured_at": time.time(),
        "duration_s": time.monotonic() - began,
    }
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(replace_section(page, to_markdown(report)), encoding="utf-8")


if __name__ == "__main__":
    main()
