"""What all sessions of one gateway share: where it listens, what it calls itself, its data servers."""

from __future__ import annotations

from dataclasses import dataclass

from scistream.control.listeners import BindAddress
from scistream.core.events import Role
from scistream.dataserver.base import DataServerBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One of the networks that a gateway is on.

    Parameters
    ----------
    bind : BindAddress
        Where data listeners for it are bound.
    advertise_host : str
        The host that others on it are told to connect to.
    """

    bind: BindAddress
    advertise_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway.

    Parameters
    ----------
    wan, lan : Network
        Between the gateways, and within the facility.
    backend : DataServerBackend
        Makes the data servers; open.
    data_server : str
        Name of that kind, for status.
    encrypts : bool
        Whether sessions get a key and certificate.
    """

    wan: Network
    lan: Network
    backend: DataServerBackend
    data_server: str
    encrypts: bool

    def listens_on(self, role: Role) -> Network:
        """Return the network that connects to the listeners of the side `role`.

        Another gateway connects to the producer's, an application (in the clear) to the consumer's.
        """
        return self.wan if role is Role.PRODUCER else self.lan
