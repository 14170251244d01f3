"""One address of a TCP service: host and port, read from text once and then passed around as a value."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from scistream.errors import InvalidArgument

# RFC 1123 host names: labels of letters, digits and inner hyphens. Underscores are outside the RFC and
# common in container names, so they are let through. Nothing else: these texts reach configuration files.
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_MAX_HOST_LENGTH = 253


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a TCP service listens.

    Parameters
    ----------
    host : str
        Host name, IPv4 address or IPv6 address (without brackets; a zone such as ``%eth0`` is allowed).
    port : int
        TCP port, 0 to 65535. 0 means "any free port" and makes sense for listeners only.

    Raises
    ------
    InvalidArgument
        Host or port is not one.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise InvalidArgument(f"port {self.port!r} is not a number from 0 to 65535")
        if not _is_host(self.host):
            raise InvalidArgument(f"{self.host!r} is neither a host name nor an IP address")

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> Endpoint:
        """Read ``host:port``, ``[ipv6]:port``, or a bare host where `default_port` is given.

        Raises
        ------
        InvalidArgument
            The text has another form, or no port and there is no default.
        """
        text = text.strip()
        bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::(\d{1,5}))?", text, re.ASCII)
        plain = re.fullmatch(r"([^:\[\]]+)(?::(\d{1,5}))?", text, re.ASCII)
        match = bracketed or plain
        if match is None:
            raise InvalidArgument(f"{text!r} is not an address: write host:port or [ipv6]:port")
        host, port = match.groups()
        if bracketed and ":" not in host:
            raise InvalidArgument(f"{text!r}: only an IPv6 address stands in brackets")
        if port is None and default_port is None:
            raise InvalidArgument(f"{text!r} names no port: write host:port")
        return cls(host, int(port) if port is not None else int(default_port or 0))

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is a literal IPv6 address."""
        return ":" in self.host

    def __str__(self) -> str:
        """Return the text that `parse` reads back."""
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


def _is_host(host: str) -> bool:
    if not isinstance(host, str) or not host or len(host) > _MAX_HOST_LENGTH:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # all-numeric names such as 300.1.2.3 are mistyped addresses, never names
        last_label = host.rstrip(".").rpartition(".")[2]
        return _HOST_NAME.fullmatch(host) is not None and not last_label.isdigit()
    zone = host.partition("%")[2]
    return not zone or re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", zone) is not None
