"""What the kernel knows of a TCP connection (struct tcp_info, linux/tcp.h): the few fields that are used."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from scistream.dataserver.native.sockets import unacknowledged_bytes

# state, ca_state, retransmits, probes; from byte 8 on rto; from 56 on last_ack_recv, pmtu, rcv_ssthresh, rtt
_FIELDS = struct.Struct("=2xBB4xI44xI8xI")


_ACKNOWLEDGED = struct.Struct("=120xQ")  # bytes_acked


class TcpInfo(NamedTuple):
    """One connection at one moment.

    Parameters
    ----------
    round_trip_s : float
        Smoothed; 0 if nothing was measured yet.
    probes : int
        Of a closed window or an idle peer, since the peer answered last.
    retransmissions : int
        After time-outs, since the peer took something new. It may have answered all of them, if it cannot
        take more.
    retransmission_timeout_s : float
        When the next one follows; it doubles each time.
    silent_s : float
        Since the last acknowledgement of anything came.
    """

    round_trip_s: float
    probes: int
    retransmissions: int
    retransmission_timeout_s: float
    silent_s: float


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Return what is known of a TCP connection, or of the first subflow of an MPTCP one.

    Raises
    ------
    OSError
        `sock` is closed, or no TCP socket.
    """
    retransmissions, probes, timeout_us, silent_ms, round_trip_us = _FIELDS.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
    )
    return TcpInfo(
        round_trip_s=round_trip_us / 1e6,
        probes=probes,
        retransmissions=retransmissions,
        retransmission_timeout_s=timeout_us / 1e6,
        silent_s=silent_ms / 1e3,
    )


def written_bytes(sock: socket.socket) -> int:
    """Return how many bytes TCP was given to send on a connection, acknowledged or not; some may be SYN's."""
    acknowledged = _acknowledged_bytes(sock)
    while True:
        written = acknowledged + unacknowledged_bytes(sock)
        before, acknowledged = acknowledged, _acknowledged_bytes(sock)
        if acknowledged == before:  # none came between the two questions
            return written


def _acknowledged_bytes(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
    return int(_ACKNOWLEDGED.unpack(info)[0])
