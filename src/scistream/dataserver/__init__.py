"""What forwards a session's bytes: one contract, several implementations.

`base` has the contract, `registry` finds the implementations, each of which is a package of its own.
"""

from scistream.dataserver.base import (
    Adopted,
    ChannelStatistics,
    DataServer,
    DataServerBackend,
    DataServerSpec,
    Persistence,
    Restarted,
    Reverse,
    TlsCredentials,
    TlsLeg,
)
from scistream.dataserver.registry import create_backend, installed

__all__ = [
    "Adopted",
    "ChannelStatistics",
    "DataServer",
    "DataServerBackend",
    "DataServerSpec",
    "Persistence",
    "Restarted",
    "Reverse",
    "TlsCredentials",
    "TlsLeg",
    "create_backend",
    "installed",
]
