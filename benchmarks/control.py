"""Measure the control plane: many sessions at once, set-ups beside running streams, the time of one set-up.

    python benchmarks/control.py [--quick] [--full] [--json FILE] [--only PART]

Real `s2cs` processes on loopback with TLS and tokens on their control port, a state directory with its
journal, the native data server, and encryption between the gateways. Three parts:

waiting  many sessions wait for HELLO on one control server, then HELLO, UPDATE and RELEASE come for all of
         them at once. The control server and its data server run on one core, the load on the other: so the
         gateway does with one core what it is meant to do with two.
busy     complete set-ups (two gateways, new connections to both, REQ, HELLO, UPDATE, first byte through TLS,
         RELEASE) by concurrent clients, while streams run through the same gateways. Nothing is pinned:
         gateways, streams, applications and clients share all cores.
setup    one set-up at a time, by the command as a process and by the library. Nothing is pinned.

The reference implementation's figures were measured elsewhere (it cannot be installed here): ratios to them
tell orders of magnitude.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from control_gateways import Gateway, Site, Use, ports_held
from control_load import Load
from control_setup import command_times, library_times, start_up_times
from control_streams import Applications, Streams

from scistream.bench.sink import Sink

Figures = dict[str, float]
Table = dict[str, Figures]

_WAITING = "requests that may wait at once"

#: Of the reference implementation (haproxy), measured elsewhere on a comparable machine; medians.
REFERENCE = {
    _WAITING: 9.0,  # of 10, none is answered
    "set-up by command, first byte, s": 1.51,
    "control server, MB": 74.0,
    "per session and side, MB": 7.5,
}

# Data ports below the system's own range, so that nobody else has taken one by chance.
_FIRST_PORT = 12_000

_LIMIT_S = 120.0
_SETTLE_S = 10.0
# Open files that gRPC, the resolver and the journal keep once they have been used.
_OWN_FILES = 8


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    waiting: tuple[int, ...]
    rounds: int
    users: int
    setups: int
    clients: int
    stream_s: float
    stream_rates_gbps: tuple[float, ...]
    commands: int
    library: int


QUICK = Effort((100,), 2, 5, 20, 5, 0.5, (1.0,), 3, 10)
NORMAL = Effort((1000,), 3, 50, 200, 50, 2.0, (1.0, 0.0), 9, 50)
FULL = Effort((1000, 5000), 3, 50, 200, 50, 2.0, (1.0, 0.0), 9, 50)


# --- many that wait -----------------------------------------------------------------------------------------


def waiting(folder: Path, effort: Effort, count: int) -> tuple[Table, list[str]]:
    """Let `count` sessions wait, go on, and end; return the figures, and what failed or was left."""
    first, last = _cores()
    phases: dict[str, list[dict[str, Any]]] = {"REQ": [], "HELLO": [], "UPDATE": [], "RELEASE": []}
    uses: dict[str, list[Use]] = {name: [] for name in ("connected", *phases)}
    complaints: list[str] = []
    with Site(folder, effort.users) as site:
        gateway = site.start("gateway", (_FIRST_PORT, _FIRST_PORT + count - 1), cores={first})
        before = gateway.use()
        descriptors = gateway.descriptors()
        for _ in range(effort.rounds):
            with Load(site.settings(), last) as load:
                # a connection for every session: each has a user client of its own
                _expect_all("connections", load.do("connect", connections=count), complaints)
                uses["connected"].append(gateway.use())
                for phase, command, state in (
                    ("REQ", "", "reserved"),
                    ("HELLO", "hello", "announced"),
                    ("UPDATE", "update", "connected"),
                    ("RELEASE", "release", "released"),
                ):
                    began = gateway.use()
                    found = load.do(command) if command else _ask(load, gateway, count)
                    use = gateway.use()
                    found["cpu_s"] = use.cpu_s - began.cpu_s
                    found["data_cpu_s"] = use.data_cpu_s - began.data_cpu_s
                    states = load.do("count")
                    # of those that have ended only the newest are remembered
                    expected = sum(states.values()) if state == "released" else count
                    found["failures"] = max(expected - states.get(state, 0), found.get("failures", 0))
                    if found["failures"]:
                        reasons = " | ".join(found.get("reasons", []))
                        complaints.append(f"{phase}: {count} sessions are {states}: {reasons}")
                    uses[phase].append(use)
                    phases[phase].append(found)
            if held := ports_held(ports := phases["HELLO"][-1]["ports"]):
                complaints.append(f"{held} ports are held after release")
            if len(set(ports)) != count:
                complaints.append(f"{len(set(ports))} different ports for {count} sessions")
            complaints += what_is_left(gateway, before, descriptors)
        after = gateway.use()
    return _waiting_table(count, before, uses, after, phases), complaints


def _ask(load: Load, gateway: Gateway, count: int) -> dict[str, Any]:
    """Send all REQs, and return when every session has its port and its key."""
    began = time.perf_counter()
    load.do("ask", count=count)
    while gateway.key_files() < count and time.perf_counter() - began < _LIMIT_S:
        time.sleep(0.02)
    return {"total_s": time.perf_counter() - began}


def _expect_all(what: str, found: dict[str, Any], complaints: list[str]) -> None:
    if found["failures"]:
        complaints.append(f"{what}: {found['failures']} failed: {' | '.join(found['reasons'])}")


def what_is_left(gateway: Gateway, before: Use, descriptors: int) -> list[str]:
    """Return what is left of sessions that have ended, `descriptors` being the open files without any."""
    began = time.perf_counter()
    # connections that the clients have closed take the server a moment
    while gateway.descriptors() > descriptors + _OWN_FILES and time.perf_counter() - began < _SETTLE_S:
        time.sleep(0.05)
    left = []
    if (files := gateway.descriptors() - descriptors) > _OWN_FILES:
        left.append(f"{files} open files are left")
    if keys := gateway.key_files():
        left.append(f"{keys} private keys are left")
    if (pids := gateway.use().pids) != before.pids:
        left.append(f"processes {sorted(before.pids)} have become {sorted(pids)}")
    if lines := gateway.complaints():
        left.append(f"{lines} warnings in the log")
    return left


def _waiting_table(
    count: int,
    before: Use,
    uses: dict[str, list[Use]],
    after: Use,
    phases: dict[str, list[dict[str, Any]]],
) -> Table:
    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    table: Table = {}
    for phase, rounds in phases.items():
        table[phase] = {
            "failures": sum(one["failures"] for one in rounds),
            "total s": median(one["total_s"] for one in rounds),
            "s2cs CPU ms each": median(one["cpu_s"] for one in rounds) / count * 1e3,
            "s2ds CPU ms each": median(one["data_cpu_s"] for one in rounds) / count * 1e3,
            **_quantiles([one.get("seconds", []) for one in rounds]),
        }
    table["HELLO → REQ"] = {
        "failures": table["HELLO"]["failures"],
        **_quantiles([one["request_s"] for one in phases["HELLO"]]),
    }

    # later rounds find memory that the first one has asked for: it alone tells what a session costs
    connected, reserved, opened = (uses[name][0] for name in ("connected", "REQ", "UPDATE"))

    def each(much_mb: float, less_mb: float) -> float:
        return (much_mb - less_mb) * 1e3 / count

    table["memory, kB (USS) per"] = {
        "connection": each(connected.control_mb, before.control_mb),
        "waiting request": each(reserved.control_mb, connected.control_mb),
        "open session: s2cs": each(opened.control_mb, connected.control_mb),
        "s2ds": each(opened.data_mb, connected.data_mb),
    }
    table["memory, MB (USS)"] = {
        "s2cs idle": before.control_mb,
        "RSS": before.control_rss_mb,
        "s2ds idle": before.data_mb,
        "s2cs after round 1": uses["RELEASE"][0].control_mb,
        f"after {len(uses['RELEASE'])}": after.control_mb,
        "s2ds after": after.data_mb,
    }
    return table


# --- beside streams -----------------------------------------------------------------------------------------


def busy(folder: Path, effort: Effort, rate_gbps: float) -> tuple[Table, list[str]]:
    """Make set-ups while two streams run; return the figures, and what failed or was left."""
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:
        sink = Sink(None)
        stack.callback(sink.close)
        applications = Applications(effort.clients)
        stack.callback(applications.close)
        site = stack.enter_context(Site(folder, effort.users))
        size = 4 * effort.clients
        gateways = [
            site.start(name, (_FIRST_PORT + number * size, _FIRST_PORT + (number + 1) * size - 1))
            for number, name in enumerate(("producer", "consumer"))
        ]
        load = stack.enter_context(Load(site.settings(), None))
        # the first set-up of a process pays for what is loaded late
        _expect_all("warm-up", _set_ups(load, applications, 2, 2), complaints)
        before = [gateway.use() for gateway in gateways]
        descriptors = [gateway.descriptors() for gateway in gateways]
        alone = _set_ups(load, applications, effort.setups, effort.clients)
        _expect_all("alone", alone, complaints)
        after = [gateway.use() for gateway in gateways]
        ports = load.do("open_streams", targets=[f"127.0.0.1:{sink.port}"] * 2)["ports"]
        streams = Streams(sink, ports, rate_gbps)
        try:
            streams.rate().over(0.5)
            rate_before = streams.rate().over(effort.stream_s)
            during = streams.rate()
            beside = _set_ups(load, applications, effort.setups, effort.clients)
            rate_during = during.gbps()
            rate_after = streams.rate().over(effort.stream_s)
        finally:
            try:
                streams.close()
            except RuntimeError as error:
                complaints.append(str(error))
        load.do("close_streams")
        _expect_all("beside streams", beside, complaints)
        for gateway, start, files in zip(gateways, before, descriptors, strict=True):
            complaints += what_is_left(gateway, start, files)
    table: Table = {}
    for name, found in (("alone", alone), ("beside streams", beside)):
        table[name] = {
            "failures": found["failures"],
            **_quantiles([found["seconds"]]),
            "release p50 ms": _quantiles([found["release_s"]])["p50 ms"],
            "set-ups/s": effort.setups / found["total_s"],
            "client CPU ms each": found["busy_s"] / effort.setups * 1e3,
        }
    used = sum(b.cpu_s + b.data_cpu_s - a.cpu_s - a.data_cpu_s for a, b in zip(before, after, strict=True))
    table["alone"]["gateways' CPU ms each"] = used / effort.setups * 1e3
    table["throughput, Gb/s"] = {
        "before": rate_before,
        "during": rate_during,
        "after": rate_after,
        "during / before": rate_during / rate_before,
    }
    return table, complaints


def _set_ups(load: Load, applications: Applications, count: int, clients: int) -> dict[str, Any]:
    return load.do("set_up", count=count, clients=clients, targets=applications.addresses)


# --- one set-up ---------------------------------------------------------------------------------------------


def setup(folder: Path, effort: Effort) -> Table:
    """Measure one set-up at a time, and the commands' start."""
    with contextlib.ExitStack() as stack:
        applications = Applications(1)
        stack.callback(applications.close)
        site = stack.enter_context(Site(folder, 1))
        for number, name in enumerate(("producer", "consumer")):
            site.start(name, (_FIRST_PORT + 100 * number, _FIRST_PORT + 100 * number + 99))
        target = applications.addresses[0]
        table: Table = {}
        for prefix, times in (
            ("s2uc request: ", command_times(site, target, effort.commands)),
            ("library: ", library_times(site.settings(), target, effort.library)),
            ("", start_up_times(site, effort.commands)),
        ):
            for name, seconds in times.items():
                table[prefix + name] = {
                    "median ms": statistics.median(seconds) * 1e3,
                    "least ms": min(seconds) * 1e3,
                    "most ms": max(seconds) * 1e3,
                }
    return table


