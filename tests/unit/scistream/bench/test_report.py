"""Reports as text, and the section of a Markdown file that is written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scistream.bench import check_section, replace_section, table_lines, to_markdown
from scistream.bench.figures import Table
from scistream.bench.goals import judge
from scistream.bench.report import BEGIN, END
from scistream.errors import ConfigurationError

TABLE: Table = {"ours": {"gbps": 40.0, "cpu_s_per_gb": 0.1}, "haproxy": {"gbps": 20.0}, "direct": {"gbps": 0}}
REPORT: dict[str, Any] = {
    "kind": "relays",
    "figures": {"plain, 1 hop, 1 stream": TABLE},
    "goals": judge({"plain_throughput_vs_best": 2.0, "rtt64_vs_haproxy": 1.3, "idle_bytes": 1500.0}),
    "effort": {"rounds": 5},
    "machine": {
        "kernel": "6.1",
        "architecture": "x86_64",
        "cores": 2,
        "python": "3.11",
        "congestion": "cubic",
        "load_average": 0.1,
    },
    "versions": {
        "haproxy": "HAProxy version 2.6.12-1+deb12u1 2023/12/16",
        "nginx": "nginx version: nginx/1.22.1",
        "stunnel": "stunnel 5.68 on x86_64",
    },
    "measured_at": 0.0,
    "duration_s": 12.3,
    "note": None,
}


def test_a_table_divides_ours_by_each_and_leaves_out_what_was_not_measured() -> None:
    title, head, ours, haproxy, direct = table_lines("plain", TABLE)
    assert title == "plain"
    assert head.split() == ["Gb/s", "ours", "/", "it", "CPU", "s/GB", "ours", "/", "it"]
    assert ours.split() == ["ours", "40", "1.00", "0.1", "1.00"]
    assert haproxy.split() == ["haproxy", "20", "2.00", "-", "-"]
    assert direct.split() == ["direct", "0", "-", "-", "-"]
    assert len({len(line) for line in (head, ours, haproxy, direct)}) == 1


def test_a_path_divides_through_by_direct() -> None:
    *_, direct = table_lines("64 B", {"through": {"p50_us": 150.0}, "direct": {"p50_us": 30.0}})
    assert direct.split() == ["direct", "30", "5.00"]


def test_the_section_says_where_it_was_measured_and_which_goals_are_met() -> None:
    text = to_markdown(REPORT)
    for part in (
        "1970-01-01: 2 cores (x86_64), Linux 6.1, Python 3.11, cubic",
        "haproxy 2.6.12, nginx 1.22.1, stunnel 5.68;",
        "| `plain_throughput_vs_best` | 2.00 | ≥ 1 | met |",
        "| `rtt64_vs_haproxy` | 1.30 | ≤ 1.2 | falls short |",
        "| `idle_bytes` | 1500 | ≤ 1024 | falls short |",
        "plain, 1 hop, 1 stream\n",
    ):
        assert part in text


def test_only_what_is_between_the_marks_is_replaced_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(f"# before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    once = replace_section(check_section(path), REPORT)
    assert once.startswith(f"# before\n\n{BEGIN}\n")
    assert once.endswith(f"{END}\n\nafter\n")
    assert "old" not in once
    path.write_text(once)
    assert replace_section(check_section(path), REPORT) == once


@pytest.mark.parametrize("content", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_file_without_one_place_for_it_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.md"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="relay benchmark: begin"):
        check_section(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check_section(tmp_path / "missing.md")


def test_the_page_of_figures_has_the_place() -> None:
    check_section(Path(__file__).parents[4] / "docs" / "performance.md")
