"""What a listener to every packet of a run hears: frames on the local legs, none between the gateways."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.transport import Inlet, LinkKey, Message, Outlet
from support.processes import MarkedProcesses, verdict_of

ETH_P_IP = 0x0800
PACKET_OUTGOING = 4  # loopback shows each packet twice, leaving and arriving
CLIENT_HELLO = b"\x16\x03\x01"

Flow = tuple[bytes, int, bytes, int]


def may_listen() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)).close()
    except PermissionError:
        return False
    return True


@contextmanager
def wiretap() -> Iterator[dict[Flow, bytearray]]:
    """Yield what every TCP flow of the loopback interface carries, as it comes."""
    heard: dict[Flow, bytearray] = defaultdict(bytearray)
    stop = threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        tap.bind(("lo", ETH_P_IP))
        tap.settimeout(0.1)

        def listen() -> None:
            while not stop.is_set():
                try:
                    packet, address = tap.recvfrom(1 << 17)
                except TimeoutError:
                    continue
                if address[2] == PACKET_OUTGOING or packet[9] != socket.IPPROTO_TCP:
                    continue
                ip_bytes = 4 * (packet[0] & 15)
                source_port, target_port = struct.unpack_from("!HH", packet, ip_bytes)
                tcp_bytes = 4 * (packet[ip_bytes + 12] >> 4)
                flow = (packet[12:16], source_port, packet[16:20], target_port)
                heard[flow] += packet[ip_bytes + tcp_bytes :]

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            stop.set()
            thread.join()


@pytest.mark.skipif("CI" in os.environ, reason="listens to all packets of the host")
@pytest.mark.skipif(not may_listen(), reason="listening to packets needs a privilege")
def test_frames_are_plain_at_home_and_never_between_the_gateways(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    marker = random.integers(20_000, 60_000, 48, dtype=np.uint16)
    data = random.integers(20_000, 60_000, (30, 4, 64), dtype=np.uint16)
    data[:, 2, 8:56] = marker
    scan = tmp_path / "scan.h5"
    with h5py.File(scan, "w") as file:
        file["exchange/data"] = data
        file["exchange/data_white"] = np.full((3, 4, 64), 61_000, np.uint16)
        file["exchange/data_dark"] = np.full((3, 4, 64), 100, np.uint16)
        file["exchange/theta"] = np.linspace(0, 174, 30)
    channels = 2
    with wiretap() as heard:
        verdict = verdict_of(
            processes.run(
                *("run", scan, "--rate", "0", "--center", "31.5", "--channels", str(channels), "--json"),
                *("--out", tmp_path / "out"),
            )
        )
    assert verdict["complete"]
    plain = {flow: bytes(payload) for flow, payload in heard.items() if marker.tobytes() in payload}
    encrypted = {
        flow: bytes(payload)
        for flow, payload in heard.items()
        # TLS begins with a ClientHello, in this direction or in the other one
        if payload.startswith(CLIENT_HELLO)
        or heard.get((flow[2], flow[3], flow[0], flow[1]), b"").startswith(CLIENT_HELLO)
    }
    # each channel has two local legs: DAQ to its gateway, and the other gateway to the distributor
    assert len(plain) == 2 * channels
    seen = sum(payload.count(marker.tobytes()) for payload in plain.values())
    assert seen == 2 * len(data)
    # and everything went through TLS on the way from one to the other
    assert not plain.keys() & encrypted.keys()
    assert sum(map(len, encrypted.values())) > data.nbytes


@pytest.mark.skipif("CI" in os.environ, reason="listens to all packets of the host")
@pytest.mark.skipif(not may_listen(), reason="listening to packets needs a privilege")
@pytest.mark.parametrize("key", [LinkKey.new(), None], ids=["with-a-key", "without"])
def test_a_link_with_a_key_is_not_readable(key: LinkKey | None) -> None:
    said = b"twelve rows of a projection"
    with (
        wiretap() as heard,
        Outlet(description={"what": "confidential"}, key=key) as outlet,
        Inlet([outlet.address], flow="f", key=key) as inlet,
    ):
        while not outlet.flows:
            outlet.poll(0.05)
            inlet.await_welcome(0)
        outlet.send("f", said)
        while (item := inlet.receive(0.05)) is None:
            outlet.poll(0)
        assert isinstance(item, Message)
        assert bytes(item.payload) == said
        port = int(outlet.address.rpartition(":")[2])

        def carried() -> bytes:
            return b"".join(bytes(load) for flow, load in list(heard.items()) if port in (flow[1], flow[3]))

        # the message, and its header or what hides it
        give_up_at = time.monotonic() + 10
        while len(carried()) < len(said) + 200 and time.monotonic() < give_up_at:
            time.sleep(0.02)  # the interval of a poll
    assert len(carried()) > len(said)
    assert (said in carried()) is (key is None)
    assert (b"confidential" in carried()) is (key is None)
