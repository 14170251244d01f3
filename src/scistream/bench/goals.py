"""The ratios of ours to the peers that are tracked, and what they are meant to reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scistream.bench.chain import DIRECT
from scistream.bench.figures import FIGURES, Table, ratio
from scistream.bench.peers import OURS
from scistream.bench.scenarios import Place, idle_name, ping_name, set_up_name, streams_name

_BEST = "best"
_ALONE = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of ours, most often divided by a peer's.

    Parameters
    ----------
    name : str
        Of the ratio in reports.
    scenario, figure : str
    peer : str
        A contestant, the best one of them, or none: then it is the figure itself.
    bound : float or None
        What it is meant to be at least, or at most where less is better; None: it is only tracked.
    contestant : str
        Which of ours.
    """

    name: str
    scenario: str
    figure: str
    peer: str
    bound: float | None = None
    contestant: str = OURS

    @property
    def at_least(self) -> bool:
        """Whether `bound` is the least, not the most."""
        return FIGURES[self.figure].more_is_better

    def value(self, tables: Mapping[str, Table]) -> float | None:
        """Return what it is; None if that was not measured."""
        table = tables.get(self.scenario, {})
        own = table.get(self.contestant, {}).get(self.figure)
        if self.peer == _ALONE:
            return own
        if self.peer == _BEST:
            theirs = [
                figures[self.figure]
                for name, figures in table.items()
                if name != DIRECT and not name.startswith(OURS) and self.figure in figures
            ]
            return ratio(own, max(theirs)) if theirs else None
        return ratio(own, table.get(self.peer, {}).get(self.figure))

    def met(self, value: float) -> bool | None:
        """Whether `value` is good enough."""
        if self.bound is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound


def _goals() -> Iterator[Goal]:
    one = streams_name(Place.PLAIN_1, 1)
    yield Goal("plain_cpu_vs_haproxy_splice", one, "cpu_s_per_gb", "haproxy-splice", 1.1)
    yield Goal("plain_cpu_vs_haproxy_default", one, "cpu_s_per_gb", "haproxy", 0.3)
    yield Goal("plain_cpu_vs_nginx_default", one, "cpu_s_per_gb", "nginx", 0.3)
    yield Goal("plain_throughput_vs_best", one, "gbps", _BEST, 1.0)
    for count in (64, 512):
        scenario = streams_name(Place.PLAIN_1, count)
        yield Goal(f"plain_throughput_{count}_vs_best", scenario, "gbps", _BEST, 1.0)
        yield Goal(f"plain_cpu_{count}_vs_haproxy_splice", scenario, "cpu_s_per_gb", "haproxy-splice", 1.1)
    for place, prefix in ((Place.TLS, "tls"), (Place.TLS_ALL_CORES, "tls_all_cores")):
        for count, infix in ((1, ""), (8, "_8")):
            scenario, name = streams_name(place, count), f"{prefix}_throughput{infix}"
            yield Goal(f"{name}_vs_stunnel", scenario, "gbps", "stunnel", 1.4)
            yield Goal(f"{name}_vs_haproxy", scenario, "gbps", "haproxy", 1.2)
            yield Goal(f"{name}_vs_haproxy_256k", scenario, "gbps", "haproxy-256k", 1.0)
            yield Goal(f"{name}_vs_nginx", scenario, "gbps", "nginx")
    tls = streams_name(Place.TLS, 1)
    yield Goal("tls_stdlib_throughput_vs_stunnel", tls, "gbps", "stunnel", 1.05, "ours-stdlib")
    yield Goal("tls_cpu_vs_stunnel", tls, "cpu_s_per_gb", "stunnel")
    yield Goal("tls_cpu_vs_haproxy", tls, "cpu_s_per_gb", "haproxy")
    yield Goal("rtt64_vs_haproxy", ping_name(Place.PLAIN_2), "p50_us", "haproxy", 1.2)
    yield Goal("tls_rtt64_vs_haproxy", ping_name(Place.TLS), "p50_us", "haproxy", 1.3)
    yield Goal("connections_vs_haproxy", set_up_name(Place.PLAIN_1), "per_s", "haproxy", 0.8)
    yield Goal("tls_connections_vs_haproxy", set_up_name(Place.TLS), "per_s", "haproxy", 0.67)
    yield Goal("idle_bytes", idle_name(Place.PLAIN_1), "bytes_per_connection", _ALONE, 1024)
    yield Goal("tls_idle_bytes", idle_name(Place.TLS), "bytes_per_connection", _ALONE, 60 * 1024)


GOALS = tuple(_goals())


def ratios(tables: Mapping[str, Table]) -> dict[str, float]:
    """Return what is tracked, as far as it was measured."""
    found = {goal.name: goal.value(tables) for goal in GOALS}
    return {name: value for name, value in found.items() if value is not None}


def judge(tracked: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return name, value, bound, whether that is the least, whether it is met, of each that has one."""
    return [
        {
            "name": goal.name,
            "value": tracked[goal.name],
            "goal": goal.bound,
            "at_least": goal.at_least,
            "met": goal.met(tracked[goal.name]),
        }
        for goal in GOALS
        if goal.name in tracked and goal.bound is not None
    ]
