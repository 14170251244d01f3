"""What `benchmarks/reconstruct.py` measured, as text and as the section of a Markdown page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BEGIN = (
    "<!-- reconstruction benchmark: begin (written by benchmarks/reconstruct.py --markdown: do not edit) -->"
)
END = "<!-- reconstruction benchmark: end -->"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What was wanted of a figure; its value is None where it could not be measured."""

    name: str
    value: float | None
    goal: float
    at_least: bool

    @property
    def met(self) -> bool | None:
        """Whether it is reached."""
        if self.value is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def replace_section(page: str, section: str) -> str:
    """Return the page with what is between the marks written anew."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise SystemExit(
            f"the page has no place for the section; write these two lines into it: {BEGIN} and {END}"
        )
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def show(report: Mapping[str, Any]) -> None:
    """Print it."""
    print("\n".join(_text(report)))


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the section: machine, goals, figures."""
    where = dict(report["machine"])
    when = time.strftime("%Y-%m-%d", time.gmtime(report["measured_at"]))
    versions = ", ".join(
        f"{name} {where[name]}" for name in ("numba", "numpy", "scipy", "astra-toolbox") if name in where
    )
    lines = [
        f"{when}: {where['cores']} cores ({where['architecture']}), {where['threads']} threads at most, "
        f"Python {where['python']}, {versions}; load average at the start {where['load_average']:.2f}; "
        f"{report['duration_s']:.0f} s.",
        "",
        "| figure | value | goal | |",
        "|---|---|---|---|",
        *(f"| {name} | {value} | {goal} | {verdict} |" for name, value, goal, verdict in _goals(report)),
        "",
        "```text",
        *_tables(report),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _text(report: Mapping[str, Any]) -> Iterator[str]:
    yield from _tables(report)
    yield ""
    for name in report["definitions"]:
        yield f"{name:40} {_figure(report[name])}"
    yield ""
    for name, value, goal, verdict in _goals(report):
        yield f"{name:40} {value:>10}  goal {goal:8} {verdict}"
    yield f"\n{report['duration_s']:.0f} s in all"


def _goals(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for goal in report["goals"]:
        verdict = {True: "met", False: "falls short", None: "not measured"}[goal["met"]]
        sign = "≥" if goal["at_least"] else "≤"
        yield goal["name"], _figure(goal["value"]), f"{sign} {goal['goal']:g}", verdict


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _tables(report: Mapping[str, Any]) -> Iterator[str]:
    rows: Sequence[Mapping[str, Any]] = report["rows"]
    yield "µs per projection and slice, medians (least, most)"
    yield f"{'':14}columns slices threads support views step       µs    least     most  projections/s"
    for row in rows:
        rate = row["projections_per_second"]
        yield (
            f"{row['who']:14}{row['columns']:7} {row['slices']:6} {row['threads']:7} {row['support']:8}"
            f"{row['views']:4} {row['step'] or 'all':>4} {row['us_per_projection_slice']:8.1f} "
            f"{row['least_us']:8.1f} {row['most_us']:8.1f}  {'' if rate is None else f'{rate:13.0f}'}"
        ).rstrip()
    if report["extras"]:
        yield "\n16 slices, ms: filtered back projection of 32 views, SIRT of 32, total variation (10 steps)"
        for one in report["extras"]:
            yield (
                f"{one['columns']:7} columns {one['filtered_32_views_ms']:9.1f} "
                f"{one['update_32_views_ms']:9.1f} {one['total_variation_10_steps_ms']:9.1f}"
            )
    if report["quality"]:
        yield "\n256 x 256 Shepp-Logan, PSNR dB / SSIM after 20, 50 and 100 iterations"
        for key in dict.fromkeys(
            (one["support"], one["nonnegative"], one["who"]) for one in report["quality"]
        ):
            support, nonnegative, who = key
            scores = "   ".join(
                f"{one['psnr_db']:5.2f} / {one['ssim']:.3f}"
                for one in report["quality"]
                if (one["support"], one["nonnegative"], one["who"]) == key
            )
            yield f"{who:14}{support:8}{'non-negative' if nonnegative else '':14}{scores}"
