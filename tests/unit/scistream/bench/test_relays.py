"""Plans of measurements: what they take, what they refuse."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from scistream.bench import FULL, QUICK, Cores, Part, PathPlan, RelayPlan
from scistream.bench.scenarios import scenarios
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError

CORES = Cores(0, 1)


def test_the_full_run_measures_what_has_a_goal() -> None:
    names = [one.name for one in scenarios(FULL, tuple(Part))]
    assert len(names) == len(set(names))
    for wanted in (
        "plain, 1 hop, 1 stream",
        "plain, 1 hop, 64 streams",
        "plain, 1 hop, 512 streams",
        "TLS, 2 hops, 8 streams",
        "TLS, 2 hops, all cores, 8 streams",
        "plain, 2 hops, 64 B ping-pong",
        "TLS, 2 hops, new connections",
        "TLS, 2 hops, idle connection",
    ):
        assert wanted in names
    # fresh relays, before anything else has made their memory grow
    assert all("idle" in name for name in names[:2])


def test_parts_are_chosen() -> None:
    assert {one.part for one in scenarios(FULL, {Part.LATENCY})} == {Part.LATENCY}
    with pytest.raises(ConfigurationError, match="so little effort"):
        RelayPlan(effort=QUICK, cores=CORES, parts=[Part.CROWD])


def test_a_peer_that_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'envoy' is no peer"):
        RelayPlan(effort=QUICK, cores=CORES, only=["envoy"])
    with pytest.raises(ConfigurationError, match="'ours' is no peer"):
        RelayPlan(effort=QUICK, cores=CORES, only=["ours"])


def test_the_brief_run_leaves_variants_out_unless_they_are_asked_for() -> None:
    assert RelayPlan(effort=FULL, cores=CORES).takes("ours-stdlib")
    assert not RelayPlan(effort=QUICK, cores=CORES).takes("ours-stdlib")
    chosen = RelayPlan(effort=replace(QUICK, rounds=1), cores=CORES, only=["ours-stdlib"])
    assert chosen.takes("ours-stdlib")
    assert chosen.takes("ours")
    assert not chosen.takes("haproxy")


def test_two_different_cores_of_this_machine_are_needed() -> None:
    there = sorted(os.sched_getaffinity(0))
    assert Cores.choose() == Cores(there[0], there[-1])
    assert Cores.choose([there[-1], there[0]]) == Cores(there[-1], there[0])
    for wanted in ([there[0]], [there[0]] * 2, [there[0], 99_999]):
        with pytest.raises(ConfigurationError, match="two different cores"):
            Cores.choose(wanted)


@pytest.mark.parametrize("connections", [(), (0,), (1, 257)])
def test_a_path_has_as_many_connections_as_a_far_end_takes(connections: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="from 1 to 256"):
        _path(connections=connections)


def test_a_process_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no process 4194305"):
        _path(pids=(4194305,))


def _path(**changes: object) -> PathPlan:
    values = {
        "connect": Endpoint("127.0.0.1", 1),
        "direct": None,
        "connections": (1,),
        "seconds": 1.0,
        "rounds": 1,
        **changes,
    }
    return PathPlan(**values)  # type: ignore[arg-type]
