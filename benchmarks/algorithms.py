"""Which algorithm has the best image after how many views, and after how much computing.

Every algorithm reconstructs noisy phantoms, whose truth is known, and a real scan (`--scan`; the APS tooth),
each with its views in three orders. Measured is the SSIM of one slice of two, inside the circle, and the
processor time that the reconstruction has taken until then: on one thread, which other programs disturb
least. The real scan's reference is 100 iterations of non-negative SIRT over all views, which nothing
regularises. Since that favours what is like it, a second run leaves out every tenth view and predicts it;
the RMS difference says how good the slices are without a reference.

"no TV" is an algorithm without denoising (`--total-variation 0`).

    python benchmarks/algorithms.py --quick --json algorithms.json
    python benchmarks/algorithms.py --scan tooth.h5 --plot docs/images --markdown docs/reconstruction.md
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from ministream.algorithms import ALGORITHMS, DEFAULT_ALGORITHM, warm_up
from ministream.kernels.metrics import circle_mask
from ministream.kernels.sirt import SirtEngine
from ministream.sources import ViewOrder, open_source
from ministream.sources.order import view_order
from ministream.stages.correction import Corrector
from ministream.stages.reconstruction import Reconstruction

FloatArray = npt.NDArray[np.float32]

ORDERS = (ViewOrder.AS_MEASURED, ViewOrder.INTERLACED, ViewOrder.BIT_REVERSED)
PHOTONS = (100_000, 20_000, 5_000)
PASSES = 6
GOOD = 0.9
SLICES = 2
LEFT_OUT = 10
"""Every so manieth view of the real scan is left out and predicted."""
POLICIES = {
    **{name: {"algorithm": name} for name in ALGORITHMS},
    "window-replay, no TV": {"algorithm": "window-replay", "total_variation": 0.0},
}
PICTURED = ("sirt", DEFAULT_ALGORITHM)
BEGIN = "<!-- algorithms: begin (written by benchmarks/algorithms.py --markdown: do not edit) -->"
END = "<!-- algorithms: end -->"
TOOTH = Path(__file__).resolve().parents[2] / "shared" / "data" / "tooth.h5"
TOOTH_CENTER = 295.0


@dataclass(frozen=True, kw_only=True)
class Data:
    """A scan in the order of its angles, and what its image is compared with."""

    name: str
    title: str
    angles_rad: npt.NDArray[np.float64]
    rows: FloatArray
    center: float
    reference: FloatArray


@dataclass(frozen=True, kw_only=True)
class Result:
    """One algorithm on one scan; `views`, `seconds` and `ssim` after each mark, then after each pass."""

    data: str
    order: str
    policy: str
    views: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    refined_ssim: list[float] = field(default_factory=list)
    refined_seconds: list[float] = field(default_factory=list)

    def at(self, part: float) -> float:
        """Return the SSIM after this part of the views."""
        wanted = part * self.views[-1]
        return self.ssim[min(range(len(self.views)), key=lambda i: abs(self.views[i] - wanted))]

    def first_good(self, whole: list[float] | None = None) -> tuple[int, float] | None:
        """Return after how many views, and seconds, the SSIM stays good; None if it does not."""
        found = None
        for views, seconds, value in zip(self.views, self.seconds, whole or self.ssim, strict=True):
            if value < GOOD:
                found = None
            elif found is None:
                found = (views, seconds)
        return found


def read(source: str) -> tuple[npt.NDArray[np.float64], FloatArray, FloatArray | None, float | None]:
    """Return angles, attenuation (view, row, column), truth and centre of a scan, in its order."""
    angles, rows = [], []
    with open_source(source) as scan:
        corrector = Corrector(scan.describe())
        for frame in scan.frames(ViewOrder.AS_MEASURED):
            attenuation = corrector.take(frame)
            if attenuation is not None:
                angles.append(frame.angle_rad)
                rows.append(attenuation.copy())
        truth = scan.truth() if scan.has_truth else None
        return np.array(angles), np.array(rows), truth, scan.rotation_center


def phantom(photons: int) -> Data:
    """Return synthetic rock: grains and pores, of two heights."""
    source = f"phantom:columns=256,rows=4,projections=200,photons={photons},rings=0"
    angles, rows, truth, center = read(source)
    assert truth is not None
    assert center is not None
    return Data(
        name=f"rock-{photons}",
        title=f"rock, {photons:,} photons",
        angles_rad=angles,
        rows=rows[:, 1 : 1 + SLICES],
        center=center,
        reference=truth[1 : 1 + SLICES],
    )


def real(path: Path, center: float, threads: int) -> Data:
    """Return a real scan, with its long reconstruction as reference."""
    angles, rows, _, _ = read(str(path))
    rows = rows[:, :SLICES]
    engine = engine_of(angles, rows, center, threads)
    for _ in range(100):
        engine.update(np.arange(len(angles)))
    return Data(
        name="real",
        title=path.stem,
        angles_rad=angles,
        rows=rows,
        center=center,
        reference=engine.volume.copy(),
    )


def engine_of(angles: npt.NDArray[np.float64], rows: FloatArray, center: float, threads: int) -> SirtEngine:
    """Return an engine that has these views."""
    engine = SirtEngine(
        slices=rows.shape[1],
        columns=rows.shape[2],
        rotation_center=center,
        views=len(angles),
        threads=threads,
    )
    for angle, row in zip(angles, rows, strict=True):
        engine.add_view(float(angle), row)
    return engine


def reconstruction(data: Data, policy: str, views: int, threads: int) -> Reconstruction:
    """Return a reconstruction that has no views yet."""
    return Reconstruction(
        slices=data.rows.shape[1],
        columns=data.rows.shape[2],
        projections=views,
        rotation_center=data.center,
        threads=threads,
        **POLICIES[policy],  # type: ignore[arg-type]
    )


def stream(data: Data, order: ViewOrder, policy: str, threads: int) -> tuple[Result, list[float]]:
    """Reconstruct once; return also the SSIM of the whole slice, with its corners, after each mark."""
    count = len(data.angles_rad)
    subject = reconstruction(data, policy, count, threads)
    every = 4 if data.name == "real" else 8
    result = Result(data=data.name, order=order, policy=policy)
    whole = []
    spent = 0.0
    for arrived, view in enumerate(view_order(count, order), start=1):
        start = time.process_time()
        subject.add(float(data.angles_rad[view]), data.rows[view])
        if arrived == count:
            subject.finish()
        spent += time.process_time() - start
        if arrived % every == 0 or arrived == count:
            result.views.append(arrived)
            result.seconds.append(spent)
            in_circle, in_all = judged(subject.volume[0], data.reference[0])
            result.ssim.append(in_circle)
            whole.append(in_all)
    for _ in range(PASSES):
        start = time.process_time()
        subject.refine()
        spent += time.process_time() - start
        result.refined_ssim.append(judged(subject.volume[0], data.reference[0])[0])
        result.refined_seconds.append(spent)
    return result, whole


def judged(image: FloatArray, reference: FloatArray) -> tuple[float, float]:
    """Return the SSIM inside the circle, as `ministream.kernels.metrics.ssim`, and of the whole slice."""
    _, similarity = structural_similarity(
        image.astype(np.float64),
        reference.astype(np.float64),
        data_range=float(np.ptp(reference)),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(similarity[circle_mask(len(image))].mean()), float(similarity.mean())


def quickest(runs: list[Result]) -> Result:
    """Return the run with the shortest times, the machine may be busy: the images are the same."""
    first = runs[0]
    first.seconds[:] = [min(times) for times in zip(*(run.seconds for run in runs), strict=True)]
    first.refined_seconds[:] = [
        min(times) for times in zip(*(run.refined_seconds for run in runs), strict=True)
    ]
    return first


def prediction_error(data: Data, policy: str, threads: int) -> list[float]:
    """Return the RMS residual of views left out, after the stream and after each pass."""
    count = len(data.angles_rad)
    out = np.arange(LEFT_OUT // 2, count, LEFT_OUT)
    judge = engine_of(data.angles_rad[out], data.rows[out], data.center, threads)
    order = [view for view in view_order(count, ViewOrder.INTERLACED) if view not in out]
    subject = reconstruction(data, policy, len(order), threads)
    for view in order:
        subject.add(float(data.angles_rad[view]), data.rows[view])
    subject.finish()
    errors = []
    for refined in range(PASSES + 1):
        if refined:
            subject.refine()
        judge.volume[:] = subject.volume
        errors.append(judge.residual(np.arange(len(out))))
    return errors


def pictures(data: Data, threads: int, folder: Path) -> None:
    """Write slice 0 after parts of the views, in bit-reversed order, beside the reference."""
    from matplotlib.figure import Figure

    count = len(data.angles_rad)
    figure = Figure(figsize=(8.4, 4.6), dpi=100, layout="constrained")
    axes = figure.subplots(len(PICTURED), 4)
    high = float(np.percentile(data.reference[0], 99.8))
    for line, policy in zip(axes, PICTURED, strict=True):
        subject = reconstruction(data, policy, count, threads)
        place = 0
        for arrived, view in enumerate(view_order(count, ViewOrder.BIT_REVERSED), start=1):
            subject.add(float(data.angles_rad[view]), data.rows[view])
            if arrived in (count // 4, count // 2, count):
                value, _ = judged(subject.volume[0], data.reference[0])
                line[place].imshow(subject.volume[0], cmap="gray", vmin=0, vmax=high)
                line[place].set_title(f"{policy}, {arrived} views: {value:.2f}", fontsize=8)
                place += 1
        line[3].imshow(data.reference[0], cmap="gray", vmin=0, vmax=high)
        line[3].set_title("truth" if data.name.startswith("rock") else "SIRT, 100 x all views", fontsize=8)
    for each in axes.flat:
        each.set_axis_off()
    write_figure(figure, folder / f"reconstruction-{data.name}.png")


def curves(data: Data, results: list[Result], folder: Path) -> None:
    """Draw SSIM against views and against seconds, for each order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.0), dpi=90, layout="constrained")
    axes = figure.subplots(2, len(ORDERS), sharey=True)
    for column, order in enumerate(ORDERS):
        upper, lower = axes[0, column], axes[1, column]
        for result in results:
            if (result.data, result.order) != (data.name, order):
                continue
            style = "--" if "no TV" in result.policy else "-"
            color = f"C{list(ALGORITHMS).index(result.policy.split(',')[0])}"
            upper.plot(result.views, result.ssim, style, color=color, label=result.policy)
            seconds = [*result.seconds, *result.refined_seconds]
            lower.plot(seconds, [*result.ssim, *result.refined_ssim], style, color=color)
            lower.plot(result.seconds[-1], result.ssim[-1], "o", color=color, markersize=4)
        upper.set_title(f"{data.title}\n{order}", fontsize=9)
        upper.set_xlabel("views", fontsize=8)
        lower.set_xlabel("processor seconds (o: last view)", fontsize=8)
        lower.set_xscale("log")
        for each in (upper, lower):
            each.grid(alpha=0.3)
            each.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("SSIM")
    axes[1, 0].set_ylabel("SSIM")
    axes[0, -1].legend(fontsize=7)
    write_figure(figure, folder / f"reconstruction-curves-{data.name}.png")


