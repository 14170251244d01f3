"""The contract that every data server fulfils, and the values that cross it.

Two objects: a `DataServerBackend` is there once per gateway (it finds the program, starts what is shared,
ends it); a `DataServer` is one session's forwarding. The native backend shares one small process tree among
all its sessions; the others run a process per session. Nothing here knows which.

Control servers talk to these classes only. What a plug-in must implement is abstract. What it may implement
besides are data servers that outlive the control server: `DataServer.handle` and, of the backend, `adopt`,
`left_running`, `discard_unadopted` and `detach`. One that does not says so when something is to be adopted.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from scistream.core.endpoint import Endpoint
from scistream.core.status import ChannelStatistics as ChannelStatistics  # noqa: PLC0414 - part of the contract
from scistream.errors import DataServerError

Restarted = Callable[[str], None]
"""Called in the event loop, with the reason, when a data server has restarted itself and lost connections."""


class TlsLeg(StrEnum):
    """Which leg of each connection crosses the wide-area network, and speaks TLS if anything is encrypted."""

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
    reverse : bool
        The producer's side dials, so that the parts in the handshake are changed over: the consumer's side is
        the TLS server.
    peer_omits_close_notify : bool
        The peer ends one direction of a stream by TCP's FIN alone. Without the close_notify nothing proves
        that it was the peer who ended it; from any other peer such an end is that of a cut stream.
    """

    leg: TlsLeg
    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    peer_certificate_pem: bytes
    reverse: bool = False
    peer_omits_close_notify: bool = False

    @property
    def is_server(self) -> bool:
        """Whether this side is the TLS server: the one that accepts."""
        return (self.leg is TlsLeg.LISTENER) is not self.reverse


@dataclass(frozen=True, slots=True, kw_only=True)
class Reverse:
    """How the two data servers of a session meet where the producer's side dials: on one side one of the two.

    Parameters
    ----------
    waits_at : tuple of socket.socket
        The consumer's side: the listening socket for the other gateway of each channel.
    dials : tuple of Endpoint
        The producer's side: where the other gateway waits, for each channel.
    """

    waits_at: tuple[socket.socket, ...] = ()
    dials: tuple[Endpoint, ...] = ()


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
    wan_leg : TlsLeg or None
        The leg between the gateways, whose path may be long, also when it is not encrypted; None: that of
        `tls`, or neither.
    rate_mbps : float
        What all connections of the session together may carry in each direction, in 10⁶ bit/s; 0: as fast
        as it goes.
    reverse : Reverse or None
        The producer's side dials the consumer's. On the producer's side there are no `listeners` then; on
        the consumer's side nothing is dialled, and `targets` say nothing. Only for a backend that `reverses`.
    """

    uid: str
    listeners: tuple[socket.socket, ...]
    targets: tuple[Endpoint, ...]
    tls: TlsCredentials | None = None
    wan_leg: TlsLeg | None = None
    rate_mbps: float = 0
    reverse: Reverse | None = None

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.reverse.dials) if self.reverse and self.reverse.dials else len(self.listeners)


@dataclass(frozen=True, slots=True)
class Persistence:
    """How data servers outlive their control server and are found again.

    Parameters
    ----------
    directory : Path
        Where the backend keeps what it needs for that; there, and nobody else's (mode 0700).
    orphan_limit_s : float
        Data servers that no control server has asked for so long end themselves.
    """

    directory: Path
    orphan_limit_s: float


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
    async def retarget(
        self, targets: Sequence[Endpoint], tls: TlsCredentials | None, *, dials: Sequence[Endpoint] = ()
    ) -> None:
        """Connect new connections to `targets`; connections that are open finish where they are.

        Parameters
        ----------
        dials : sequence of Endpoint
            As in `Reverse`; only for the producer's side of a reverse session.

        Raises
        ------
        DataServerError
            It is not running.
        """

    @property
    def handle(self) -> str:
        """By which `DataServerBackend.adopt` finds it in another control server's process.

        Empty before `start`, and always if it does not outlive the control server.
        """
        return ""

    @abstractmethod
    async def stop(self) -> None:
        """Close every connection and free everything. Idempotent, bounded in time."""

    @abstractmethod
    async def wait(self) -> str:
        """Return when forwarding has ended by itself for good, with the reason.

        A plain `stop` gives ``"stopped"``. After any other reason the control server may at once start a new
        data server on the same listeners.
        """

    @abstractmethod
    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Return one entry per channel, in the order of the listeners.

        Raises
        ------
        DataServerError
            It is not running, or does not answer.
        """


