"""What was measured, as text: tables, goals, the section of a Markdown file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scistream.bench.chain import DIRECT
from scistream.bench.figures import FIGURES, Table, ratio
from scistream.bench.path import PATH, THROUGH
from scistream.bench.peers import OURS
from scistream.bench.relays import RELAYS
from scistream.errors import ConfigurationError

BEGIN = "<!-- relay benchmark: begin (written by benchmarks/relay.py --markdown: do not edit) -->"
END = "<!-- relay benchmark: end -->"
_LEAST_WIDTH = 7
_NOTHING = "-"


def cell(value: float | None) -> str:
    """Return a figure as people read it: three digits at least."""
    if value is None:
        return _NOTHING
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def columns(table: Table) -> Iterator[tuple[str, str, str | None]]:
    """Yield name and label of each figure, and the label of its ratio if that is shown."""
    names = list(dict.fromkeys(name for figures in table.values() for name in figures))
    reference = reference_of(table)
    for name in names:
        figure = FIGURES[name]
        shown = figure.compared and len(table) > 1
        yield name, figure.label, (f"{'ours' if reference == OURS else reference} / it" if shown else None)


def reference_of(table: Table) -> str:
    """Return whose figures are divided by the others': ours, or those through the session."""
    return OURS if OURS in table else THROUGH


def compared(table: Table, contestant: str, figure: str) -> float | None:
    """Return the reference's figure, divided by that of `contestant`."""
    return ratio(table[reference_of(table)].get(figure), table[contestant].get(figure))


def table_lines(title: str, table: Table) -> list[str]:
    """Return a table for people, in plain text."""
    columns_shown: list[tuple[str, list[str]]] = []  # heading, cells
    for name, label, over in columns(table):
        columns_shown.append((label, [cell(figures.get(name)) for figures in table.values()]))
        if over:
            ratios = [_two_digits(compared(table, contestant, name)) for contestant in table]
            columns_shown.append((over, ratios))
    widths = [2 + max(len(heading), _LEAST_WIDTH, *map(len, cells)) for heading, cells in columns_shown]
    first = 2 + max(map(len, table))
    lines = [title, "  " + " " * first + _row([heading for heading, _ in columns_shown], widths)]
    for index, contestant in enumerate(table):
        row = _row([cells[index] for _, cells in columns_shown], widths)
        lines.append(f"  {contestant:{first}}{row}")
    return lines


def _row(cells: list[str], widths: list[int]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(cells, widths, strict=True))


def _two_digits(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def goal_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return, of each goal: its name, the value, the goal, whether it is met."""
    return [
        (
            one["name"],
            _two_digits(one["value"]) if one["value"] < 100 else cell(one["value"]),
            f"{'≥' if one['at_least'] else '≤'} {one['goal']:g}",
            "met" if one["met"] else "falls short",
        )
        for one in report.get("goals", [])
    ]


def machine_line(report: Mapping[str, Any]) -> str:
    """Return when and where it was measured, in one line."""
    machine, versions = report["machine"], report["versions"]
    programs = ", ".join(_version(name, text) for name, text in versions.items())
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime(report['measured_at']))}: {machine['cores']} cores "
        f"({machine['architecture']}), Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['congestion']}; {programs}; load average at the start {machine['load_average']:.2f}; "
        f"{report['duration_s']:.0f} s"
    )


def _version(name: str, text: str) -> str:
    """Shorten what a program says of its version to name and number."""
    number = next(
        (word for part in text.split() for word in [part.rpartition("/")[2]] if word[:1].isdigit()), text
    )
    return f"{name} {number.partition('-')[0]}"


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a section of a Markdown file, without a heading."""
    lines = [f"{machine_line(report)}.", ""]
    if report.get("note"):
        lines += [f"Note: {report['note']}.", ""]
    if report["kind"] == RELAYS:
        lines += [
            f"Medians of {report['effort']['rounds']} interleaved rounds; relays on one core, load on "
            "another, unless it says all cores.",
            "",
        ]
        if report["goals"]:
            lines += ["| ratio, or figure in bytes | ours / theirs | goal | |", "|---|---|---|---|"]
            lines += [
                f"| `{name}` | {value} | {goal} | {verdict} |"
                for name, value, goal, verdict in goal_rows(report)
            ]
            lines.append("")
    elif report["kind"] == PATH:
        beside = f", {DIRECT}: {report['direct']}" if report["direct"] else ""
        lines += [
            f"{THROUGH}: {report['connect']}{beside}; medians of {report['rounds']} interleaved rounds.",
            "",
        ]
    lines.append("```text")
    for index, (name, table) in enumerate(report["figures"].items()):
        lines += [""] * (index > 0) + table_lines(name, table)
    return "\n".join([*lines, "```", ""])


def check_section(path: Path) -> str:
    """Return what `path` holds, which has to have the place of the section.

    Raises
    ------
    ConfigurationError
        It cannot be read, or has no such place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigurationError(
            f"{path} has no place for the section; write these two lines into it: {BEGIN} and {END}"
        )
    return text


def replace_section(text: str, report: Mapping[str, Any]) -> str:
    """Return `text` (of `check_section`) with the section between its two marks written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{to_markdown(report)}\n{END}{after}"
