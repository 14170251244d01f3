"""Whether a program listens at an address, found out without spending a connection of it where possible.

Many programs take one connection and end (``nc -l``, ``iperf3 -s -1``): trying would be that one. So the
kernel's table of listening sockets is read for addresses of this host; other hosts are connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, DeadlineExceeded

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"  # TCP_LISTEN in the kernel's net/tcp_states.h
_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 0.25
_CONNECT_TIMEOUT_S = 5.0

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program is to listen.

    Parameters
    ----------
    addresses : frozenset of addresses
        What the host's name means.
    is_here : bool
        Whether they are this host's own.
    """

    endpoint: Endpoint
    addresses: frozenset[_Address]
    is_here: bool

    @classmethod
    async def find(cls, endpoint: Endpoint) -> Place:
        """Look up what `endpoint` means.

        Raises
        ------
        ConfigurationError
            The host is not known.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise ConfigurationError(
                f"{endpoint} cannot be announced: {error.strerror or error}; give an address that the "
                "gateway can connect to"
            ) from error
        addresses = frozenset(ipaddress.ip_address(one[4][0]) for one in found)
        return cls(endpoint, addresses, any(_can_bind(one[0], one[4]) for one in found))

    async def is_listening(self) -> bool:
        """Return whether a program listens there now."""
        if self.is_here:
            return any(_listens_at(table, self.addresses, self.endpoint.port) for table in _TABLES)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(self.endpoint.host, self.endpoint.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    async def wait(self, timeout_s: float) -> None:
        """Return once a program listens there.

        Raises
        ------
        DeadlineExceeded
            None has begun to within `timeout_s`.
        """
        delay_s = _FIRST_DELAY_S
        try:
            async with asyncio.timeout(timeout_s):
                while not await self.is_listening():
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"nothing listens at {self.endpoint} after {timeout_s:g} s; check the command's port, or "
                "give it more time with --listen-timeout-s"
            ) from error


def _can_bind(family: int, address: tuple[object, ...]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


def _listens_at(table: Path, addresses: frozenset[_Address], port: int) -> bool:
    """Return whether a line of the kernel's `table` is a listener at one of `addresses`, or at all."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:  # a kernel without IPv6
        return False
    for line in lines:
        _, local, _, state, *_ = line.split()
        host, _, hexadecimal_port = local.partition(":")
        if state == _LISTEN and int(hexadecimal_port, 16) == port:
            bound = _address(host)
            if bound.is_unspecified or bound in addresses:
                return True
    return False


def _address(text: str) -> _Address:
    """Read an address as the kernel prints it: words of 32 bits in the machine's own order, hexadecimal."""
    words = [text[start : start + 8] for start in range(0, len(text), 8)]
    raw = b"".join(socket.htonl(int(word, 16)).to_bytes(4, "big") for word in words)
    address = ipaddress.ip_address(raw)
    return getattr(address, "ipv4_mapped", None) or address
