"""What gateways gain on a long path: one connection, with and without them, over a line with delay and loss.

    python benchmarks/wan.py [--quick] [--json FILE]

Needs root, for network namespaces (`wan_network`) and the delay line (`wan_line`); it leaves nothing behind,
however it ends. One TCP connection carries what it can from a producer application to a consumer's: directly,
through two of our gateways, and through two of haproxy's. The applications' sockets are as they come, or
have 256 KiB buffers, as many programs have. Each figure is the median of interleaved rounds.

Everything shares this machine's cores, the line included. So the limit of TLS is measured as well: through
the same gateways, over the same line without its round trip.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wan_line import Line, inside
from wan_load import Producer, received_gbps
from wan_network import (
    CONSUMER_GATEWAY_LAN,
    PRODUCER,
    PRODUCER_GATEWAY_WAN,
    Network,
    network,
)

from scistream.bench.peers import Hop, Relay, haproxy, ours, program, version, write_certificates

SMALL_BUFFER_BYTES = 256 * 1024
LINES = {
    "long": Line(40, 5, 25),
    "long, losses": Line(40, 5, 25, 1e-4),
    "middle": Line(20, 2, 5, 1e-5),
}
_SHORT_MS = 0.2
_WAN_PORT, _LAN_PORT = 5100, 6100
_START_LIMIT_S = 10.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How long everything is measured."""

    rounds: int
    warm_up_s: float
    duration_s: float
    lines: tuple[str, ...]


QUICK = Effort(rounds=1, warm_up_s=2.0, duration_s=2.0, lines=("long", "long, losses"))
FULL = Effort(rounds=3, warm_up_s=3.0, duration_s=5.0, lines=tuple(LINES))


def contestants() -> dict[str, tuple[Relay | None, bool]]:
    """Return name -> (relay, TLS); None is no relay at all."""
    found: dict[str, tuple[Relay | None, bool]] = {
        "direct": (None, False),
        "ours": (ours(), False),
        "ours TLS": (ours(), True),
    }
    if program("haproxy"):
        found["haproxy"] = (haproxy(), False)
        sizes = [f"tune.{way}.{end} 4194304" for way in ("sndbuf", "rcvbuf") for end in ("client", "server")]
        found["haproxy 4M"] = (haproxy(*sizes), False)
        found["haproxy TLS"] = (haproxy(), True)
    return found


@contextlib.contextmanager
def gateways(
    net: Network, folder: Path, relay: Relay, target: tuple[str, int], *, tls: bool
) -> Iterator[tuple[str, int]]:
    """Run one gateway on each side; yield where the consumer connects."""
    hops = (
        (net.producer_gateway, PRODUCER_GATEWAY_WAN, _WAN_PORT, target, "listener"),
        (net.consumer_gateway, CONSUMER_GATEWAY_LAN, _LAN_PORT, (PRODUCER_GATEWAY_WAN, _WAN_PORT), "target"),
    )
    with contextlib.ExitStack() as stack:
        for namespace, host, port, (target_host, target_port), leg in hops:
            place = Hop(
                folder / f"{leg}.conf", f"{host}:{port}", f"{target_host}:{target_port}", leg, tls=tls
            )
            log = stack.enter_context((folder / f"{leg}.log").open("wb"))
            with inside(namespace):
                process = subprocess.Popen(relay(place), stdout=log, stderr=log, start_new_session=True)
            stack.callback(_end, process)
            _await_listener(process, port, Path(log.name))
        yield CONSUMER_GATEWAY_LAN, _LAN_PORT


