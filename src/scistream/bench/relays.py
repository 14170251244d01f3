"""Measure ours and the peers that are installed, in one run, on this host.

Relays run on one core, the load on another, except where all cores are measured. Each figure is the median
of interleaved rounds, so that what disturbs the machine disturbs everybody. Look at the ratios; the absolute
figures change from run to run. CPU seconds per gigabyte are the least disturbed.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scistream.bench.chain import Chain, Stage
from scistream.bench.figures import Figures, Table
from scistream.bench.goals import judge, ratios
from scistream.bench.machine import Cores, describe_machine, versions
from scistream.bench.peers import OURS, contestants, plain_contestants, tls_contestants
from scistream.bench.processes import raise_descriptor_limit
from scistream.bench.scenarios import BRIEFLY_LEFT_OUT, Effort, Part, Place, Scenario, scenarios
from scistream.bench.sink import Sink
from scistream.errors import ConfigurationError, DataServerError, SciStreamError

RELAYS = "relays"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a run is: what is measured now, on what."""

    scenario: str
    contestant: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPlan:
    """What to measure on this host.

    Parameters
    ----------
    effort : Effort
    cores : Cores
    parts : collection of Part
    only : collection of str
        Peers to compare ours with; none: all that are installed.

    Raises
    ------
    ConfigurationError
        A peer is not installed, or nothing is left to measure.
    """

    effort: Effort
    cores: Cores
    parts: Collection[Part] = tuple(Part)
    only: Collection[str] = ()

    def __post_init__(self) -> None:
        installed = [name for name in contestants() if name != OURS]
        for name in self.only:
            if name not in installed:
                raise ConfigurationError(
                    f"{name!r} is no peer that is installed here; these are: {', '.join(installed)}"
                )
        if not scenarios(self.effort, self.parts):
            raise ConfigurationError(
                f"nothing of {', '.join(self.parts)} is measured with so little effort; leave out --quick"
            )

    def takes(self, contestant: str) -> bool:
        """Whether this relay is measured."""
        if self.only:
            return contestant == OURS or contestant in self.only
        return not (self.effort.brief and contestant in BRIEFLY_LEFT_OUT)


def measure_relays(
    plan: RelayPlan,
    *,
    progress: Callable[[Step], None] = lambda _: None,
    show: Callable[[str, Table], None] = lambda _, __: None,
    note: str | None = None,
) -> dict[str, Any]:
    """Measure; return the report.

    Parameters
    ----------
    plan : RelayPlan
    progress : callable
        Called before each measurement.
    show : callable
        Called with each scenario's name and table once it is measured.
    note : str or None
        What to know about the figures.

    Returns
    -------
    dict
        ``kind``, ``figures`` (scenario -> contestant -> figure, see `FIGURES`), ``ratios``, each ratio once
        more under its own name, ``goals``, ``machine``, ``versions``, ``effort``, ``measured_at`` (seconds
        since 1970), ``duration_s``, ``note``.

    Raises
    ------
    DataServerError
        A relay does not start, refuses or breaks a connection, or loses bytes.
    """
    raise_descriptor_limit()
    machine, began, began_s = describe_machine(), time.time(), time.monotonic()
    wanted = scenarios(plan.effort, plan.parts)
    everywhere = os.sched_getaffinity(0)
    results: dict[str, Table] = {}
    with contextlib.ExitStack() as stack:
        places = _start(plan, {one.place for one in wanted}, everywhere, stack)
        stack.callback(os.sched_setaffinity, 0, everywhere)
        total = sum(
            _rounds(one, plan.effort) * sum(map(one.takes, places[one.place][1].chains)) for one in wanted
        )
        done = 0
        for scenario in wanted:
            sink, stage = places[scenario.place]
            spread = scenario.place is Place.TLS_ALL_CORES
            os.sched_setaffinity(0, everywhere if spread else {plan.cores.load})
            samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for _ in range(_rounds(scenario, plan.effort)):
                for chain in filter(scenario.takes, stage.chains):
                    progress(Step(scenario=scenario.name, contestant=chain.name, done=done, total=total))
                    for figure, value in _measure(scenario, sink, chain).items():
                        samples[chain.name][figure].append(value)
                    done += 1
            results[scenario.name] = {
                name: {figure: statistics.median(values) for figure, values in figures.items()}
                for name, figures in samples.items()
            }
            show(scenario.name, results[scenario.name])
    tracked = ratios(results)
    return {
        "kind": RELAYS,
        **tracked,
        "ratios": tracked,
        "goals": judge(tracked),
        "figures": results,
        "machine": machine,
        "versions": versions(),
        "effort": asdict(plan.effort),
        "measured_at": began,
        "duration_s": time.monotonic() - began_s,
        "note": note,
    }


def _rounds(scenario: Scenario, effort: Effort) -> int:
    return 1 if scenario.once else effort.rounds


def _measure(scenario: Scenario, sink: Sink, chain: Chain) -> Figures:
    try:
        return scenario.measure(sink, chain)
    except (SciStreamError, OSError) as error:
        raise DataServerError(f"{scenario.name}: {chain.name}: {error}") from error


def _start(
    plan: RelayPlan, wanted: Collection[Place], everywhere: Collection[int], stack: contextlib.ExitStack
) -> dict[Place, tuple[Sink, Stage]]:
    """Start the relays of each place, and its sink; `stack` ends them."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ministream-bench-")))
    places: dict[Place, tuple[Sink, Stage]] = {}
    sinks: dict[int | None, Sink] = {}
    for place in Place:
        if place not in wanted:
            continue
        spread = place is Place.TLS_ALL_CORES
        core = None if spread else plan.cores.load
        if core not in sinks:
            sinks[core] = Sink(core)
            stack.callback(sinks[core].close)
        own = folder / place.name
        own.mkdir(mode=0o700)
        stage = Stage(own, everywhere if spread else {plan.cores.relay}, sinks[core].port)
        stack.callback(stage.close)
        places[place] = (sinks[core], stage)
        _fill(stage, plan, place)
    return places


def _fill(stage: Stage, plan: RelayPlan, place: Place) -> None:
    tls = place in {Place.TLS, Place.TLS_ALL_CORES}
    hops = 1 if place is Place.PLAIN_1 else 2
    relays = tls_contestants() if tls else plain_contestants()
    for name, relay in relays.items():
        if plan.takes(name):
            stage.add(name, relay, hops=hops, tls=tls)
    if not tls:
        stage.add_direct()
