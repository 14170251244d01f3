"""The TCP connections of a program's processes, as the kernel counts them.

Programs that say what they have carried only at a connection's end are asked nothing: the kernel is. It tells
every socket with its counters (``NETLINK_SOCK_DIAG``, linux/inet_diag.h; `ss -ti` shows the same), and
``/proc/PID/fd`` whose socket it is. Application bytes are those of the plain leg. Which of several plain
sockets belongs to which channel is known where accepted connections are plain, or where targets differ; else
it is taken from the order in which they were made, so that at least their sum is right.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from scistream.core.endpoint import Endpoint
from scistream.dataserver.programs.plan import Plan
from scistream.errors import DataServerError

_SOCK_DIAG, _BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301  # linux/netlink.h, linux/sock_diag.h
_DONE, _ERROR = 3, 2
_INFO = 2  # INET_DIAG_INFO
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
#: inet_diag_msg: family, state, -, -, both ports, both addresses, interface, cookies, -, -, -, -, inode
_MESSAGE = struct.Struct("=BBBB2s2s16s16sIIIIIIII")
_ATTRIBUTE = struct.Struct("=HH")
#: tcp_info: tcpi_bytes_received at 128, tcpi_bytes_sent and tcpi_bytes_retrans at 200 (Linux 4.19)
_RECEIVED_AT, _SENT_AT, _INFO_BYTES = 128, 200, 216
_RECEIVE_BYTES = 1 << 17

_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING = 1, 4, 5, 8, 9, 11
_STATES = sum(
    1 << state for state in (_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING)
)
#: States in which the peer's FIN was received, which the kernel counts as one byte.
_PEER_HAS_ENDED = frozenset({_CLOSE_WAIT, _LAST_ACK, _CLOSING})

_UNSPECIFIED = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Connection:
    """One socket.

    Parameters
    ----------
    local, remote : Endpoint
        Its addresses; an IPv4 one of an IPv6 socket as IPv4.
    sent, received : int
        Payload bytes.
    inode : int
        Its number, larger than those of earlier ones.
    """

    local: Endpoint
    remote: Endpoint
    sent: int
    received: int
    inode: int


class Ended:
    """Connections that a program has said to have ended, while the kernel may still know their sockets."""

    def __init__(self) -> None:
        self._remotes: set[Endpoint] = set()

    def add(self, remote: Endpoint) -> None:
        """Note the end of the one that was accepted from `remote`."""
        self._remotes.add(remote)

    def left_out(self, connections: Sequence[Connection]) -> list[Connection]:
        """Return `connections` without them, so that none is counted twice."""
        self._remotes.intersection_update(one.remote for one in connections)
        return [one for one in connections if one.remote not in self._remotes]


def connections_of(pids: Iterable[int]) -> list[Connection]:
    """Return the TCP connections of these processes, in the order in which they were made.

    Raises
    ------
    DataServerError
        The kernel does not tell.
    """
    inodes = {inode for pid in pids for inode in _sockets_of(pid)}
    if not inodes:
        return []
    found = [
        connection
        for family in (socket.AF_INET, socket.AF_INET6)
        for connection in _dump(family)
        if connection.inode in inodes
    ]
    return sorted(found, key=lambda connection: connection.inode)


def open_figures(
    plan: Plan, addresses: Sequence[Collection[Endpoint]], connections: Sequence[Connection]
) -> list[list[int]]:
    """Return, per channel: open connections, bytes to and from the target.

    Parameters
    ----------
    plan : Plan
        What is forwarded.
    addresses : sequence of collection of Endpoint
        Per channel, the targets' addresses, earlier ones included.
    connections : sequence of Connection
        Those of the program.
    """
    accepted: list[list[Connection]] = [[] for _ in plan.channels]
    dialled: list[Connection] = []
    by_listener = {channel.listener: index for index, channel in enumerate(plan.channels)}
    by_port = {
        channel.listener.port: index
        for index, channel in enumerate(plan.channels)
        if channel.listener.host in _UNSPECIFIED
    }
    for connection in connections:
        index = by_listener.get(connection.local, by_port.get(connection.local.port))
        if index is None:
            dialled.append(connection)
        else:
            accepted[index].append(connection)
    if not plan.accepts_tls:
        return [
            [len(mine), sum(one.received for one in mine), sum(one.sent for one in mine)] for mine in accepted
        ]
    pairs = _paired(addresses, accepted, dialled)
    return [
        [len(mine), sum(one.sent for one in theirs), sum(one.received for one in theirs)]
        for mine, theirs in zip(accepted, pairs, strict=True)
    ]


def with_ended(ended: Sequence[Sequence[int]], now: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the figures of all connections, from those of what has ended and `open_figures`."""
    return [
        [open_, total + open_, failed, to_target + more_to, from_target + more_from]
        for (_, total, failed, to_target, from_target), (open_, more_to, more_from) in zip(
            ended, now, strict=True
        )
    ]


def _paired(
    addresses: Sequence[Collection[Endpoint]],
    accepted: Sequence[Sequence[Connection]],
    dialled: Sequence[Connection],
) -> list[list[Connection]]:
    """Return which dialled connections belong to each channel."""
    pairs: list[list[Connection]] = [[] for _ in addresses]
    waiting = sorted((one.inode, index) for index, mine in enumerate(accepted) for one in mine)
    for connection in dialled:
        for place, (_, index) in enumerate(waiting):
            if connection.remote in addresses[index]:
                pairs[index].append(connection)
                del waiting[place]
                break
    return pairs


def _sockets_of(pid: int) -> Iterator[int]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            names = [entry.path for entry in entries]
    except OSError:
        return  # it has just ended
    for name in names:
        try:
            link = os.readlink(name)  # noqa: PTH115 - thousands of them
        except OSError:
            continue  # closed meanwhile
        if link.startswith("socket:["):
            yield int(link[8:-1])


def _dump(family: int) -> Iterator[Connection]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _STATES)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as link:
            link.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
            while True:
                data = link.recv(_RECEIVE_BYTES)
                while data:
                    length, kind, _, _, _ = _HEADER.unpack_from(data)
                    if kind == _DONE:
                        return
                    if kind == _ERROR:
                        raise DataServerError("the kernel does not tell the counters of TCP connections")
                    connection = read_connection(family, data[_HEADER.size : length])
                    if connection is not None:
                        yield connection
                    data = data[-(-length // 4) * 4 :]
    except OSError as error:
        raise DataServerError(
            f"the kernel does not tell the counters of TCP connections: {error.strerror}"
        ) from error


def read_connection(family: int, data: bytes) -> Connection | None:
    """Return what one message of the kernel says; None if it has no counters."""
    _, state, _, _, from_port, to_port, source, target, *_, inode = _MESSAGE.unpack_from(data)
    offset = _MESSAGE.size
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        value = data[offset + _ATTRIBUTE.size : offset + length]
        if kind == _INFO and len(value) >= _INFO_BYTES:
            (received,) = struct.unpack_from("=Q", value, _RECEIVED_AT)
            sent, again = struct.unpack_from("=QQ", value, _SENT_AT)
            return Connection(
                _endpoint(family, source, from_port),
                _endpoint(family, target, to_port),
                sent - again,
                max(received - (state in _PEER_HAS_ENDED), 0),
                inode,
            )
        offset += max(-(-length // 4) * 4, _ATTRIBUTE.size)
    return None


def _endpoint(family: int, address: bytes, port: bytes) -> Endpoint:
    host = socket.inet_ntop(family, address[: 4 if family == socket.AF_INET else 16])
    return Endpoint(host.removeprefix("::ffff:") if "." in host else host, int.from_bytes(port, "big"))
