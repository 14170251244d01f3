"""What forwards a session's bytes: one contract, several implementations.

`base` has the contract, `registry` finds the implementations, each of which is a package of its own.
"""

from scistream.dataserver.base import (
    ChannelStatistics,
    DataServer,
    DataServerBackend,
    DataServerSpec,
    TlsCredentials,
    TlsLeg,
)
from scistream.dataserver.registry import create_backend, installed

__all__ = [
    "ChannelStatistics",
    "DataServer",
    "DataServerBackend",
    "DataServerSpec",
    "TlsCredentials",
    "TlsLeg",
    "create_backend",
    "installed",
]
