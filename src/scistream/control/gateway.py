"""What all sessions of one gateway share: where it listens, what it calls itself, its data servers."""

from __future__ import annotations

from dataclasses import dataclass

from scistream.control.listeners import BindAddress
from scistream.dataserver.base import DataServerBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway.

    Parameters
    ----------
    bind : BindAddress
        Where data listeners are bound.
    advertise_host : str
        The host that others are told to connect to.
    backend : DataServerBackend
        Makes the data servers; open.
    data_server : str
        Name of that kind, for status.
    encrypts : bool
        Whether sessions get a key and certificate.
    """

    bind: BindAddress
    advertise_host: str
    backend: DataServerBackend
    data_server: str
    encrypts: bool
