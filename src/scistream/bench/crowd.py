"""A crowd of connections whose receivers take nothing, and what is left of a relay for everybody else.

Each connection is opened, filled until nothing more is taken, and kept. The applications' own buffers are
small, so that what waits does so in the relay: in its memory, in the kernel's, in pipes.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from pathlib import Path

from scistream.bench.chain import Chain
from scistream.bench.figures import Figures
from scistream.bench.load import CHUNK_BYTES, bulk, ping_pong
from scistream.bench.processes import memory_bytes
from scistream.bench.sink import STALL, Sink, connect, cut
from scistream.errors import DataServerError

SMALL_BUFFER_BYTES = 16 * 1024
_QUIET_S = 0.5
_FILL_LIMIT_S = 15.0
_SETTLE_LIMIT_S = 60.0
_SETTLED_MB = 50.0
_PINGS = 300
_BULK_S = 1.0


def crowd(sink: Sink, chain: Chain, count: int) -> Figures:
    """Hold `count` stalled connections; return what they cost, and what one more connection gets beside them.

    Raises
    ------
    OSError, DataServerError
        A connection is refused or lost.
    """
    relays_before, kernel_before = memory_bytes(chain.pids) / 1e6, _kernel_mb()
    socks: list[socket.socket] = []
    try:
        began = time.monotonic()
        for _ in range(count):
            sock = connect(chain.port, send_buffer_bytes=SMALL_BUFFER_BYTES)
            socks.append(sock)
            sock.sendall(STALL)
            sock.recv(1)
        opened_s = time.monotonic() - began
        sent = _fill(socks)
        relays, kernel = memory_bytes(chain.pids) / 1e6 - relays_before, _kernel_mb() - kernel_before
        ping_us = ping_pong(chain.port, _PINGS)["p50_us"]
        gbps = bulk(sink, chain.port, 1, _BULK_S, chain.pids)["gbps"]
    finally:
        for sock in socks:
            cut(sock)
        sink.drop_stalled()  # some relays would keep them
        _settle(kernel_before)
    return {
        "open_per_s": count / opened_s,
        "taken_mb": sent / 1e6,
        "relay_mb": relays,
        "kernel_mb": kernel,
        "ping_us": ping_us,
        "gbps": gbps,
    }


def _fill(socks: list[socket.socket]) -> int:
    """Send on all until nothing is taken for a while; return how many bytes."""
    chunk = bytes(CHUNK_BYTES // 16)
    with contextlib.closing(select.epoll()) as epoll:
        by_descriptor = {sock.fileno(): sock for sock in socks}
        for descriptor, sock in by_descriptor.items():
            sock.setblocking(False)
            epoll.register(descriptor, select.EPOLLOUT | select.EPOLLET)
        sent, deadline = 0, time.monotonic() + _FILL_LIMIT_S
        while time.monotonic() < deadline and (ready := epoll.poll(_QUIET_S)):
            for descriptor, _ in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sent += by_descriptor[descriptor].send(chunk)
    return sent


def _settle(kernel_mb: float) -> None:
    """Wait until what the crowd had filled is free again, so that the next relay finds as much."""
    deadline = time.monotonic() + _SETTLE_LIMIT_S
    while _kernel_mb() > kernel_mb + _SETTLED_MB:
        if time.monotonic() > deadline:
            raise DataServerError(f"{_kernel_mb():.0f} MB are still in the kernel's sockets")
        time.sleep(0.1)


def _kernel_mb() -> float:
    """Return what all TCP sockets of the machine hold, in MB."""
    text = Path("/proc/net/sockstat").read_text()
    line = next(line.split() for line in text.splitlines() if line.startswith("TCP:"))
    return int(line[line.index("mem") + 1]) * resource.getpagesize() / 1e6
