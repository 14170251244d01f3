"""Binds the listening sockets of a session: what is bound here nobody else can take."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from scistream.dataserver.multipath import protocol
from scistream.errors import ConfigurationError, ResourceExhausted

# Connections that wait while the data server starts, or is busy; the kernel caps it at net.core.somaxconn.
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class BindAddress:
    """One local address that listeners are bound to.

    Parameters
    ----------
    family : socket.AddressFamily
        Of `host`.
    host : str
        The address.
    multipath : bool
        Accept MPTCP there, and TCP from those who do not speak it.
    """

    family: socket.AddressFamily
    host: str
    multipath: bool = False


@dataclass(slots=True)
class Bound:
    """What came of binding: the sockets, and the ports that somebody else holds."""

    sockets: list[socket.socket] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)


def resolve(host: str, option: str = "--bind", *, multipath: bool = False) -> BindAddress:
    """Return the first local address of `host`, which the operator gave as `option`.

    Raises
    ------
    ConfigurationError
        It has none.
    """
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{option} {host} cannot be resolved: {error.strerror}") from error
    family, *_, address = found[0]
    return BindAddress(family, str(address[0]), multipath)


def bind_listeners(address: BindAddress, ports: Iterable[int]) -> Bound:
    """Bind and listen on `ports` of `address`; port 0 is any free one.

    Raises
    ------
    ResourceExhausted
        A port cannot be bound for another reason than being held already. No socket is left open.
    """
    bound = Bound()
    for port in ports:
        try:
            bound.sockets.append(_listen(address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port:
                bound.taken.append(port)
                continue
            for sock in bound.sockets:
                sock.close()
            raise ResourceExhausted(
                f"port {port} of {address.host} cannot be listened on: {error.strerror}"
            ) from error
    return bound


def _listen(address: BindAddress, port: int) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM, protocol(multipath=address.multipath))
    try:
        # lets a port be used again while old connections of it are in TIME_WAIT; never two listeners
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind((address.host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
