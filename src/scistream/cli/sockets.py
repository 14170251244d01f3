"""Listening sockets at the addresses that a user gives."""

from __future__ import annotations

import errno
import socket
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver.multipath import protocol
from scistream.errors import ConfigurationError, ResourceExhausted


def listen_at(endpoint: Endpoint, *, multipath: bool = False) -> socket.socket:
    """Return a socket that listens at `endpoint`, for MPTCP besides TCP if wanted.

    Raises
    ------
    ResourceExhausted
        The port is taken.
    ConfigurationError
        The address is not one of this host's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _listen(socket.socket(family, socket.SOCK_STREAM, protocol(multipath=multipath)), address)
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        kind = ResourceExhausted if busy else ConfigurationError
        advice = (
            "end what listens there, or choose another port (0: a free one)"
            if busy
            else "give an address of this host"
        )
        raise kind(f"cannot listen on {endpoint}: {error.strerror or error}; {advice}") from error


def _listen(sock: socket.socket, address: tuple[Any, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # despite connections in TIME_WAIT
        sock.bind(address)
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock
