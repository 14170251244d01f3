"""What a leg over the wide-area network needs on a long path: large buffers, and BBR.

One TCP connection carries at most a buffer per round trip, and the kernel's autotuning ends at some MiB
(``tcp_wmem``, ``tcp_rmem``). Over 40 ms at 5 Gb/s the difference is 0.5 to more than 4 Gb/s; a loss in
10,000 segments makes cubic collapse there and leaves BBR as it is. On a short path both are harmful: a buffer
that was set is not tuned any more, and BBR paces. So the measured round trip decides, as soon as a
connection is established.

The window scale is fixed before that: by what autotuning may reach, by ``net.core.rmem_max``, or by a receive
buffer that is set before the SYN (accepted connections inherit their listener's). Where the first two are
small the third is set. It is never made smaller afterwards: its window has been promised.
"""

from __future__ import annotations

import errno
import logging
import socket
from dataclasses import dataclass
from pathlib import Path

from scistream.dataserver.multipath import IPPROTO_MPTCP
from scistream.dataserver.native.sockets import set_congestion_control, why_no_congestion_control

logger = logging.getLogger(__name__)

LONG_ROUND_TRIP_S = 0.002
"""Above it the wide-area congestion control is worth its pacing; networks of one site are far below."""
ASSUMED_MBPS = 10_000.0
"""What a session without a rate may want to carry."""
ROUND_TRIPS_BUFFERED = 2
"""A buffer of rate times this many round trips; BBR keeps up to two of them on the way."""
LARGEST_BUFFER_BYTES = 128 << 20
WINDOW_SCALE = 10
"""Windows of 64 MiB, which is 13 Gb/s over 40 ms."""
WINDOW_BUFFER_BYTES = 64 << 20
"""A receive buffer that is set before the SYN for that."""
AUTOMATIC_CONGESTION = "bbr"

_BYTES_PER_S = 125_000
"""Of one Mb/s."""
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_BUF_LOCK = 32, 33, 72  # asm-generic/socket.h
_DSCP_SHIFT = 2  # of the byte that has it, the other two bits are for congestion notification


@dataclass(frozen=True, slots=True)
class Buffer:
    """How large one of a socket's two buffers may become.

    Parameters
    ----------
    settable_bytes : int
        The largest that this process may set; the kernel doubles it.
    first_bytes, tuned_bytes : int
        Where the kernel's autotuning begins and ends.
    """

    settable_bytes: int
    first_bytes: int
    tuned_bytes: int

    def gains_from(self, size: int) -> bool:
        """Return whether setting `size` gives more than the autotuning."""
        return 2 * min(size, self.settable_bytes) > self.tuned_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPath:
    """How wide-area legs are treated, within what this process may do.

    Parameters
    ----------
    send, receive : Buffer
        What is possible.
    forced : bool
        Whether ``net.core.*mem_max`` do not concern this process.
    window_scale : int
        That of a connection whose receive buffer is not set before the SYN.
    congestion : str or None
        TCP congestion control where the round trip is long; None leaves that of all legs.
    buffer_bytes : int or None
        Of long paths, in each direction; None: from rate and round trip, 0: the kernel's.
    dscp : int or None
        Differentiated services code point of what is sent.
    """

    send: Buffer
    receive: Buffer
    forced: bool
    window_scale: int
    congestion: str | None
    buffer_bytes: int | None
    dscp: int | None

    def opens_windows_early(self, sock: socket.socket) -> bool:
        """Return whether the receive buffer is to be set before `sock` connects or listens.

        The window of an MPTCP connection cannot be raised afterwards at all.
        """
        return self.buffer_bytes != 0 and (self.window_scale < WINDOW_SCALE or sock.proto == IPPROTO_MPTCP)

    def prepare(self, sock: socket.socket, connections: int) -> None:
        """Set what has to be there before `sock` connects or listens, or accepts the next connection.

        Parameters
        ----------
        connections : int
            Of the session; with many, each needs a part of the path only.
        """
        if self.dscp is not None:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self.dscp << _DSCP_SHIFT)
            # an IPv6 socket may carry IPv4
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self.dscp << _DSCP_SHIFT)
        if self.opens_windows_early(sock):
            size = WINDOW_BUFFER_BYTES // max(1, connections)
            if self.receive.gains_from(size):
                self._set_receive_buffer(sock, size)
            elif sock.getsockopt(
                socket.SOL_SOCKET, _SO_BUF_LOCK
            ):  # a listener that has had fewer connections
                self._set_receive_buffer(sock, self.receive.first_bytes // 2)
                sock.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)

    def adapt(self, sock: socket.socket, round_trip_s: float, rate_mbps: float, connections: int) -> None:
        """Set what an established connection with a long round trip needs.

        Parameters
        ----------
        round_trip_s : float
            Measured, and more than `LONG_ROUND_TRIP_S`.
        rate_mbps : float
            The session's in each direction; 0: unknown.
        connections : int
            How many of the session share it, this one included.
        """
        if self.congestion:
            set_congestion_control(sock, self.congestion)
        wanted = self._wanted_bytes(round_trip_s, rate_mbps, connections)
        if self.send.gains_from(wanted):
            option = _SO_SNDBUFFORCE if self.forced else socket.SO_SNDBUF
            sock.setsockopt(socket.SOL_SOCKET, option, wanted)
        if self.receive.gains_from(wanted) and 2 * wanted > sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF
        ):
            self._set_receive_buffer(sock, wanted)
            # the window may not grow beyond what the buffer allowed when the connection was established
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, wanted)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:  # MPTCP, whose window was opened early
                    raise

    def _wanted_bytes(self, round_trip_s: float, rate_mbps: float, connections: int) -> int:
        if self.buffer_bytes is not None:
            return self.buffer_bytes
        bytes_per_s = (rate_mbps or ASSUMED_MBPS) * _BYTES_PER_S / max(1, connections)
        return min(LARGEST_BUFFER_BYTES, int(ROUND_TRIPS_BUFFERED * bytes_per_s * round_trip_s))

    def _set_receive_buffer(self, sock: socket.socket, size: int) -> None:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE if self.forced else socket.SO_RCVBUF, size)


