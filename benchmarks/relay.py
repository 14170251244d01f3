"""Compare the native data server with haproxy, nginx and stunnel, in one run, as figures and as ratios.

    python benchmarks/relay.py [--quick] [--json FILE]

Relays run on one core, the load generator on another; all of it with cubic (as root in a network namespace
of its own, else the peers use the system's congestion control, and the output says so). Each figure is the
median of interleaved rounds, so that what disturbs the machine disturbs everybody. Look at the ratios; the
absolute figures change from run to run. CPU seconds per gigabyte are the least disturbed.

Scenarios: plain TCP through one relay and two, with 1 and more streams; TLS 1.3 with pinned certificates on
both sides between two relays; 64-byte ping-pong; connections per second; thousands of connections whose
receivers stall (`relay_crowd`). `relay_load` says what the
generator can do, `relay_peers` how the peers are configured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from relay_crowd import crowd, largest_crowd, raise_descriptor_limit
from relay_load import Sink, bulk, connections, idle_bytes, ping_pong
from relay_peers import Chain, Stage, plain_contestants, program, tls_contestants, version

_CROWDED = {"ours", "haproxy", "nginx"}
"""As they come; one of each is enough, and stunnel needs a thread per connection."""
_IN_NAMESPACE = "RELAY_BENCHMARK_NAMESPACE"

Figures = dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How long everything is measured."""

    rounds: int
    bulk_s: float
    pings: int
    connections: int
    many: int
    crowd: int


QUICK = Effort(rounds=3, bulk_s=0.35, pings=600, connections=60, many=8, crowd=0)
FULL = Effort(rounds=5, bulk_s=1.5, pings=4000, connections=400, many=64, crowd=5000)


@dataclass(frozen=True)
class Scenario:
    """One table: what is measured on which chains, as often as `rounds` says or else once."""

    name: str
    chains: list[Chain]
    measure: Callable[[Chain], Figures]
    once: bool = False


def scenarios(stages: dict[str, Stage], sink: Sink, effort: Effort, *, quick: bool) -> Iterator[Scenario]:
    """Yield what is to be measured."""

    def streams(count: int) -> Callable[[Chain], Figures]:
        def measure(chain: Chain) -> Figures:
            gbps, cpu = bulk(sink, chain.port, count, effort.bulk_s, chain.pids)
            return {"Gb/s": gbps, "CPU s/GB": cpu}

        return measure

    def pings(chain: Chain) -> Figures:
        median, p99 = ping_pong(chain.port, effort.pings)
        return {"median us": median, "p99 us": p99}

    def rate(chain: Chain) -> Figures:
        return {"connections/s": connections(chain.port, effort.connections)}

    def idle(chain: Chain) -> Figures:
        return {"kB/connection": idle_bytes(chain.port, 300, chain.pids) / 1000}

    one, two, tls = stages["plain 1 hop"], stages["plain 2 hops"], stages["tls 2 hops"]
    yield Scenario("plain, 1 hop, 1 stream", one.chains, streams(1))
    yield Scenario(f"plain, 1 hop, {effort.many} streams", one.chains, streams(effort.many))
    yield Scenario("TLS, 2 hops, 1 stream", tls.chains, streams(1))
    yield Scenario(f"TLS, 2 hops, {effort.many} streams", tls.chains, streams(effort.many))
    yield Scenario("plain, 2 hops, 64 B ping-pong", two.chains, pings)
    yield Scenario("TLS, 2 hops, 64 B ping-pong", tls.chains, pings)
    yield Scenario("plain, 1 hop, connections", one.chains, rate)
    yield Scenario("TLS, 2 hops, connections", tls.chains, rate)
    if not quick:
        yield Scenario("plain, 2 hops, 1 stream", two.chains, streams(1))
        yield Scenario("plain, 1 hop, idle", one.chains, idle)
        yield Scenario("TLS, 2 hops, idle", tls.chains, idle)

        def stalled(chain: Chain) -> Figures:
            return crowd(sink, chain, largest_crowd(effort.crowd))

        for title, stage in (
            (f"plain, 1 hop, {largest_crowd(effort.crowd)} stalled", one),
            (f"TLS, 2 hops, {largest_crowd(effort.crowd)} stalled", tls),
        ):
            chains = [chain for chain in stage.chains if chain.name in _CROWDED]
            yield Scenario(title, chains, stalled, once=True)


def run(effort: Effort, *, quick: bool) -> dict[str, dict[str, Figures]]:
    """Measure; return scenario -> contestant -> figure -> median."""
    cores = sorted(os.sched_getaffinity(0))
    relay_core, load_core = cores[0], cores[-1]
    results: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sink = Sink(load_core)
        stages: dict[str, Stage] = {}
        try:
            for name, hops, tls in (
                ("plain 1 hop", 1, False),
                ("plain 2 hops", 2, False),
                ("tls 2 hops", 2, True),
            ):
                place = Path(folder) / name.replace(" ", "-")
                place.mkdir()
                stages[name] = Stage(place, relay_core, sink.port)
                for contestant, relay in (tls_contestants() if tls else plain_contestants()).items():
                    if quick and contestant in {"ours-stdlib", "nginx-256k"}:
                        continue
                    stages[name].add(contestant, relay, hops=hops, tls=tls)
            os.sched_setaffinity(0, {load_core})
            for scenario in scenarios(stages, sink, effort, quick=quick):
                results[scenario.name] = _rounds(scenario, effort)
                _show(scenario.name, results[scenario.name])
        finally:
            os.sched_setaffinity(0, set(cores))
            for stage in stages.values():
                stage.close()
            sink.close()
    return results


