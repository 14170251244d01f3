"""Networks and ports that data servers may connect to, and the addresses that are never meant by accident.

Everything is decided on addresses: whoever asks has looked names up before. An IPv6 address that only stands
for an IPv4 one is that IPv4 address.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from scistream.errors import InvalidArgument

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Ranges that a wider network does not take in: the gateway itself, its link (169.254.169.254 is where clouds
# tell secrets), and IPv6 forms that lead to an IPv4 address which nobody has looked at (RFC 4291, 3056, 4380,
# 6052, 8215).
_APART: tuple[tuple[str, Network], ...] = tuple(
    (what, ipaddress.ip_network(network))
    for what, network in (
        ("this host", "0.0.0.0/8"),
        ("loopback", "127.0.0.0/8"),
        ("link-local", "169.254.0.0/16"),
        ("multicast", "224.0.0.0/4"),
        ("broadcast", "255.255.255.255/32"),
        ("loopback", "::1/128"),
        ("this host", "::/128"),
        ("an IPv4 address in IPv6", "::/96"),
        ("an IPv4 address in IPv6", "64:ff9b::/96"),
        ("an IPv4 address in IPv6", "64:ff9b:1::/48"),
        ("an IPv4 address in IPv6", "2002::/16"),
        ("an IPv4 address in IPv6", "2001::/32"),
        ("link-local", "fe80::/10"),
        ("multicast", "ff00::/8"),
    )
)

_FORM = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<plain>[^:\[\]]+)):(?:(?P<any>\*)|(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?)",
    re.ASCII,
)


def parse_address(text: str) -> Address:
    """Return the address that `text` is, without its zone, an IPv4-mapped one as IPv4.

    Raises
    ------
    InvalidArgument
        It is none.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise InvalidArgument(f"{text!r} is no IP address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def set_apart(address: Address) -> str:
    """Return what is special about `address`, so that only a network within it means it; or nothing."""
    return next((what for what, network in _APART if _holds(network, address)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A network and a range of ports.

    Parameters
    ----------
    network : Network
        The addresses.
    first_port, last_port : int
        1 to 65535, both among those that are meant.
    """

    network: Network
    first_port: int = 1
    last_port: int = 65535

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read ``10.0.1.0/24:5000-5010``, ``10.0.1.5:5001``, ``[fd00::/8]:*``.

        Raises
        ------
        InvalidArgument
            The text has another form.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InvalidArgument(
                f"{text!r} is no network with ports; write NETWORK:PORT, NETWORK:FIRST-LAST or NETWORK:*, "
                "such as 10.0.1.0/24:5000-5010 or [fd00::/8]:*"
            )
        try:
            network = ipaddress.ip_network(match["bracketed"] or match["plain"])
        except ValueError as error:
            raise InvalidArgument(f"{text!r}: {error}; names are not taken, as they can change") from None
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            raise InvalidArgument(f"{text!r} is an IPv4 network in IPv6; write it as IPv4")
        if (network.version == 6) is not bool(match["bracketed"]):
            raise InvalidArgument(f"{text!r}: an IPv6 network stands in brackets, an IPv4 one does not")
        if match["any"]:
            return cls(network=network)
        first = int(match["first"])
        last = int(match["last"] or first)
        if not 1 <= first <= last <= 65535:
            raise InvalidArgument(f"{text!r}: ports are 1 to 65535, the first not above the last")
        return cls(network=network, first_port=first, last_port=last)

    def holds(self, address: Address, port: int) -> bool:
        """Return whether `address` and `port` are meant.

        One that is set apart is meant only by a network that lies within that range itself: ``0.0.0.0/0`` is
        everything but the gateway's own loopback, its link and the like.
        """
        if not self.first_port <= port <= self.last_port or not _holds(self.network, address):
            return False
        return all(_is_within(self.network, network) for _, network in _APART if _holds(network, address))

    def __str__(self) -> str:
        """Return the text that `parse` reads back."""
        host = f"[{self.network}]" if self.network.version == 6 else str(self.network)
        if (self.first_port, self.last_port) == (1, 65535):
            return f"{host}:*"
        last = "" if self.last_port == self.first_port else f"-{self.last_port}"
        return f"{host}:{self.first_port}{last}"


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def _holds(network: Network, address: Address) -> bool:
    return address.version == network.version and address in network


def _is_within(network: Network, wider: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network) and isinstance(wider, ipaddress.IPv4Network):
        return network.subnet_of(wider)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(wider, ipaddress.IPv6Network):
        return network.subnet_of(wider)
    return False
