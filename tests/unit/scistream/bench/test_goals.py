"""The ratios that are tracked, from tables whose ratios are known."""

from __future__ import annotations

import pytest

from scistream.bench.figures import Table
from scistream.bench.goals import GOALS, judge, ratios

PLAIN = "plain, 1 hop, 1 stream"
TABLE: Table = {
    "ours": {"gbps": 40.0, "cpu_s_per_gb": 0.11},
    "ours-stdlib": {"gbps": 90.0, "cpu_s_per_gb": 0.1},
    "haproxy": {"gbps": 20.0, "cpu_s_per_gb": 0.55},
    "haproxy-splice": {"gbps": 50.0, "cpu_s_per_gb": 0.1},
    "direct": {"gbps": 80.0},
}


def test_ours_is_divided_by_each_peer_and_by_the_best_which_is_neither_ours_nor_direct() -> None:
    found = ratios({PLAIN: TABLE})
    assert found == pytest.approx(
        {
            "plain_cpu_vs_haproxy_splice": 1.1,
            "plain_cpu_vs_haproxy_default": 0.2,
            "plain_throughput_vs_best": 0.8,
        }
    )


def test_less_cpu_and_more_throughput_meet_their_goals() -> None:
    verdicts = {one["name"]: one for one in judge(ratios({PLAIN: TABLE}))}
    assert verdicts["plain_cpu_vs_haproxy_default"]["met"]
    assert not verdicts["plain_cpu_vs_haproxy_default"]["at_least"]
    assert not verdicts["plain_throughput_vs_best"]["met"]
    assert verdicts["plain_throughput_vs_best"]["at_least"]


def test_a_figure_without_a_peer_is_judged_as_it_is() -> None:
    tables = {"TLS, 2 hops, idle connection": {"ours": {"bytes_per_connection": 61441.0}}}
    assert ratios(tables) == {"tls_idle_bytes": 61441.0}
    (verdict,) = judge(ratios(tables))
    assert (verdict["goal"], verdict["met"]) == (61440, False)


def test_a_peer_that_used_nothing_gives_no_ratio() -> None:
    tables = {PLAIN: {"ours": {"cpu_s_per_gb": 1.0}, "haproxy": {"cpu_s_per_gb": 0.0}}}
    assert ratios(tables) == {}


def test_names_are_unique_and_what_the_benchmark_is_asked_for_is_there() -> None:
    names = [goal.name for goal in GOALS]
    assert len(names) == len(set(names))
    assert {
        "plain_cpu_vs_haproxy_splice",
        "plain_cpu_vs_haproxy_default",
        "plain_throughput_vs_best",
        "plain_throughput_64_vs_best",
        "plain_throughput_512_vs_best",
        "tls_throughput_vs_stunnel",
        "tls_throughput_vs_haproxy",
        "tls_all_cores_throughput_8_vs_haproxy_256k",
        "rtt64_vs_haproxy",
        "tls_connections_vs_haproxy",
    } <= set(names)