def _await_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a gateway serves, without connecting: ours says so, the others listen only then."""
    deadline = time.monotonic() + _START_LIMIT_S
    says_so = "s2ds" in str(process.args)
    while time.monotonic() < deadline and process.poll() is None:
        listens = f":{port:04X} 00000000:0000 0A" in Path(f"/proc/{process.pid}/net/tcp").read_text()
        if listens and (" -> " in log.read_text() or not says_so):
            return
        time.sleep(0.02)
    raise RuntimeError(f"a gateway does not start: {log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a gateway with all its processes."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(line: Line, effort: Effort, only: tuple[str, ...] = ()) -> dict[str, Figures]:
    """Return contestant -> application's sockets -> Gb/s."""
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as name, network(line) as net:
        folder = Path(name)
        write_certificates(folder)
        for _ in range(effort.rounds):
            for sockets, size in (("default", None), ("256 KiB", SMALL_BUFFER_BYTES)):
                with inside(net.producer):
                    producer = Producer(PRODUCER, size)
                try:
                    for contestant, (relay, tls) in contestants().items():
                        if only and contestant not in only:
                            continue
                        if relay is None:
                            way = contextlib.nullcontext(producer.address)
                        else:
                            way = gateways(net, folder, relay, producer.address, tls=tls)
                        with way as address, inside(net.consumer):
                            gbps = received_gbps(address, size, effort.warm_up_s, effort.duration_s)
                        samples[contestant][sockets].append(gbps)
                finally:
                    producer.close()
    return {
        contestant: {sockets: statistics.median(values) for sockets, values in figures.items()}
        for contestant, figures in samples.items()
    }


def show(title: str, table: dict[str, Figures], line: Line) -> None:
    """Print one line's figures, with their ratio to the direct path and to the line."""
    print(f"\n{title}: {line}")
    print(
        f"  {'Gb/s':14}" + "".join(f"{sockets:>10}{'/ direct':>10}{'/ line':>8}" for sockets in table["ours"])
    )
    for contestant, row in table.items():
        cells = "".join(
            f"{gbps:10.2f}{gbps / table['direct'][sockets]:10.1f}{gbps / line.rate_gbps:8.2f}"
            for sockets, gbps in row.items()
        )
        print(f"  {contestant:14}{cells}", flush=True)


def ratios(results: dict[str, dict[str, Figures]], tls_limit_gbps: float) -> Figures:
    """Return the ratios that are tracked."""
    found: Figures = {}
    for name, table in results.items():
        key = name.replace(", ", "_")
        plain, tls, direct = table["ours"], table["ours TLS"], table["direct"]
        found[f"{key}_vs_line"] = plain["default"] / LINES[name].rate_gbps
        found[f"{key}_256k_vs_line"] = plain["256 KiB"] / LINES[name].rate_gbps
        limit = min(tls_limit_gbps, LINES[name].rate_gbps)
        found[f"{key}_tls_vs_limit"] = tls["default"] / limit
        found[f"{key}_vs_direct"] = plain["default"] / direct["default"]
        found[f"{key}_256k_vs_direct"] = plain["256 KiB"] / direct["256 KiB"]
        peers = [row["default"] for contestant, row in table.items() if contestant.startswith("haproxy")]
        if peers:
            found[f"{key}_vs_best_haproxy"] = plain["default"] / max(peers)
    return found


def main() -> None:
    """Measure, print, and write JSON if wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round on two of the lines: about 2 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and ratios here")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        parser.error("root and /dev/net/tun are needed, for network namespaces and the delay line")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # takes everything down, as Ctrl-C does
    effort = QUICK if arguments.quick else FULL
    short = replace(LINES["long"], round_trip_ms=_SHORT_MS)
    tls_limit_gbps = measure(short, effort, only=("ours TLS",))["ours TLS"]["default"]
    print(f"TLS over the line without its round trip ({short}): {tls_limit_gbps:.2f} Gb/s", flush=True)
    results: dict[str, dict[str, Figures]] = {}
    for name in effort.lines:
        results[name] = measure(LINES[name], effort)
        show(name, results[name], LINES[name])
    tracked = ratios(results, tls_limit_gbps)
    print("\nratios (ours to the other)")
    for name, value in tracked.items():
        print(f"  {name:34}{value:8.2f}")
    if arguments.json is not None:
        machine = {"kernel": platform.release(), "cores": os.cpu_count(), "python": platform.python_version()}
        versions = {"haproxy": version("haproxy")} if program("haproxy") else {}
        report = {
            "ratios": tracked,
            "tls_limit_gbps": tls_limit_gbps,
            "figures": results,
            "lines": {name: str(LINES[name]) for name in results},
            "versions": versions,
            "machine": machine,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
