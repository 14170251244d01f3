"""Listening sockets at the addresses that a user gives."""

from __future__ import annotations

import errno
import socket

from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, ResourceExhausted


def listen_at(endpoint: Endpoint) -> socket.socket:
    """Return a socket that listens at `endpoint`.

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
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        kind = ResourceExhausted if busy else ConfigurationError
        advice = (
            "end what listens there, or choose another port (0: a free one)"
            if busy
            else "give an address of this host"
        )
        raise kind(f"cannot listen on {endpoint}: {error.strerror or error}; {advice}") from error
