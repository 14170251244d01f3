"""MPTCP sockets: the protocol's number, and whether this kernel has it.

An MPTCP socket speaks plain TCP with a peer that does not know MPTCP, whichever of the two connects.
"""

from __future__ import annotations

import socket

IPPROTO_MPTCP = 262
"""As in linux/in.h; not every build of the socket module has it."""


def protocol(*, multipath: bool) -> int:
    """Return the protocol of a stream socket, with MPTCP or without."""
    return IPPROTO_MPTCP if multipath else 0


def why_no_multipath() -> str:
    """Return why this kernel makes no MPTCP socket; empty if it does."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