# --- what comes out -----------------------------------------------------------------------------------------


def _quantiles(rounds: Sequence[Sequence[float]]) -> Figures:
    """Return the medians over the rounds of p50, p99 and the longest, in ms."""
    rounds = [sorted(values) for values in rounds if values]
    if not rounds:
        return {}
    return {
        "p50 ms": statistics.median(values[len(values) // 2] for values in rounds) * 1e3,
        "p99 ms": statistics.median(values[len(values) * 99 // 100] for values in rounds) * 1e3,
        "max ms": statistics.median(values[-1] for values in rounds) * 1e3,
    }


def _show(title: str, table: Table) -> None:
    figures = list(dict.fromkeys(figure for row in table.values() for figure in row))
    print(f"\n{title}")
    for columns in _groups(table, figures):
        width = max(len(name) for name in table) + 2
        print(f"  {'':{width}}" + "".join(f"{figure:>{max(10, len(figure) + 2)}}" for figure in columns))
        for name, row in table.items():
            if any(figure in row for figure in columns):
                cells = (
                    f"{row[figure]:{max(10, len(figure) + 2)}.{_digits(figure)}f}"
                    if figure in row
                    else " " * max(10, len(figure) + 2)
                    for figure in columns
                )
                print(f"  {name:{width}}" + "".join(cells))
    sys.stdout.flush()


def _groups(table: Table, figures: list[str]) -> list[list[str]]:
    """Return the figures that rows have in common together, the others apart."""
    groups: dict[frozenset[str], list[str]] = {}
    for figure in figures:
        groups.setdefault(frozenset(name for name, row in table.items() if figure in row), []).append(figure)
    shared: list[list[str]] = []
    for rows, columns in groups.items():
        for group in shared:
            if rows & {name for name, row in table.items() if group[0] in row}:
                group.extend(columns)
                break
        else:
            shared.append(columns)
    return shared


def _digits(figure: str) -> int:
    return 0 if figure == "failures" else 2 if figure.endswith(("s", "before", "during", "after")) else 1


def _cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _machine() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "load average before": os.getloadavg()[0],
    }


def _terminate(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def main() -> None:
    """Measure, print, and write JSON if wanted; end with 1 if anything failed or was left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a look whether all of it works: below 20 s")
    parser.add_argument("--full", action="store_true", help="5,000 waiting sessions besides")
    parser.add_argument("--only", choices=("waiting", "busy", "setup"), help="one part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, ratios and versions here")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two cores are needed: one for the gateway, one for the load")
    signal.signal(signal.SIGTERM, _terminate)
    effort = QUICK if arguments.quick else FULL if arguments.full else NORMAL
    machine = _machine()
    results: dict[str, Table] = {}
    complaints: list[str] = []

    def keep(title: str, table: Table, found: Sequence[str] = ()) -> None:
        results[title] = table
        _show(title, table)
        for line in found:
            print(f"  !! {line}")
        complaints.extend(found)

    with tempfile.TemporaryDirectory(prefix="control-") as name:
        folder = Path(name)

        def place() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        wanted = {arguments.only} if arguments.only else {"waiting", "busy", "setup"}
        if "waiting" in wanted:
            for count in effort.waiting:
                title = f"{count} sessions waiting for HELLO, then all at once"
                keep(title, *waiting(place(), effort, count))
        if "busy" in wanted:
            for rate in effort.stream_rates_gbps:
                streams = f"2 streams of {rate:g} Gb/s" if rate else "2 streams as fast as they go"
                title = f"{effort.setups} set-ups by {effort.clients} clients, {streams}"
                keep(title, *busy(place(), effort, rate))
        if "setup" in wanted:
            keep("one set-up at a time", setup(place(), effort))
    ratios = compare(results)
    print("\nbeside the reference implementation (its figures: measured elsewhere)")
    for figure, row in ratios.items():
        print(f"  {figure:36}" + "".join(f"{name} {value:<10.3g}" for name, value in row.items()))
    if arguments.json is not None:
        report = {
            "figures": results,
            "reference": ratios,
            "failures": complaints,
            "machine": machine,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if complaints:
        raise SystemExit(f"{len(complaints)} things failed or were left, see above")


def compare(results: dict[str, Table]) -> Table:
    """Return what the reference implementation has, what ours has, and by what factor ours is better."""
    ours: Figures = {}
    for title, table in results.items():
        if "HELLO" in table:
            each = table["memory, kB (USS) per"]
            ours["control server, MB"] = table["memory, MB (USS)"]["RSS"]
            ours["per session and side, MB"] = (each["open session: s2cs"] + each["s2ds"]) / 1e3
            if not table["HELLO"]["failures"]:
                ours[_WAITING] = float(title.split()[0])
        if "s2uc request: first_byte" in table:
            ours["set-up by command, first byte, s"] = table["s2uc request: first_byte"]["median ms"] / 1e3
    return {
        figure: {
            "ours": ours[figure],
            "reference": value,
            "factor": ours[figure] / value if figure == _WAITING else value / ours[figure],
        }
        for figure, value in REFERENCE.items()
        if figure in ours
    }


if __name__ == "__main__":
    main()
