"""``ministream bench relay`` as an engineer types it: relays of this host, a session through two gateways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from scistream.bench.report import BEGIN, END
from support.gateways import Gateways, finish, run_program, start_program
from support.processes import MarkedProcesses
from support.terminal import Terminal

SMALL = ("--quick", "--rounds=1", "--seconds=0.2", "--connections=1")
BENCH = ("bench", "relay")
RELAY_PROGRAMS = {"haproxy", "nginx", "stunnel"}
TOP_LEVEL = {
    "plain_cpu_vs_haproxy_splice",
    "plain_cpu_vs_haproxy_default",
    "plain_throughput_vs_best",
    "tls_throughput_vs_stunnel",
    "tls_throughput_vs_haproxy",
    "rtt64_vs_haproxy",
}


@pytest.mark.peer("haproxy", "nginx", "stunnel")
def test_ours_is_measured_beside_every_peer(processes: MarkedProcesses, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# figures\n{BEGIN}\n{END}\nthe end\n")
    outputs = [f"--{kind}={tmp_path / name}" for kind, name in (("json", "r.json"), ("plot", "r.png"))]
    finished = processes.run(*BENCH, *SMALL, *outputs, f"--markdown={page}")
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "r.json").read_text())

    assert report["kind"] == "relays"
    assert report.keys() >= TOP_LEVEL
    for name in TOP_LEVEL:
        assert report[name] == report["ratios"][name] > 0
    plain, tls = report["figures"]["plain, 1 hop, 1 stream"], report["figures"]["TLS, 2 hops, 1 stream"]
    assert set(plain) == {"ours", "haproxy", "haproxy-splice", "haproxy-256k", "nginx", "direct"}
    assert set(tls) == {"ours", "haproxy", "haproxy-256k", "nginx", "stunnel"}
    for name, figures in {**plain, **tls}.items():
        assert set(figures) == ({"gbps"} if name == "direct" else {"gbps", "cpu_s_per_gb"})
        assert all(value > 0 for value in figures.values())
    pings = report["figures"]["TLS, 2 hops, 64 B ping-pong"]["ours"]
    assert 0 < pings["p50_us"] <= pings["p90_us"] <= pings["p99_us"] <= pings["p99_9_us"]
    assert report["figures"]["plain, 1 hop, new connections"]["ours"]["per_s"] > 0
    assert report["ratios"]["plain_throughput_vs_best"] == pytest.approx(
        plain["ours"]["gbps"]
        / max(one["gbps"] for name, one in plain.items() if name not in {"ours", "direct"})
    )
    goals = {one["name"]: one for one in report["goals"]}
    assert goals["tls_throughput_vs_stunnel"]["goal"] == 1.4
    assert goals["tls_throughput_vs_stunnel"]["met"] == (report["tls_throughput_vs_stunnel"] >= 1.4)
    assert set(report["versions"]) == {"ministream", *RELAY_PROGRAMS}

    for text in ("plain, 1 hop, 1 stream", "haproxy-splice", "goals", "tls_throughput_vs_stunnel"):
        assert text in finished.stdout
    assert "1 of" not in finished.stdout  # progress is for stderr
    assert "64 B ping-pong ..." in finished.stderr
    with Image.open(tmp_path / "r.png") as image:
        image.verify()
    assert "| `rtt64_vs_haproxy` |" in page.read_text()
    assert page.read_text().startswith("# figures\n")
    assert page.read_text().endswith("the end\n")
    assert not processes.alive()


def test_without_peers_json_alone_is_on_standard_output(processes: MarkedProcesses) -> None:
    finished = processes.run(*BENCH, *SMALL, "--measure=throughput,memory", "--only=ours-stdlib", "--json=-")
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert set(report["figures"]) == {"plain, 1 hop, 1 stream", "TLS, 2 hops, 1 stream"}
    assert set(report["figures"]["TLS, 2 hops, 1 stream"]) == {"ours", "ours-stdlib"}
    assert set(report["figures"]["plain, 1 hop, 1 stream"]) == {"ours", "direct"}


def test_the_script_of_the_benchmarks_is_the_same_command(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "relay.py"
    arguments = [*SMALL, "--measure=set-up", "--only=ours-stdlib", f"--json={tmp_path / 'r.json'}"]
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, timeout=60)
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["figures"]) == {"plain, 1 hop, new connections", "TLS, 2 hops, new connections"}


def test_memory_of_idle_connections_and_all_cores_are_part_of_the_full_run(
    processes: MarkedProcesses,
) -> None:
    """Only ours and its fallback, so that it is short."""
    finished = processes.run(
        *(*BENCH, "--measure=memory,throughput", "--only=ours-stdlib", "--json=-"),
        *("--rounds=1", "--seconds=0.1", "--connections=1,8"),
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["figures"]["TLS, 2 hops, all cores, 8 streams"]["ours"]["gbps"] > 0
    for name in ("plain, 1 hop, idle connection", "TLS, 2 hops, idle connection"):
        assert report["figures"][name]["ours"]["bytes_per_connection"] > 0
    assert report["tls_idle_bytes"] > 0


@pytest.mark.peer("haproxy", "nginx", "stunnel")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_interrupted(
    processes: MarkedProcesses, signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    bench = processes.start(*BENCH, "--quick")
    assert bench.stderr is not None
    assert bench.stderr.readline().startswith("0 of")  # the relays run, and are loaded
    children = psutil.Process(bench.pid).children(recursive=True)
    assert {one.name() for one in children} >= RELAY_PROGRAMS
    assert len(list(tmp_path.iterdir())) == 1
    bench.send_signal(signum)
    bench.communicate(timeout=30)
    assert bench.returncode == (128 + signum if signum != signal.SIGKILL else -signum)
    _, left = psutil.wait_procs(children, timeout=10)
    for process in left:  # nobody's children now
        process.kill()
    assert not left
    processes.wait_until(lambda: not processes.alive())
    if signum != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--only=envoy"], 3, "'envoy' is no peer that is installed here"),
        (["--measure=speed"], 2, "'speed' is none of throughput, latency"),
        (["--connections=1,x"], 2, "numbers with commas between"),
        (["--connections=0"], 2, "below 1"),
        (["--seconds=0"], 2, "0.1<=x<=600"),
        (["--cores=0"], 3, "two different cores"),
        (["--cores=0,4096"], 3, "two different cores"),
        (["--plot=chart.gif"], 3, ".png, .svg, .pdf"),
        (["--json=missing/r.json"], 5, "make its folder first"),
        (["--markdown=missing.md"], 3, "cannot be read"),
        (["--direct=127.0.0.1:1"], 2, "give --connect"),
        (["--pid=1"], 2, "give --connect"),
        (["--connect=127.0.0.1:1", "--only=haproxy"], 2, "leave out --connect"),
        (["--connect=nowhere"], 3, "nowhere"),
        (["--connect=127.0.0.1:1", "--connections=1000"], 3, "from 1 to 256"),
        (["--connect=127.0.0.1:1", "--pid=4194305"], 3, "no process 4194305"),
        (["--quick", "--measure=crowd"], 3, "leave out --quick"),
    ],
)
def test_bad_options_are_refused_in_one_line_before_anything_is_measured(
    processes: MarkedProcesses, options: list[str], code: int, text: str
) -> None:
    finished = processes.run(*BENCH, *options)
    assert finished.returncode == code, finished.stderr
    assert finished.stderr.startswith("ministream: error: ")
    assert finished.stderr.count("\n") == 1
    assert text in finished.stderr
    assert finished.stdout == ""


def test_one_core_is_not_enough(processes: MarkedProcesses) -> None:
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        finished = processes.run(*BENCH, "--quick")
    finally:
        os.sched_setaffinity(0, everywhere)
    assert finished.returncode == 3
    assert "two cores are needed" in finished.stderr


def test_a_terminal_gets_drawn_tables_and_a_line_of_progress() -> None:
    arguments = [*BENCH, *SMALL, "--measure=latency", "--only=ours-stdlib"]
    with Terminal(*arguments, program="ministream") as terminal:
        terminal.expect("1 of 4  plain, 2 hops, 64 B ping-pong: ours …")
        terminal.expect("┃")
        terminal.expect("load average at the start")
        assert terminal.process.wait(20) == 0


# --- a path through gateways ---------------------------------------------------------------------------


def test_the_path_through_a_session_is_measured_beside_the_direct_one(
    processes: MarkedProcesses, gateways: Gateways, profiles: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    producer, consumer = gateways.start(), gateways.start()
    env = profiles(aps=producer, alcf=consumer)
    far = start_program("s2uc", "probe", "--serve=127.0.0.1:0", "--json")
    try:
        assert far.stdout is not None
        (target,) = json.loads(far.stdout.readline())["listeners"]
        session = run_program("s2uc", "request", "aps", "alcf", f"--target={target}", "--json", **env).json
        (listener,) = session["listeners"]
        finished = processes.run(
            *(*BENCH, f"--connect={listener}", f"--direct={target}", "--seconds=0.5", "--rounds=1"),
            *("--connections=1,4", f"--json={tmp_path / 'r.json'}", f"--plot={tmp_path / 'r.svg'}"),
        )
        assert finished.returncode == 0, finished.stderr
        status = run_program("s2uc", "status", session["uid"], "--json", **env).json
    finally:
        far.send_signal(signal.SIGINT)
        told = [json.loads(line) for line in finish(far).out.splitlines()]
    report: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert (report["kind"], report["connect"], report["direct"]) == ("path", listener, target)
    figures = report["figures"]
    assert set(figures) == {
        *("1 connection", "4 connections", "64 B ping-pong", "1 MiB ping-pong", "new connections")
    }
    for table in figures.values():
        assert set(table) == {"through", "direct"}
        assert all(value > 0 for one in table.values() for value in one.values())
    # two relays and TLS are slower than none
    assert report["ratios"]["64 B ping-pong"]["p50_us"] > 1
    assert figures["1 MiB ping-pong"]["through"]["p50_us"] > figures["64 B ping-pong"]["through"]["p50_us"]
    # the CPU time is that of this gateway's processes, found by the listener that they hold
    assert "cpu_s_per_gb" not in figures["1 connection"]["direct"]
    family = {one.pid for one in psutil.Process(consumer.process.pid).children(recursive=True)}
    assert {one["pid"] for one in report["cpu_of"]} <= {consumer.process.pid, *family}
    assert report["cpu_of"]
    # all of it has gone through the gateways, and no connection was lost
    for side in status["sessions"]:
        assert side["channels"][0]["connections_failed"] == 0
        assert side["channels"][0]["bytes_from_target"] > 1 << 20
    assert [event["event"] for event in told] == ["probed", "probed"]
    assert ET.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")
    assert "through / it" in finished.stdout


def test_the_processes_whose_cpu_time_counts_can_be_named(processes: MarkedProcesses) -> None:
    far = start_program("s2uc", "probe", "--serve=127.0.0.1:0", "--json")
    try:
        assert far.stdout is not None
        (target,) = json.loads(far.stdout.readline())["listeners"]
        finished = processes.run(
            *(*BENCH, f"--connect={target}", f"--pid={far.pid}", "--quick", "--seconds=0.5", "--rounds=1"),
            *("--connections=1", "--json=-"),
        )
    finally:
        far.send_signal(signal.SIGINT)
        finish(far)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert [one["pid"] for one in report["cpu_of"]] == [far.pid]
    assert report["figures"]["1 connection"]["through"]["cpu_s_per_gb"] > 0
    assert report["direct"] is None
    assert report["ratios"] == {}


def test_what_is_no_far_end_is_left_alone(processes: MarkedProcesses) -> None:
    finished = processes.run(*BENCH, "--connect=127.0.0.1:1", "--quick")
    assert finished.returncode == 4
    assert "cannot be connected to" in finished.stderr