def _rounds(scenario: Scenario, effort: Effort) -> dict[str, Figures]:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(1 if scenario.once else effort.rounds):
        for chain in scenario.chains:
            try:
                figures = scenario.measure(chain)
            except (RuntimeError, OSError) as error:
                raise RuntimeError(f"{scenario.name}: {chain.name}: {error}") from error
            for figure, value in figures.items():
                samples[chain.name][figure].append(value)
    return {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in samples.items()
    }


def _show(title: str, table: dict[str, Figures]) -> None:
    figures = list(table["ours"])
    print(f"\n{title}")
    print(f"  {'':16}" + "".join(f"{figure:>15}{'ours / it':>11}" for figure in figures))
    for name, row in table.items():
        cells = "".join(
            f"{row[figure]:15.3f}{_ratio(table['ours'][figure], row[figure]):11.2f}" for figure in figures
        )
        print(f"  {name:16}{cells}", flush=True)


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else float("nan")


def ratios(results: dict[str, dict[str, Figures]]) -> Figures:
    """Return the ratios that are tracked: ours to theirs, in the first scenario of each kind."""
    plain, tls = results["plain, 1 hop, 1 stream"], results["TLS, 2 hops, 1 stream"]
    pings, tls_pings = results["plain, 2 hops, 64 B ping-pong"], results["TLS, 2 hops, 64 B ping-pong"]
    rate, tls_rate = results["plain, 1 hop, connections"], results["TLS, 2 hops, connections"]
    wanted: list[tuple[str, dict[str, Figures], str, str]] = [
        ("plain_cpu_vs_haproxy_splice", plain, "CPU s/GB", "haproxy-splice"),
        ("plain_cpu_vs_haproxy_default", plain, "CPU s/GB", "haproxy"),
        ("plain_cpu_vs_nginx_default", plain, "CPU s/GB", "nginx"),
        ("tls_throughput_vs_stunnel", tls, "Gb/s", "stunnel"),
        ("tls_throughput_vs_haproxy", tls, "Gb/s", "haproxy"),
        ("tls_throughput_vs_haproxy_256k", tls, "Gb/s", "haproxy-256k"),
        ("tls_throughput_vs_nginx", tls, "Gb/s", "nginx"),
        ("tls_cpu_vs_stunnel", tls, "CPU s/GB", "stunnel"),
        ("tls_cpu_vs_haproxy", tls, "CPU s/GB", "haproxy"),
        ("rtt64_vs_haproxy", pings, "median us", "haproxy"),
        ("tls_rtt64_vs_haproxy", tls_pings, "median us", "haproxy"),
        ("connections_vs_haproxy", rate, "connections/s", "haproxy"),
        ("tls_connections_vs_haproxy", tls_rate, "connections/s", "haproxy"),
    ]
    found = {
        name: _ratio(table["ours"][figure], table[peer][figure])
        for name, table, figure, peer in wanted
        if peer in table
    }
    peers = [row["Gb/s"] for name, row in plain.items() if name != "ours"]
    if peers:
        found["plain_throughput_vs_best"] = _ratio(plain["ours"]["Gb/s"], max(peers))
    return found


def use_cubic() -> None:
    """Run in a network namespace whose loopback routes say cubic, if that is possible.

    A namespace may not choose a default that the host restricts, and the host's is not ours to change.
    """
    unshare, ip = (
        shutil.which("unshare"),
        shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin"),
    )
    if os.environ.get(_IN_NAMESPACE) == "1" and ip:
        for command in (
            "link set lo up",
            "route replace local 127.0.0.1 dev lo table local scope host src 127.0.0.1 congctl cubic",
        ):
            subprocess.run([ip, *command.split()], check=True)
    elif os.geteuid() == 0 and unshare and ip:
        environment = {**os.environ, _IN_NAMESPACE: "1"}
        os.execve(unshare, [unshare, "--net", sys.executable, *sys.argv], environment)
    if _congestion() != "cubic":
        print(f"note: the peers use {_congestion()}, ours cubic; as root with iproute2 all would use cubic")


def _congestion() -> str:
    """Return what a connection gets that does not choose."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def main() -> None:
    """Measure, print, and write JSON if wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and scenarios: below 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, ratios and versions here")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the relays, one for the load")
    use_cubic()
    raise_descriptor_limit()
    results = run(QUICK if arguments.quick else FULL, quick=arguments.quick)
    tracked = ratios(results)
    print("\nratios (ours to theirs)")
    for name, value in tracked.items():
        print(f"  {name:34}{value:8.2f}")
    if arguments.json is not None:
        versions = {name: version(name) for name in ("haproxy", "nginx", "stunnel") if program(name)}
        machine = {
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "congestion": _congestion(),
        }
        report = {"ratios": tracked, "figures": results, "versions": versions, "machine": machine}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
