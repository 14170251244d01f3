"""What all sessions of one gateway share: where it listens, what it calls itself, its data servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scistream.control.authorisation import Authorisation
from scistream.control.listeners import BindAddress
from scistream.control.state_dir import StateDirectory
from scistream.core.endpoint import Endpoint
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
    paces : bool
        Whether data servers hold sessions to the rates that they have reserved.
    advertised_ports : mapping of int to int
        Port that is bound → the same as others reach it, where that is another one.
    authorisation : Authorisation
        What data servers may connect to.
    state : StateDirectory or None
        Where private keys are kept for the next control server; None: nowhere.
    """

    wan: Network
    lan: Network
    backend: DataServerBackend
    data_server: str
    encrypts: bool
    paces: bool = False
    advertised_ports: Mapping[int, int] = field(default_factory=dict)
    authorisation: Authorisation = field(default_factory=Authorisation)
    state: StateDirectory | None = None

    def listens_on(self, role: Role) -> Network:
        """Return the network that connects to the listeners of the side `role`.

        Another gateway connects to the producer's, an application (in the clear) to the consumer's.
        """
        return self.wan if role is Role.PRODUCER else self.lan

    def advertised(self, network: Network, port: int) -> Endpoint:
        """Return where others on `network` reach the listener that is bound to `port`."""
        return Endpoint(network.advertise_host, self.advertised_ports.get(port, port))
