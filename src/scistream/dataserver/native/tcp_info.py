"""What the kernel knows of a TCP connection (struct tcp_info, linux/tcp.h): the few fields that are used."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

# state, ca_state, retransmits, probes; from byte 56 on: last_ack_recv, pmtu, rcv_ssthresh, rtt
_FIELDS = struct.Struct("=xxBB52xIxxxxxxxxI")


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """One connection at one moment.

    Parameters
    ----------
    round_trip_s : float
        Smoothed; 0 if nothing was measured yet.
    unanswered : int
        Retransmissions after time-outs, or probes of a closed window, since the peer answered last.
    silent_s : float
        Since the last acknowledgement came.
    """

    round_trip_s: float
    unanswered: int
    silent_s: float


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Return what is known of a TCP connection, or of the first subflow of an MPTCP one.

    Raises
    ------
    OSError
        `sock` is closed, or no TCP socket.
    """
    retransmits, probes, silent_ms, round_trip_us = _FIELDS.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FIELDS.size)
    )
    return TcpInfo(round_trip_us / 1e6, max(retransmits, probes), silent_ms / 1e3)
