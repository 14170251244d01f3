"""Measure a path through gateways that run already, beside the direct one: between two probe ends.

The far end (`scistream.client.probe.FarEnd`, ``s2uc probe --serve``) is where the session's target is. The
load goes to a session's listener, and in turn straight to the far end. CPU time is that of this host's
processes only: those that hold the listener, or those that were named.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from scistream.bench.chain import DIRECT
from scistream.bench.figures import Figures, Table, percentiles_us, ratio
from scistream.bench.machine import describe_machine, versions
from scistream.bench.processes import cpu_seconds, listening_processes, trees
from scistream.bench.relays import Step
from scistream.client.probe import Load
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError

PATH = "path"
THROUGH = "through"
MESSAGES = {"64 B": 64, "1 MiB": 1 << 20}
MAX_CONNECTIONS = 256
"""Of one throughput; the far end takes twice as many, and those of the last one may still be ending."""
_PINGS_SHARE = _SET_UPS_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPlan:
    """What to measure on a path.

    Parameters
    ----------
    connect : Endpoint
        A session's listener.
    direct : Endpoint or None
        The far end itself, to compare with.
    connections : tuple of int
        Of each throughput.
    seconds : float
        Of each throughput in each direction; half of it for each latency and for the set-up time.
    rounds : int
        Each figure is the median of so many.
    pids : tuple of int
        Processes of this host whose CPU time counts, with their children; none: those that hold the listener.

    Raises
    ------
    ConfigurationError
        A value cannot be used.
    """

    connect: Endpoint
    direct: Endpoint | None
    connections: tuple[int, ...]
    seconds: float
    rounds: int
    pids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.connections or not all(1 <= count <= MAX_CONNECTIONS for count in self.connections):
            raise ConfigurationError(f"connections are from 1 to {MAX_CONNECTIONS}, not {self.connections}")
        for pid in self.pids:
            if not psutil.pid_exists(pid):
                raise ConfigurationError(f"there is no process {pid} on this host")


Measure = Callable[[Load, Callable[[], float | None]], Figures]


def measure_path(
    plan: PathPlan,
    *,
    progress: Callable[[Step], None] = lambda _: None,
    show: Callable[[str, Table], None] = lambda _, __: None,
) -> dict[str, Any]:
    """Measure; return the report.

    Returns
    -------
    dict
        ``kind``, ``connect``, ``direct``, ``figures`` (scenario -> "through" and "direct" -> figure, see
        `FIGURES`), ``ratios`` (scenario -> figure -> through to direct), ``cpu_of`` (processes), ``machine``,
        ``versions``, ``connections``, ``seconds``, ``rounds``, ``measured_at`` (seconds since 1970),
        ``duration_s``.

    Raises
    ------
    NotAProbe
        What answers is no far end.
    PeerError
        The path or the far end fails.
    """
    machine, began, began_s = describe_machine(), time.time(), time.monotonic()
    roots = plan.pids or tuple(_holders(plan.connect))
    paths = {THROUGH: Load(plan.connect)}
    if plan.direct is not None:
        paths[DIRECT] = Load(plan.direct)
    wanted = dict(_scenarios(plan))
    results: dict[str, Table] = {}
    total, done = len(wanted) * len(paths) * plan.rounds, 0
    for scenario, measure in wanted.items():
        samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _ in range(plan.rounds):
            for name, load in paths.items():
                progress(Step(scenario=scenario, contestant=name, done=done, total=total))
                counted = roots if name == THROUGH else ()
                for figure, value in measure(load, _cpu_clock(counted)).items():
                    samples[name][figure].append(value)
                done += 1
        results[scenario] = {
            name: {figure: statistics.median(values) for figure, values in figures.items()}
            for name, figures in samples.items()
        }
        show(scenario, results[scenario])
    for name, load in paths.items():
        rates = [table[name] for table in results.values() if "to_here_gbps" in table[name]]
        load.finish(
            to_here_gbps=max(one["to_here_gbps"] for one in rates),
            from_here_gbps=max(one["from_here_gbps"] for one in rates),
        )
    return {
        "kind": PATH,
        "connect": str(plan.connect),
        "direct": None if plan.direct is None else str(plan.direct),
        "ratios": {name: _ratios(table) for name, table in results.items()} if plan.direct else {},
        "figures": results,
        "cpu_of": [_describe(pid) for pid in roots],
        "machine": machine,
        "versions": versions(),
        "connections": list(plan.connections),
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "measured_at": began,
        "duration_s": time.monotonic() - began_s,
    }


def _scenarios(plan: PathPlan) -> Iterator[tuple[str, Measure]]:
    def streams(count: int) -> Measure:
        def measure(load: Load, cpu: Callable[[], float | None]) -> Figures:
            before = cpu()
            there, back = load.from_here(count, plan.seconds), load.to_here(count, plan.seconds)
            after = cpu()
            figures = {"to_here_gbps": back.gbps, "from_here_gbps": there.gbps}
            if before is not None and after is not None:
                figures["cpu_s_per_gb"] = (after - before) / (there.total_bytes + back.total_bytes) * 1e9
            return figures

        return measure

    def echoes(size: int) -> Measure:
        return lambda load, _: percentiles_us(load.echo_times_ns(size, plan.seconds * _PINGS_SHARE))

    def set_ups(load: Load, _: Callable[[], float | None]) -> Figures:
        times_ns = load.set_up_times_ns(plan.seconds * _SET_UPS_SHARE)
        return {"per_s": 1e9 / statistics.mean(times_ns), **percentiles_us(times_ns)}

    for count in plan.connections:
        yield f"{count} connection{'' if count == 1 else 's'}", streams(count)
    for name, size in MESSAGES.items():
        yield f"{name} ping-pong", echoes(size)
    yield "new connections", set_ups


def _cpu_clock(roots: Sequence[int]) -> Callable[[], float | None]:
    """Return a function that tells the CPU time of `roots` and their children; None without any."""
    if not roots:
        return lambda: None
    pids = trees(roots)
    return lambda: cpu_seconds(pids)


def _holders(listener: Endpoint) -> list[int]:
    """Return the processes of this host that hold `listener`, if it is an address of this host."""
    here = {address.address for found in psutil.net_if_addrs().values() for address in found}
    try:
        found = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM)
    except OSError:  # connecting will say so
        return []
    addresses = {str(one[4][0]) for one in found} & here
    return listening_processes(listener.port, addresses) if addresses else []


def _describe(pid: int) -> dict[str, Any]:
    try:
        return {"pid": pid, "command": " ".join(psutil.Process(pid).cmdline()[:4])}
    except psutil.NoSuchProcess:
        return {"pid": pid, "command": "(ended meanwhile)"}


def _ratios(table: Table) -> dict[str, float | None]:
    return {figure: ratio(value, table[DIRECT].get(figure)) for figure, value in table[THROUGH].items()}