def scale_of(window_bytes: int) -> int:
    """Return the window scale that the kernel announces if a window may become so large."""
    return max(0, window_bytes.bit_length() - 16)


def permitted_long_path(congestion: str | None, buffer_bytes: int | None, dscp: int | None) -> LongPath:
    """Return what of these wishes this process may use; log lines say what it may not, and how it could.

    Parameters
    ----------
    congestion : str or None
        None: BBR if it is permitted.
    buffer_bytes, dscp : int or None
        As in `LongPath`.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        forced = _may_force(sock)
        send = _buffer(sock, "tcp_wmem", socket.SO_SNDBUF, _SO_SNDBUFFORCE if forced else socket.SO_SNDBUF)
        receive = _buffer(sock, "tcp_rmem", socket.SO_RCVBUF, _SO_RCVBUFFORCE if forced else socket.SO_RCVBUF)
    smallest = min(max(2 * one.settable_bytes, one.tuned_bytes) for one in (send, receive))
    if smallest < LARGEST_BUFFER_BYTES and buffer_bytes != 0:
        logger.info(
            "socket buffers end at %.0f MB for this user, which is %.1f Gb/s over a round trip of 40 ms; "
            "as root: sysctl -w net.core.rmem_max=%d net.core.wmem_max=%d",
            smallest / 1e6,
            smallest / 2 * 8 / 0.040 / 1e9,
            LARGEST_BUFFER_BYTES,
            LARGEST_BUFFER_BYTES,
        )
    return LongPath(
        send=send,
        receive=receive,
        forced=forced,
        window_scale=scale_of(max(receive.tuned_bytes, *_sysctl("core/rmem_max"))),
        congestion=_permitted_congestion(congestion),
        buffer_bytes=buffer_bytes,
        dscp=dscp,
    )


def _permitted_congestion(wish: str | None) -> str | None:
    name = wish or AUTOMATIC_CONGESTION
    reason = why_no_congestion_control(name)
    if not reason:
        return name
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control").read_text().strip()
    logger.log(
        logging.INFO if wish is None else logging.WARNING,
        "congestion_wan: long paths go without the congestion control %r (%s); as root: "
        "modprobe tcp_%s; sysctl -w net.ipv4.tcp_allowed_congestion_control='%s %s'",
        name,
        reason,
        name,
        allowed,
        name,
    )
    return None


def _may_force(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, LARGEST_BUFFER_BYTES)
    except PermissionError:
        return False
    return True


def _buffer(sock: socket.socket, sysctl: str, getting: int, setting: int) -> Buffer:
    sock.setsockopt(socket.SOL_SOCKET, setting, LARGEST_BUFFER_BYTES)
    settable = sock.getsockopt(socket.SOL_SOCKET, getting) // 2
    _, first, most = _sysctl(f"ipv4/{sysctl}")
    return Buffer(settable, first, most)


def _sysctl(name: str) -> tuple[int, ...]:
    return tuple(map(int, Path(f"/proc/sys/net/{name}").read_text().split()))
