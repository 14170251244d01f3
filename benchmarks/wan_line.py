"""A delay line: two network namespaces joined by a path with a round trip, a rate, a queue and losses.

Kernels without netem can have one too: each end is a TUN device, and a process per direction carries packets
from one to the other. With segmentation offload a packet has up to 64 KiB, so that 5 Gb/s are about 10,000
packets per second, which Python can do.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from scistream.bench.processes import end_with_parent

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 0x01, 0x02, 0x04
_CLONE_NEWNET = 0x40000000
_LARGEST_PACKET_BYTES = 65536 + 64
_SEGMENT_BYTES = 1500
_BURST = 64
"""Packets that are read before those that are due are looked at."""
_EARLY_S = 20e-6

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Line:
    """What the path is like.

    Parameters
    ----------
    round_trip_ms, rate_gbps, queue_mb : float
        Of the way there and back; of the bottleneck in each direction.
    loss : float
        Share of all 1500-byte segments that is lost; a packet of many is lost as a whole.
    """

    round_trip_ms: float
    rate_gbps: float
    queue_mb: float
    loss: float = 0.0

    def __str__(self) -> str:
        loss = f", loss {self.loss:.0e}" if self.loss else ""
        return f"{self.round_trip_ms:g} ms, {self.rate_gbps:g} Gb/s, {self.queue_mb:g} MB queue{loss}"


def new_namespace() -> int:
    """Return a descriptor of a new network namespace, which ends with its last process and descriptor.

    Raises
    ------
    PermissionError
        Only root may.
    """
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        new = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)
    return new


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Make sockets, devices and processes in `namespace`; for one thread."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(namespace, _CLONE_NEWNET))
        yield
    finally:
        _check(_libc.setns(before, _CLONE_NEWNET))
        os.close(before)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class DelayLine:
    """A line between two namespaces; both get a device of that name, without address.

    Its processes end with it, and with the process that has made it.
    """

    def __init__(self, line: Line, one: int, other: int, device: str) -> None:
        ends = []
        for namespace in (one, other):
            with inside(namespace):
                ends.append(_tun(device))
        # both descriptors serve both processes: an end of a device is one file for reading and writing
        self._pids = [_start(line, *ends), _start(line, *reversed(ends))]
        for end in ends:
            os.close(end)

    @property
    def pids(self) -> list[int]:
        """One process per direction."""
        return self._pids

    def close(self) -> None:
        """End both."""
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _tun(device: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(
        descriptor,
        _TUNSETIFF,
        struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR),
    )
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
    return descriptor


def _start(line: Line, source: int, sink: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent()
            _carry(line, source, sink)
        finally:
            os._exit(1)
    return pid


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, however that ends; Ctrl-C is the parent's."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _carry(line: Line, source: int, sink: int) -> None:
    """Carry packets in one direction, each when it is due; for ever."""
    delay_s, bytes_per_s = line.round_trip_ms / 2e3, line.rate_gbps * 1e9 / 8
    queue_s = line.queue_mb * 1e6 / bytes_per_s
    chance = random.Random(source).random
    waiting: deque[tuple[float, bytes]] = deque()
    read, write, clock = os.read, os.write, time.monotonic
    free_at = 0.0  # when the bottleneck has sent all that it has taken
    sources = [source]
    while True:
        timeout = max(0.0, waiting[0][0] - clock()) if waiting else None
        ready, _, _ = select.select(sources, (), (), timeout)
        now = clock()
        if ready:
            for _ in range(_BURST):
                try:
                    packet = read(source, _LARGEST_PACKET_BYTES)
                except BlockingIOError:
                    break
                if line.loss and chance() < line.loss * -(-len(packet) // _SEGMENT_BYTES):
                    continue
                begins = max(free_at, now)
                if begins - now > queue_s:
                    continue
                free_at = begins + len(packet) / bytes_per_s
                waiting.append((free_at + delay_s, packet))
        while waiting and waiting[0][0] <= now + _EARLY_S:
            with contextlib.suppress(OSError):  # the far end's device is full: lost
                write(sink, waiting.popleft()[1])
