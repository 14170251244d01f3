"""What the session rules tell the shell to do, in the order in which it is to be done.

Values only; the shell (`scistream.control`) carries them out and reports by events. Commands of one session
are carried out one after the other. An event of one session can lead to commands for others: those that
queued behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from scistream.core.endpoint import Endpoint
from scistream.core.events import SessionKey, Timer
from scistream.errors import SciStreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Something to do for the session `key`."""

    key: SessionKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BindListeners(Command):
    """Bind and listen on `ports`, besides those bound already: for each channel, then its reverse listeners.

    Reported by `ListenersBound` once `wanted` are bound in all, by `PortsTaken` where somebody outside
    holds some, by `ReservationFailed` where nothing helps. Port 0 stands for any.
    """

    ports: tuple[int, ...]
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverListeners(Command):
    """Bind `ports` again, which were this session's before the control server ended.

    Reported by `ReservationFailed` where they cannot all be had; success is not reported.
    """

    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDataServer(Command):
    """Forward to `targets`. Reported by `DataServerReady` or `DataServerFailed`.

    Parameters
    ----------
    peer_data_server : str
        Kind of the other side's data server; empty: not known.
    reverse_listeners : tuple of Endpoint
        Where the sides of a reverse session meet; empty for any other session.
    """

    generation: int
    targets: tuple[Endpoint, ...]
    peer_certificate_pem: bytes
    peer_data_server: str = ""
    reverse_listeners: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetargetDataServer(StartDataServer):
    """Forward new connections to `targets` instead; old ones finish where they are.

    Reported by `DataServerReady`, or by `RetargetFailed` where everything stays as it was.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartDataServer(StartDataServer):
    """Start another data server on the same listeners: the one that was there has ended by itself.

    What was commanded for the ended one under an older generation, and has not been done, is void.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptDataServer(StartDataServer):
    """Find the data server again that forwards since before the control server ended.

    It need not have heard of the newest update: it is to forward to `targets` when it is reported ready.
    Where it is found and will not do that, `RetargetFailed` is reported.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LookForTraffic(Command):
    """Find out what the data server has carried. Always reported by `TrafficSeen`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSession(Command):
    """Stop the data server, close the listeners, forget the key. Reported by `SessionFreed`.

    It interrupts what is being done for the session. One that only queued, or came out of the journal, can
    have nothing of this: it is reported all the same.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer(Command):
    """Report `TimerFired` after `seconds`, unless cancelled; setting it again starts it anew."""

    timer: Timer
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimer(Command):
    """Forget the timer, if it is set."""

    timer: Timer


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(Command):
    """Tell a call that its REQ is taken: its session is here, and so is the credential that came with it."""

    call: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Command):
    """Answer a call with what is known of its session.

    Parameters
    ----------
    call : int
        Whom to answer.
    listeners : tuple of Endpoint
        Where this side's data server accepts.
    destinations : tuple of Endpoint
        What the application announced by HELLO.
    certificate_pem : bytes
        The session's certificate here; empty where this gateway does not encrypt.
    reverse : bool
        Whether the producer's side dials the consumer's.
    reverse_listeners : tuple of Endpoint
        Where the consumer's side of a reverse session waits for the producer's.
    """

    call: int
    listeners: tuple[Endpoint, ...] = ()
    destinations: tuple[Endpoint, ...] = ()
    certificate_pem: bytes = b""
    reverse: bool = False
    reverse_listeners: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Command):
    """Answer a call that waited with an error."""

    call: int
    error: SciStreamError
