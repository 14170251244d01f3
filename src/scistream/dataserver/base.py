"""The contract that every data server fulfils, and the values that cross it.

Two objects: a `DataServerBackend` is there once per gateway (it finds the program, starts what is shared,
ends it); a `DataServer` is one session's forwarding. The native backend shares one small process tree among
all its sessions; the others run a process per session. Nothing here knows which.

Control servers talk to these classes only. What a plug-in must implement is abstract.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from scistream.core.endpoint import Endpoint
from scistream.core.status import ChannelStatistics as ChannelStatistics  # noqa: PLC0414 - part of the contract


class TlsLeg(StrEnum):
    """Which leg of each connection crosses the wide-area network, and so speaks TLS."""

    LISTENER = "listener"
    """The accepted one: the producer side's gateway."""
    TARGET = "target"
    """The dialled one: the consumer side's gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsCredentials:
    """What one side needs to prove its session key and to know the other side's.

    Parameters
    ----------
    leg : TlsLeg
        The leg that is encrypted; the other one is plain TCP.
    certificate_pem, private_key_pem : bytes
        This session's own self-signed certificate and its key. The key never leaves the gateway.
    peer_certificate_pem : bytes
        The one certificate that the other side must prove to hold; any other peer is refused.
    """

    leg: TlsLeg
    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    peer_certificate_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DataServerSpec:
    """One session's forwarding, complete.

    Parameters
    ----------
    uid : str
        The session, for log lines and statistics.
    listeners : tuple of socket.socket
        One listening socket per channel, reserved by the control server, which keeps them open as long as
        the session lives; the data server duplicates what it needs.
    targets : tuple of Endpoint
        Where the channels connect: channel i to ``targets[i % len(targets)]``. At least one.
    tls : TlsCredentials or None
        None forwards plain TCP on both legs.
    """

    uid: str
    listeners: tuple[socket.socket, ...]
    targets: tuple[Endpoint, ...]
    tls: TlsCredentials | None = None


class DataServer(ABC):
    """One session's forwarding: created idle by its backend, started once, retargeted as often as wanted."""

    @abstractmethod
    async def start(self, spec: DataServerSpec) -> None:
        """Forward; return once connections are being accepted.

        Raises
        ------
        DataServerError
            It could not be started; nothing of it is left running.
        """

    @abstractmethod
    async def retarget(self, targets: Sequence[Endpoint], tls: TlsCredentials | None) -> None:
        """Connect new connections to `targets`; connections that are open finish where they are.

        Raises
        ------
        DataServerError
            It is not running.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Close every connection and free everything. Idempotent, bounded in time."""

    @abstractmethod
    async def wait(self) -> str:
        """Return when forwarding has ended by itself, with the reason; a plain `stop` gives ``"stopped"``."""

    @abstractmethod
    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Return one entry per channel, in the order of the listeners.

        Raises
        ------
        DataServerError
            It is not running, or does not answer.
        """


class DataServerBackend(ABC):
    """A kind of data server on one gateway, named by its entry point in ``scistream.dataservers``."""

    @abstractmethod
    async def open(self) -> None:
        """Find the program, check its version, start what sessions share.

        Raises
        ------
        DataServerError
            The program is missing, too old or does not start; the message says what to install or set.
        """

    @abstractmethod
    def create(self) -> DataServer:
        """Return an idle data server for one session."""

    @abstractmethod
    async def close(self) -> None:
        """Stop every session's data server and what they share. Idempotent, bounded in time."""