def write_figure(figure: Any, path: Path) -> None:
    """Write a PNG of few colours, which is small."""
    import io

    from PIL import Image

    room = io.BytesIO()
    figure.savefig(room, format="png")
    image = Image.open(room).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def table(
    data: list[Data], results: list[Result], whole: dict[tuple[str, str, str], list[float]]
) -> list[str]:
    """Return the results as Markdown."""
    lines = []
    for each in data:
        lines += [
            f"### {each.title}",
            "",
            "| order | algorithm | SSIM after 25 / 50 / 75 / 100 % | after 1 / 2 / 3 / 6 passes "
            "| seconds: stream, + 3 passes | SSIM ≥ 0.9 from (views, s) |",
            "|---|---|---|---|---|---|",
        ]
        for one in (result for result in results if result.data == each.name):
            parts = " / ".join(f"{one.at(part):.2f}" for part in (0.25, 0.5, 0.75, 1))
            passes = " / ".join(f"{one.refined_ssim[i]:.2f}" for i in (0, 1, 2, PASSES - 1))
            good = one.first_good()
            text = "-" if good is None else f"{good[0]}, {good[1]:.2f}"
            if each.name == "real":
                of_whole = one.first_good(whole[(one.data, one.order, one.policy)])
                text += (
                    " (whole slice: "
                    + ("-" if of_whole is None else f"{of_whole[0]}, {of_whole[1]:.2f}")
                    + ")"
                )
            lines.append(
                f"| {one.order} | {one.policy} | {parts} | {passes} "
                f"| {one.seconds[-1]:.2f}, {one.refined_seconds[2]:.2f} | {text} |"
            )
        lines.append("")
    return lines


