"""ZeroMQ sockets as flows need them: addresses, heartbeats, limits, and news of connections that fail.

Queues have no limit of their own here: credits bound what is in them, on both sides.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import parse_monitor_message

from ministream.errors import ConnectionFailed, InputError, PortInUse
from ministream.transport.link_key import LinkKey

LINGER_S = 2.0
"""How long closing waits for what has been sent to leave this host."""

_RECONNECT_INTERVAL_MS = 50
_RECONNECT_INTERVAL_LIMIT_MS = 1000
# a relay may accept long before the far end does; ZeroMQ then gives up its greeting and dials again
_HANDSHAKE_TIMEOUT_MS = 10_000
_MESSAGE_LIMIT_BYTES = 1 << 31
_CONTROL_LIMIT_BYTES = 1 << 21
_HEARTBEAT_S, _SILENCE_LIMIT_S = 1.0, 10.0


def checked_address(address: str) -> str:
    """Return `address` if it is of the form ``tcp://host:port``.

    Raises
    ------
    InputError
        It is not.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme == "tcp" and parts.hostname and parts.port is not None
    except ValueError:
        valid = False
    if not valid or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise InputError(f"{address!r} is not an address; it has the form tcp://HOST:PORT")
    return address


def make_router(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    *,
    heartbeat_s: float,
    silence_limit_s: float,
    key: LinkKey | None = None,
) -> zmq.Socket[bytes]:
    """Return a ROUTER socket that is bound to `address`; with a `key`, only for those who have it.

    Raises
    ------
    PortInUse
        Another program listens there.
    ConnectionFailed
        It cannot be bound for another reason.
    """
    router = _make(context, zmq.ROUTER, heartbeat_s, silence_limit_s)
    router.set(zmq.ROUTER_MANDATORY, 1)
    # only control messages come this way
    router.set(zmq.MAXMSGSIZE, _CONTROL_LIMIT_BYTES)
    if key is not None:
        key.protect_listening(router)
    try:
        resolved = _resolved(checked_address(address))
        # with this set, an IPv4 address would be shown as one of IPv6
        router.set(zmq.IPV6, int("[" in resolved))
        router.bind(resolved)
    except zmq.ZMQError as error:
        router.close(linger=0)
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{address} is in use by another program; choose another port, or 0") from error
        raise ConnectionFailed(f"cannot listen at {address}: {error.strerror}") from error
    except (ConnectionFailed, InputError):
        router.close(linger=0)
        raise
    return router


def make_dealer(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    *,
    heartbeat_s: float,
    silence_limit_s: float,
    key: LinkKey | None = None,
) -> zmq.Socket[bytes]:
    """Return a DEALER socket that is being connected to `address`, again and again until somebody answers.

    Raises
    ------
    ConnectionFailed
        The address cannot be one.
    """
    dealer = _make(context, zmq.DEALER, heartbeat_s, silence_limit_s)
    dealer.set(zmq.RECONNECT_IVL, _RECONNECT_INTERVAL_MS)
    dealer.set(zmq.RECONNECT_IVL_MAX, _RECONNECT_INTERVAL_LIMIT_MS)
    dealer.set(zmq.MAXMSGSIZE, _MESSAGE_LIMIT_BYTES)
    if key is not None:
        key.protect_connecting(dealer)
    return _connected(dealer, address)


def make_request_socket(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """Return a REQ socket that is being connected to `address`, again and again until somebody answers.

    Raises
    ------
    InputError
        The address is none.
    ConnectionFailed
        It cannot be connected to.
    """
    request = _make(context, zmq.REQ, _HEARTBEAT_S, _SILENCE_LIMIT_S)
    request.set(zmq.MAXMSGSIZE, _MESSAGE_LIMIT_BYTES)
    return _connected(request, address)


def _connected(made: zmq.Socket[bytes], address: str) -> zmq.Socket[bytes]:
    """Let `made` connect to `address`; where that cannot be it is closed."""
    try:
        made.connect(checked_address(address))
    except zmq.ZMQError as error:
        made.close(linger=0)
        raise ConnectionFailed(f"cannot connect to {address}: {error.strerror}") from error
    except InputError:
        made.close(linger=0)
        raise
    return made


def bound_address(bound: zmq.Socket[bytes]) -> str:
    """Return where `bound` listens, with the real port."""
    endpoint = bound.get(zmq.LAST_ENDPOINT)
    return endpoint.rstrip(b"\0").decode() if isinstance(endpoint, bytes) else ""


def _make(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, heartbeat_s: float, silence_limit_s: float
) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.set(zmq.SNDHWM, 0)
    made.set(zmq.RCVHWM, 0)
    made.set(zmq.LINGER, int(LINGER_S * 1000))
    made.set(zmq.IPV6, 1)
    made.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_TIMEOUT_MS)
    made.set(zmq.HEARTBEAT_IVL, max(1, int(heartbeat_s * 1000)))
    made.set(zmq.HEARTBEAT_TIMEOUT, max(1, int(silence_limit_s * 1000)))
    return made


def _resolved(address: str) -> str:
    """Return `address` with its host as a number: ZeroMQ binds to no names."""
    parts = urlsplit(address)
    try:
        found = socket.getaddrinfo(
            "0.0.0.0" if parts.hostname == "*" else parts.hostname,  # noqa: S104 - what was asked for
            parts.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError as error:
        raise ConnectionFailed(f"cannot listen at {address}: {error.strerror}") from error
    host = found[0][4][0]
    return f"tcp://[{host}]:{parts.port}" if ":" in str(host) else f"tcp://{host}:{parts.port}"


_KEYS_DIFFER = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class ConnectionMonitor:
    """Tells of connections of one socket that have come (their greeting is complete) and gone.

    Attributes
    ----------
    keys_differ : bool
        Somebody was there, and the two did not agree on encryption.
    """

    def __init__(self, watched: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self.keys_differ = False
        self.socket: zmq.Socket[bytes] = watched.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _KEYS_DIFFER
        )

    def events(self) -> Iterator[bool]:
        """Yield True for each connection that has come, False for each that has gone; do not wait."""
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = parse_monitor_message(parts)["event"]
            self.keys_differ |= bool(event & _KEYS_DIFFER)
            if event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
                yield event == zmq.EVENT_HANDSHAKE_SUCCEEDED

    def close(self) -> None:
        """Stop watching; before the watched socket is closed."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)
        self.socket.close(linger=0)
