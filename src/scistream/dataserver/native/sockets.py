"""Small facts about TCP sockets and pipes that the relays share: options, resets, queues, pooled pipes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Any

from scistream.dataserver.multipath import IPPROTO_MPTCP, protocol

KEEPALIVE_PROBES = 6
LISTEN_BACKLOG = 4096

PIPE_BYTES = 1 << 20
"""Larger pipes gain nothing more (measured on loopback, up to 70 Gb/s)."""
SMALLEST_PIPE_BYTES = 64 * 1024
COPIED_BYTES = 16 * 1024
"""A plain flow that has no more than this at once is copied; one that has more is spliced."""
IDLE_PIPES = 64

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_FINISH_ON_CLOSE = struct.pack("ii", 0, 0)
_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; the socket module has no name for it
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module has it since Python 3.12
_SIOCOUTQNSD = 0x894B  # linux/sockios.h
_INT_BYTES = struct.calcsize("i")

#: errno values that mean "no descriptor or buffer left", here or in the whole system
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def tune(sock: socket.socket, congestion: str | None) -> None:
    """Set what both legs need; on a listening socket, for all that it accepts.

    Until `close_in_order` a connection ends with a reset, also when its process is killed: a stream that was
    lost must not look complete.

    Buffer sizes are left to the kernel: setting them stops its autotuning (`long_path` knows when that is
    right). Where this user may not set the congestion control it stays the kernel's default;
    `why_no_congestion_control` is asked once at start.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    if congestion:
        set_congestion_control(sock, congestion)


def keep_alive(sock: socket.socket, peer_timeout_s: float) -> None:
    """Let the kernel probe an idle peer, the first time after half of `peer_timeout_s`."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(peer_timeout_s / 2)))
    interval_s = max(1, round(peer_timeout_s / 2 / KEEPALIVE_PROBES))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def is_kept_alive(sock: socket.socket) -> bool:
    """Return whether `keep_alive` was called on `sock`, or on its listener before it came."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


def is_tuned(sock: socket.socket) -> bool:
    """Return whether `tune` was called on `sock`, or on its listener before it came."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def stream_socket(family: int, *, multipath: bool = False) -> socket.socket:
    """Return a non-blocking TCP socket; an MPTCP one speaks plain TCP with peers that do not know it.

    Raises
    ------
    OSError
        No descriptor is left, or the kernel has no such family or no MPTCP.
    """
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, protocol(multipath=multipath))


def set_congestion_control(sock: socket.socket, name: str) -> None:
    """Use that congestion control from now on, if this user may; `why_no_congestion_control` tells."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def why_no_congestion_control(name: str) -> str:
    """Return why this process may not use that congestion control; empty if it may."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError as error:
            return error.strerror or str(error)
    return ""


def limit_unsent(sock: socket.socket, size: int) -> None:
    """Let the kernel take no more than `size` bytes that it cannot send yet, however large its buffer is."""
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size)


def is_multipath(sock: socket.socket) -> bool:
    """Return whether a connection is MPTCP's; one that an MPTCP listener has accepted may be plain TCP."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == IPPROTO_MPTCP


def pace(sock: socket.socket, bytes_per_s: int) -> None:
    """Let the kernel send no faster than this on a TCP connection, whatever its congestion control."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("L", bytes_per_s))


def close_in_order(sock: socket.socket) -> None:
    """Close a connection whose stream is complete: the kernel delivers what is still on the way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FINISH_ON_CLOSE)
    sock.close()


def reset(sock: socket.socket) -> None:
    """Close a connection so that its peer gets a reset: what was sent must not look complete."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def unacknowledged_bytes(sock: socket.socket) -> int:
    """Return how much of what was written to `sock` its peer has not acknowledged (SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * _INT_BYTES)
    return int(struct.unpack("i", answer)[0])


def unsent_bytes(sock: socket.socket) -> int:
    """Return how much of what was written to `sock` has not been sent for the first time (SIOCOUTQNSD)."""
    answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQNSD, b"\0" * _INT_BYTES)
    return int(struct.unpack("i", answer)[0])


def unread_bytes(sock: socket.socket) -> int:
    """Return how much has come to `sock` that nobody has read (SIOCINQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * _INT_BYTES)
    return int(struct.unpack("i", answer)[0])


def shut_down_writing(sock: socket.socket) -> None:
    """Send FIN; a connection that is gone already needs none (its error comes by epoll)."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def address_of(resolved: list[Any]) -> tuple[int, Any]:
    """Return (family, socket address) from its form in a control message."""
    family, address = resolved
    return int(family), tuple(address)


class PipePool:
    """Pipes for splice, each empty while it is here.

    Each is as large as the kernel lets this user have; only so many are kept idle.

    Attributes
    ----------
    lent : int
        Pipes that are out, most of them holding bytes.
    """

    def __init__(self, size: int = PIPE_BYTES) -> None:
        self._size = size
        self._idle: list[tuple[int, int]] = []
        self.lent = 0

    def borrow(self) -> tuple[int, int]:
        """Return (reading end, writing end) of an empty pipe.

        Raises
        ------
        OSError
            No descriptor is left.
        """
        if self._idle:
            self.lent += 1
            return self._idle.pop()
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.lent += 1
        size = self._size
        while size > SMALLEST_PIPE_BYTES:
            try:
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, size)
                break
            except PermissionError:
                # beyond fs.pipe-max-size, or this user's pipes hold fs.pipe-user-pages-soft pages
                size //= 2
        return reading, writing

    def give_back(self, pipe: tuple[int, int]) -> None:
        """Take back an empty pipe."""
        self.lent -= 1
        if len(self._idle) < IDLE_PIPES:
            self._idle.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])

    def discard(self, pipe: tuple[int, int]) -> None:
        """Destroy a pipe that still holds bytes."""
        self.lent -= 1
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        """Destroy the idle pipes."""
        for pipe in self._idle:
            os.close(pipe[0])
            os.close(pipe[1])
        self._idle.clear()