@dataclass(frozen=True, slots=True)
class Adopted:
    """A data server that an earlier control server had started.

    Parameters
    ----------
    server : DataServer
        Started, and used like any other from here on.
    listeners : tuple of socket.socket
        The session's listening sockets, one per channel; the control server's own from now on.
    """

    server: DataServer
    listeners: tuple[socket.socket, ...]


@dataclass(frozen=True, slots=True)
class LeftRunning:
    """A data server that an earlier control server has left running, and no session has adopted.

    Parameters
    ----------
    uid : str
        The session that it was started for.
    pid : int
        The process that forwards; its end is the end of all that it forwards.
    """

    uid: str
    pid: int


class DataServerBackend(ABC):
    """A kind of data server on one gateway, named by its entry point in ``scistream.dataservers``.

    Attributes
    ----------
    omits_close_notify : bool
        Whether data servers of this kind end one direction of an encrypted stream by TCP's FIN alone. The
        other side's has to know, as it takes such an end for that of a cut stream.
    reverses : bool
        Whether a session's producer side can dial the consumer's (`Reverse`).
    paces : bool
        Whether a session can be held to a rate.
    forwards_plain : bool
        Whether a session need not be encrypted.
    """

    omits_close_notify: ClassVar[bool] = False
    reverses: ClassVar[bool] = False
    paces: ClassVar[bool] = False
    forwards_plain: ClassVar[bool] = True

    @abstractmethod
    async def open(self, persistence: Persistence | None = None) -> None:
        """Find the program, check its version, start what sessions share.

        Parameters
        ----------
        persistence : Persistence, optional
            Data servers outlive this process, however it ends, and those of an earlier one are found again.
            Without it everything ends when this process does.

        Raises
        ------
        DataServerError
            The program is missing, too old or does not start, or what an earlier process left cannot be used;
            the message says what to install, set or end.
        """

    @property
    def multipath_listeners(self) -> bool:
        """Whether listeners that other gateways connect to are to accept MPTCP besides TCP."""
        return False

    @abstractmethod
    def create(self, restarted: Restarted | None = None) -> DataServer:
        """Return an idle data server for one session.

        Parameters
        ----------
        restarted : callable, optional
            Called in the event loop, with the reason, each time the data server has restarted itself on the
            same listeners; connections were lost.
        """

    async def adopt(self, handle: str, spec_uid: str, restarted: Restarted | None = None) -> Adopted:
        """Take over the running data server `handle` of session `spec_uid`, found when this was opened.

        Its statistics go on. `restarted` is called as after `create`, also for what happened meanwhile.

        Raises
        ------
        DataServerError
            It has died, or was never there.
        """
        del handle, restarted
        raise DataServerError(f"session {spec_uid}: its data server has ended with the control server before")

    async def left_running(self) -> tuple[LeftRunning, ...]:
        """Return the data servers that were found at `open` and have not been adopted."""
        return ()

    async def discard_unadopted(self) -> int:
        """End the data servers that were found at `open` and have not been adopted; return how many."""
        return 0

    async def detach(self) -> None:
        """Let go of every data server and leave it running; then the backend is closed.

        Without persistence this ends them, as `close` does.
        """
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Stop every session's data server and what they share. Idempotent, bounded in time."""
