"""What a program is to forward: a session's start message in the words of configuration files."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver.base import TlsCredentials, TlsLeg

FIRST_DESCRIPTOR = 3
"""Where a program's process has its listening sockets, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One listener and the addresses of its target.

    Parameters
    ----------
    name : str
        By which it is found again in what the program says.
    descriptor : int
        Of the listening socket, in the program's process.
    listener : Endpoint
        Where that is bound.
    addresses : tuple of Endpoint
        All numeric, in the order in which they are to be tried.
    """

    name: str
    descriptor: int
    listener: Endpoint
    addresses: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One session, complete."""

    uid: str
    channels: tuple[Channel, ...]
    tls: TlsCredentials | None
    rate_mbps: float

    @property
    def accepts_tls(self) -> bool:
        """Whether what is accepted is encrypted."""
        return self.tls is not None and self.tls.leg is TlsLeg.LISTENER

    @property
    def dials_tls(self) -> bool:
        """Whether what is dialled is encrypted."""
        return self.tls is not None and self.tls.leg is TlsLeg.TARGET


def plan_of(body: Mapping[str, Any], listeners: Sequence[socket.socket]) -> Plan:
    """Return what a ``start`` message asks for."""
    targets = [tuple(map(_endpoint, target)) for target in body["targets"]]
    tls = body["tls"]
    return Plan(
        uid=str(body["uid"]),
        channels=tuple(
            Channel(
                name=f"channel{index}",
                descriptor=FIRST_DESCRIPTOR + index,
                listener=Endpoint(*listener.getsockname()[:2]),
                addresses=targets[index % len(targets)],
            )
            for index, listener in enumerate(listeners)
        ),
        tls=None
        if tls is None
        else TlsCredentials(
            leg=TlsLeg(tls["leg"]),
            certificate_pem=tls["certificate"].encode(),
            private_key_pem=tls["private_key"].encode(),
            peer_certificate_pem=tls["peer_certificate"].encode(),
        ),
        rate_mbps=float(body["rate_mbps"]),
    )


def _endpoint(resolved: Sequence[Any]) -> Endpoint:
    """Return an address of a control message: (family, socket address)."""
    _, address = resolved
    host, port, *rest = address
    zone = rest[1] if len(rest) == 2 else 0
    return Endpoint(f"{host}%{zone}" if zone and "%" not in host else host, port)
