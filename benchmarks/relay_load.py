"""A load generator for TCP relays: bulk streams, ping-pong, connections; and the CPU time that relays used.

Its limits: it is Python, so it can offer some 60 to 100 Gb/s on one core with one stream (the data leave by
sendfile from a memory file and are discarded in the kernel by MSG_TRUNC, neither is copied into the
process), and one echoed message costs it about 10 microseconds. Where a relay comes near to that, its
throughput says little and the CPU seconds per gigabyte are the figure to compare. Every bulk stream ends
with a half-close and the sink's count of bytes, so that a relay that loses some is found out.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import statistics
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

CHUNK_BYTES = 1 << 20
_SINK_BYTES = 4 << 20
_COUNT = struct.Struct("<Q")
_WARM_UP_S = 0.15
DISCARD, ECHO, STALL = b"D", b"E", b"S"
_DROP = b"X"


def tune(sock: socket.socket) -> None:
    """Cubic, as BBR's pacing limits every loopback figure; no delay."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


class Sink:
    """A process that discards, echoes or leaves what it gets, as each connection's first byte says.

    Parameters
    ----------
    core : int or None
        Where it runs; None: anywhere.
    """

    def __init__(self, core: int | None) -> None:
        self._counter = mmap.mmap(-1, _COUNT.size)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        tune(listener)
        self.port: int = listener.getsockname()[1]
        self._pid = os.fork()
        if self._pid == 0:
            try:
                if core is not None:
                    os.sched_setaffinity(0, {core})
                self._serve(listener)
            finally:
                os._exit(1)
        listener.close()

    @property
    def received(self) -> int:
        """All bytes discarded so far."""
        return int(_COUNT.unpack_from(self._counter)[0])

    def drop_stalled(self) -> None:
        """Cut the connections that it leaves unread."""
        with connect(self.port) as sock:
            sock.sendall(_DROP)
            sock.recv(1)

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _serve(self, listener: socket.socket) -> None:
        epoll = select.epoll()
        epoll.register(listener.fileno(), select.EPOLLIN)
        buffer = bytearray(_SINK_BYTES)
        connections: dict[int, socket.socket] = {}
        counts: dict[int, int] = {}  # of the discarding ones
        stalled: list[socket.socket] = []
        total = 0
        while True:
            for descriptor, _ in epoll.poll():
                sock = connections.get(descriptor)
                if sock is None:
                    accepted, _ = listener.accept()
                    connections[accepted.fileno()] = accepted
                    epoll.register(accepted.fileno(), select.EPOLLIN)
                    continue
                try:
                    if descriptor not in counts:
                        count = sock.recv_into(buffer, 65536)
                        if buffer[:1] == DISCARD and count:
                            counts[descriptor] = 0
                            count -= 1
                            counts[descriptor] += count
                            continue
                        if buffer[:1] == STALL and count:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the smallest there is
                            sock.sendall(STALL)
                            epoll.unregister(descriptor)
                            stalled.append(connections.pop(descriptor))
                            continue
                        if buffer[:1] == _DROP and count:
                            while stalled:
                                cut(stalled.pop())
                            sock.sendall(_DROP)
                            continue
                        if count:
                            sock.sendall(memoryview(buffer)[:count])
                            continue
                    else:
                        count = sock.recv_into(buffer, _SINK_BYTES, socket.MSG_TRUNC)
                        if count:
                            counts[descriptor] += count
                            total += count
                            _COUNT.pack_into(self._counter, 0, total)
                            continue
                        sock.sendall(_COUNT.pack(counts.pop(descriptor)))
                except OSError:
                    counts.pop(descriptor, None)
                epoll.unregister(descriptor)
                connections.pop(descriptor).close()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return what all threads of these processes have used, in nanosecond resolution."""
    total = 0
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(schedstat.read_text().split()[0])
    return total / 1e9


def tree(pid: int) -> list[int]:
    """Return the process and all that it has started."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def connect(port: int, send_buffer_bytes: int | None = None) -> socket.socket:
    """Return a connection to the relay."""
    sock = socket.socket()
    tune(sock)
    if send_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", port))
    return sock


def cut(sock: socket.socket) -> None:
    """Close a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def bulk(sink: Sink, port: int, streams: int, duration_s: float, pids: Sequence[int]) -> tuple[float, float]:
    """Send by several streams; return (Gb/s, CPU seconds of `pids` per GB).

    Raises
    ------
    RuntimeError
        The relay lost or invented bytes, or a stream stalled.
    """
    source = os.memfd_create("bulk")
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    sent: dict[int, int] = {}
    try:
        os.truncate(source, CHUNK_BYTES)
        for _ in range(streams):
            sock = connect(port)
            sock.sendall(DISCARD)
            socks[sock.fileno()] = sock
            sent[sock.fileno()] = 0
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
            if now - start >= _WARM_UP_S + duration_s:
                break
            ready = epoll.poll(1.0)
            if not ready:
                raise RuntimeError("the relay takes no more bytes")
            for descriptor, _ in ready:
                sent[descriptor] += os.sendfile(descriptor, source, 0, CHUNK_BYTES)
        elapsed = time.perf_counter() - began
        carried = sink.received - base
        used = cpu_seconds(pids) - cpu
        for descriptor, sock in socks.items():
            sock.settimeout(10)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while len(answer) < _COUNT.size and (more := sock.recv(_COUNT.size)):
                answer += more
            if len(answer) != _COUNT.size or _COUNT.unpack(answer)[0] != sent[descriptor]:
                raise RuntimeError(f"of {sent[descriptor]} bytes the sink counted {answer.hex()}")
    finally:
        epoll.close()
        os.close(source)
        for sock in socks.values():
            sock.close()
    return carried * 8 / elapsed / 1e9, used / carried * 1e9


def ping_pong(port: int, count: int, size: int = 64) -> tuple[float, float]:
    """Send messages one by one, each after the echo of the last; return (median, p99) in microseconds."""
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
                left -= len(sock.recv(left))
            if index >= count // 10:
                times.append(time.perf_counter_ns() - began)
    times.sort()
    return statistics.median(times) / 1e3, times[len(times) * 99 // 100] / 1e3


def connections(port: int, count: int) -> float:
    """Connect, exchange one byte, close, again and again; return how often per second."""
    began = time.perf_counter()
    for _ in range(count):
        with connect(port) as sock:
            sock.sendall(ECHO)
            if sock.recv(1) != ECHO:
                raise RuntimeError("the relay closed a connection")
    return count / (time.perf_counter() - began)


def idle_bytes(port: int, count: int, pids: Sequence[int]) -> float:
    """Hold `count` connections that have exchanged one byte; return the memory that each costs the relay."""

    def memory() -> int:
        return sum(psutil.Process(pid).memory_full_info().uss for pid in pids)

    before = memory()
    socks = []
    try:
        for _ in range(count):
            socks.append(connect(port))
            socks[-1].sendall(ECHO)
            socks[-1].recv(1)
        return (memory() - before) / count
    finally:
        for sock in socks:
            sock.close()
