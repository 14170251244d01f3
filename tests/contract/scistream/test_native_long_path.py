"""Two native data servers on a path of 40 ms: what they make of its sockets, and a peer that vanishes.

The path is the benchmarks' delay line between network namespaces, which needs root.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scistream.bench.peers import ours, write_certificates
from support.relays import (
    Background,
    accept,
    cut,
    fill,
    random_bytes,
    receive,
    receive_all,
    receive_until_reset,
)

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from wan import gateways
from wan_line import Line, inside
from wan_network import PRODUCER, Network, network

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists() or not shutil.which("ss"),
    reason="needs root, /dev/net/tun and ss",
)
LINE = Line(round_trip_ms=40, rate_gbps=1, queue_mb=5)
PEER_TIMEOUT_S = 3
PEER_END_S = 15.0


@dataclass
class LongPath:
    """Hosts and gateways, and the address that leads through them to `application`."""

    net: Network
    application: socket.socket
    address: tuple[str, int]

    def connect(self) -> socket.socket:
        with inside(self.net.consumer):
            return socket.create_connection(self.address, timeout=20)

    @contextlib.contextmanager
    def joined(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.connect() as near, accept(self.application) as far:
            near.sendall(b"?")
            assert receive(far, 1) == b"?"
            yield near, far


@contextlib.contextmanager
def _long_path(
    folder: Path, line: Line, *options: str, tls: bool, tuned_bytes: int | None = None
) -> Iterator[LongPath]:
    """Build it; `tuned_bytes` is how far receive buffers grow by themselves."""
    write_certificates(folder)
    with network(line) as net:
        for gateway in (net.consumer_gateway, net.producer_gateway):
            if tuned_bytes is not None:
                with inside(gateway):
                    Path("/proc/sys/net/ipv4/tcp_rmem").write_text(f"4096 131072 {tuned_bytes}")
        with inside(net.producer):
            application = socket.create_server((PRODUCER, 0))
        application.settimeout(20)
        relay = ours("--workers", "1", *options)
        target = application.getsockname()
        with application, gateways(net, folder, relay, target, tls=tls) as address:
            yield LongPath(net, application, address)


@dataclass
class Leg:
    """A gateway's TCP connection, as ss shows it."""

    congestion: str
    receive_bytes: int
    send_bytes: int
    window_bytes: int
    """The largest that the window scale allows."""
    service_class: int
    """The differentiated services code point of what is sent."""


def _legs(namespace: int) -> dict[str, Leg]:
    """Return the connections of a gateway, by the network of their peer: ``wan`` or ``lan``."""
    with inside(namespace):
        text = subprocess.run(["ss", "-Htinm", "--tos"], capture_output=True, text=True, check=True).stdout
    legs = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        where = "wan" if block.split()[4].startswith("10.9.0.") else "lan"
        sizes = re.search(r"skmem:\(r\d+,rb(\d+),t\d+,tb(\d+)", block)
        congestion = re.search(r"\b(bbr|cubic|reno)\b", block)
        scale = re.search(r"wscale:\d+,(\d+)", block)
        assert sizes
        assert congestion
        assert scale
        service = re.search(r"\btos:0x([0-9a-f]+)", block)
        legs[where] = Leg(
            congestion[1],
            int(sizes[1]),
            int(sizes[2]),
            65535 << int(scale[1]),
            int(service[1], 16) >> 2 if service else 0,
        )
    return legs


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_wide_area_leg_alone_gets_bbr_and_buffers_for_its_round_trip(tmp_path: Path, tls: bool) -> None:
    with _long_path(tmp_path, LINE, tls=tls) as path, path.joined() as (near, far):
        data = random_bytes(5_000_000)
        sending = Background(lambda: (far.sendall(data), far.shutdown(socket.SHUT_WR)))
        assert hashlib.sha256(receive_all(near)).digest() == hashlib.sha256(data).digest()
        sending.result()
        for gateway in (path.net.consumer_gateway, path.net.producer_gateway):
            legs = _legs(gateway)
            wan, lan = legs["wan"], legs["lan"]
            assert (wan.congestion, lan.congestion) == ("bbr", "cubic")
            # two round trips of 10 Gb/s, doubled by the kernel
            assert wan.send_bytes == pytest.approx(200e6, rel=0.25)
            assert wan.receive_bytes == pytest.approx(200e6, rel=0.25)
            assert lan.send_bytes < 50e6
            assert lan.receive_bytes < 50e6


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_each_leg_has_the_congestion_control_and_service_class_that_it_is_told(
    tmp_path: Path, tls: bool
) -> None:
    options = ("--congestion-wan", "cubic", "--congestion-lan", "reno", "--dscp", "46")
    with _long_path(tmp_path, LINE, *options, tls=tls) as path, path.joined():
        for gateway in (path.net.consumer_gateway, path.net.producer_gateway):
            legs = _legs(gateway)
            assert (legs["wan"].congestion, legs["wan"].service_class) == ("cubic", 46)
            assert (legs["lan"].congestion, legs["lan"].service_class) == ("reno", 0)


