"""A load for TCP relays on this host: bulk streams, ping-pong, new connections, idle connections.

Its limits: it is Python, so it can offer some 60 to 100 Gb/s on one core with one stream (the data leave by
sendfile from a memory file and are discarded in the kernel by MSG_TRUNC, neither is copied into the
process), and one echoed message costs it about 10 microseconds. Where a relay comes near to that, its
throughput says little and the CPU seconds per gigabyte are the figure to compare. Every bulk stream ends
with a half-close and the sink's count of bytes, so that a relay that loses some is found out.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence

from scistream.bench.figures import Figures, percentiles_us
from scistream.bench.processes import cpu_seconds, memory_bytes
from scistream.bench.sink import COUNT, DISCARD, ECHO, Sink, connect
from scistream.errors import DataServerError

CHUNK_BYTES = 1 << 20
_WARM_UP_S = 0.15
_KEPT_FIRST = 50
"""Connections that are open before memory is counted: what a process allocates once is not theirs."""


def bulk(sink: Sink, port: int, streams: int, duration_s: float, pids: Sequence[int]) -> Figures:
    """Send by several streams; return throughput, and the CPU time of `pids` per GB if there are any.

    Raises
    ------
    DataServerError
        The relay lost or invented bytes, or a stream stalled.
    OSError
        It refused or cut a connection.
    """
    source = os.memfd_create("bulk")
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    sent: dict[int, int] = {}
    try:
        os.truncate(source, CHUNK_BYTES)
        for _ in range(streams):
            sock = connect(port)
            socks[sock.fileno()] = sock
            sent[sock.fileno()] = 0
            sock.sendall(DISCARD)
        time.sleep(0.02)  # the first byte must be read alone
        for sock in socks.values():
            sock.setblocking(False)
            epoll.register(sock.fileno(), select.EPOLLOUT)
        began, base, cpu = 0.0, 0, 0.0
        start = time.perf_counter()
        while True:
            now = time.perf_counter()
            if not began and now - start >= _WARM_UP_S:
                began, base, cpu = now, sink.received, cpu_seconds(pids)
            elif began and now - began >= duration_s:
                break
            ready = epoll.poll(1.0)
            if not ready:
                raise DataServerError("the relay takes no more bytes")
            for descriptor, _ in ready:
                sent[descriptor] += os.sendfile(descriptor, source, 0, CHUNK_BYTES)
        elapsed = time.perf_counter() - began
        carried = sink.received - base
        used = cpu_seconds(pids) - cpu
        for descriptor, sock in socks.items():
            sock.settimeout(10)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while len(answer) < COUNT.size and (more := sock.recv(COUNT.size)):
                answer += more
            if len(answer) != COUNT.size or COUNT.unpack(answer)[0] != sent[descriptor]:
                raise DataServerError(f"of {sent[descriptor]} bytes the sink counted {answer.hex()}")
    finally:
        epoll.close()
        os.close(source)
        for sock in socks.values():
            sock.close()
    if carried == 0:
        raise DataServerError(f"no byte has arrived within {duration_s:g} s")
    figures = {"gbps": carried * 8 / elapsed / 1e9}
    if pids:
        figures["cpu_s_per_gb"] = used / carried * 1e9
    return figures


def ping_pong(port: int, count: int, size: int = 64) -> Figures:
    """Send messages one by one, each after the echo of the last; return percentiles of the round trips.

    Raises
    ------
    OSError
        The relay refused or cut the connection.
    """
    message = bytes(size)
    times = []
    with connect(port) as sock:
        sock.sendall(ECHO)
        sock.recv(1)
        for index in range(count + count // 10):
            began = time.perf_counter_ns()
            sock.sendall(message)
            left = size
            while left:
                received = len(sock.recv(left))
                if not received:
                    raise ConnectionAbortedError("the relay closed the connection")
                left -= received
            if index >= count // 10:
                times.append(time.perf_counter_ns() - began)
    return percentiles_us(times)


def set_ups(port: int, count: int) -> Figures:
    """Connect, exchange one byte, close, again and again; return how often per second, and how long it takes.

    Raises
    ------
    DataServerError
        The relay closed a connection without an answer.
    OSError
        It refused or cut one.
    """
    times = []
    start = time.perf_counter_ns()
    for _ in range(count):
        began = time.perf_counter_ns()
        with connect(port) as sock:
            sock.sendall(ECHO)
            if sock.recv(1) != ECHO:
                raise DataServerError("the relay closed a connection")
            times.append(time.perf_counter_ns() - began)
    elapsed_s = (time.perf_counter_ns() - start) / 1e9
    return {"per_s": count / elapsed_s, **percentiles_us(times)}


def idle(port: int, count: int, pids: Sequence[int]) -> Figures:
    """Hold `count` connections that have exchanged one byte; return the memory that each costs the relay.

    It has to be fresh: memory that an earlier load has left free to it would not be counted.

    Raises
    ------
    OSError
        The relay refused or cut a connection.
    """
    socks: list[socket.socket] = []

    def hold(more: int) -> int:
        for _ in range(more):
            socks.append(connect(port))
            socks[-1].sendall(ECHO)
            if socks[-1].recv(1) != ECHO:
                raise DataServerError("the relay closed a connection")
        return memory_bytes(pids)

    try:
        before = hold(_KEPT_FIRST)
        return {"bytes_per_connection": (hold(count) - before) / count}
    finally:
        for sock in socks:
            sock.close()