def prediction_table(predicted: dict[str, list[float]]) -> list[str]:
    """Return how well views left out were predicted, as Markdown."""
    if not predicted:
        return []
    return [
        "Views of the real scan that were left out, every tenth: RMS difference to what the slices predict.",
        "",
        "| algorithm | after the last view | after 1 / 2 / 3 / 6 passes |",
        "|---|---|---|",
        *(
            f"| {policy} | {errors[0]:.4f} | "
            + " / ".join(f"{errors[i]:.4f}" for i in (1, 2, 3, PASSES))
            + " |"
            for policy, errors in predicted.items()
        ),
        "",
    ]


def summary(results: list[Result]) -> dict[str, Any]:
    """Return for each policy the means over everything: the default is chosen by them."""
    means = {}
    for policy in POLICIES:
        own = [result for result in results if result.policy == policy]
        means[policy] = {
            "ssim_while_streaming": float(np.mean([np.mean(result.ssim) for result in own])),
            "ssim_last_view": float(np.mean([result.ssim[-1] for result in own])),
            "ssim_refined_3": float(np.mean([result.refined_ssim[2] for result in own])),
            "ssim_refined_6": float(np.mean([result.refined_ssim[-1] for result in own])),
            "seconds_stream": float(np.mean([result.seconds[-1] for result in own])),
            "seconds_refined_3": float(np.mean([result.refined_seconds[2] for result in own])),
            "reached_0_9": sum(result.first_good() is not None for result in own) / len(own),
        }
    return means