def test_windows_are_wide_enough_where_the_kernels_own_are_not(tmp_path: Path) -> None:
    with _long_path(tmp_path, LINE, tls=True, tuned_bytes=6 << 20) as path, path.joined():
        for gateway in (path.net.consumer_gateway, path.net.producer_gateway):
            legs = _legs(gateway)
            assert legs["wan"].window_bytes > 60e6
            assert legs["lan"].window_bytes < 10e6


def test_a_later_connection_gets_its_share_of_the_buffers_only(tmp_path: Path) -> None:
    with (
        _long_path(tmp_path, LINE, tls=False) as path,
        path.joined(),
    ):
        first = _legs(path.net.producer_gateway)["wan"]
        with path.joined():
            # ss lists the newest connection last or first: the smaller one is the second's
            with inside(path.net.producer_gateway):
                text = subprocess.run(["ss", "-Htnm"], capture_output=True, text=True, check=True).stdout
            sizes = [int(size) for size in re.findall(r",tb(\d+)", text)]
            assert any(first.send_bytes / 3 < size < first.send_bytes / 1.5 for size in sizes)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_link_that_is_cut_resets_both_applications(tmp_path: Path, tls: bool, busy: bool) -> None:
    options = ("--peer-timeout", str(PEER_TIMEOUT_S))
    with _long_path(tmp_path, LINE, *options, tls=tls) as path, path.joined() as (near, far):
        for pid in path.net.line.pids:
            os.kill(pid, signal.SIGSTOP)  # no packet passes, and nobody is told
        if busy:
            fill(far)
        for sock in (near, far):
            sock.settimeout(PEER_END_S)
            receive_until_reset(sock)


def test_multipath_and_service_class_carry_the_same_bytes(tmp_path: Path) -> None:
    with (
        _long_path(tmp_path, LINE, "--mptcp", "--dscp", "46", tls=True) as path,
        path.joined() as (near, far),
    ):
        for gateway in (path.net.consumer_gateway, path.net.producer_gateway):
            assert _multipath_connections(gateway) == 1
            assert _legs(gateway)["wan"].congestion == "bbr"
            assert _legs(gateway)["wan"].window_bytes > 60e6
        data = random_bytes(3_000_000)
        for sender, receiver in ((near, far), (far, near)):
            sending = Background(lambda end=sender: (end.sendall(data), end.shutdown(socket.SHUT_WR)))
            assert hashlib.sha256(receive_all(receiver)).digest() == hashlib.sha256(data).digest()
            sending.result()


@pytest.mark.parametrize("resets", ["near", "far"])
def test_a_reset_crosses_a_multipath_leg(tmp_path: Path, resets: str) -> None:
    with _long_path(tmp_path, LINE, "--mptcp", tls=False) as path, path.joined() as (near, far):
        assert _multipath_connections(path.net.producer_gateway) == 1
        breaking, other = (near, far) if resets == "near" else (far, near)
        cut(breaking)
        other.settimeout(PEER_END_S)
        receive_until_reset(other)


def _multipath_connections(namespace: int) -> int:
    """Return how many connections of a gateway are MPTCP at both ends."""
    with inside(namespace):
        text = subprocess.run(["ss", "-HMni"], capture_output=True, text=True, check=True).stdout
    return text.count("remote_key")