def summary_table(means: dict[str, Any]) -> list[str]:
    """Return the means as Markdown."""
    lines = [
        "| algorithm | SSIM, mean over the stream | at the last view | after 3 / 6 passes "
        "| seconds: stream, + 3 passes | SSIM stays ≥ 0.9 in |",
        "|---|---|---|---|---|---|",
    ]
    for policy, mean in means.items():
        lines.append(
            f"| {policy} | {mean['ssim_while_streaming']:.3f} | {mean['ssim_last_view']:.3f} "
            f"| {mean['ssim_refined_3']:.3f} / {mean['ssim_refined_6']:.3f} "
            f"| {mean['seconds_stream']:.2f}, {mean['seconds_refined_3']:.2f} "
            f"| {100 * mean['reached_0_9']:.0f} % of scans |"
        )
    return [*lines, ""]


def write_between(path: Path, lines: list[str]) -> None:
    """Put the lines into the file, between its marks."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"{path} has no lines {BEGIN!r} and {END!r}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + "\n".join([BEGIN, "", *lines, END]) + after, encoding="utf-8")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one phantom, bit-reversed and interlaced, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw curves and slices there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables between its marks")
    parser.add_argument("--scan", type=Path, default=TOOTH, help="real scan; left out where it is missing")
    parser.add_argument("--center", type=float, default=TOOTH_CENTER, help="its rotation centre")
    parser.add_argument("--repeats", type=int, default=1, help="runs of which the quickest counts [1]")
    parser.add_argument("--threads", type=int, default=1, help="threads [1]")
    options = parser.parse_args()
    orders = ORDERS[1:] if options.quick else ORDERS

    warm_up(options.threads)
    data = [phantom(photons) for photons in (PHOTONS[1:2] if options.quick else PHOTONS)]
    if options.quick:
        pass
    elif options.scan.is_file():
        data.append(real(options.scan, options.center, options.threads))
    else:
        print(f"{options.scan} is not there: phantoms only")
    results, whole = [], {}
    for each in data:
        for order in orders:
            for policy in POLICIES:
                runs = [stream(each, order, policy, options.threads) for _ in range(options.repeats)]
                result = quickest([run for run, _ in runs])
                whole[(each.name, str(order), policy)] = runs[0][1]
                results.append(result)
                print(
                    f"{each.name:12} {order:13} {policy:21} "
                    + " ".join(f"{result.at(part):.3f}" for part in (0.25, 0.5, 0.75, 1))
                    + " | "
                    + " ".join(f"{value:.3f}" for value in result.refined_ssim)
                    + f" | {result.seconds[-1]:.2f} {result.refined_seconds[2]:.2f} s",
                    flush=True,
                )
    predicted = {}
    if data[-1].name == "real":
        predicted = {policy: prediction_error(data[-1], policy, options.threads) for policy in POLICIES}
    means = summary(results)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}: {options.threads} thread, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}; {SLICES} slices; window 32, step 4.",
        "",
        "Means over all data and orders:",
        "",
        *summary_table(means),
        *prediction_table(predicted),
        *table(data, results, whole),
    ]
    print("\n".join(lines))
    if options.plot:
        for each in data:
            curves(each, results, options.plot)
            if each.name in ("real", "rock-20000"):
                pictures(each, options.threads, options.plot)
    if options.markdown:
        write_between(options.markdown, lines)
    if options.json:
        content = {
            "threads": options.threads,
            "default": DEFAULT_ALGORITHM,
            "means": means,
            "prediction_error": predicted,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
