"""The states of a session, which event leads from which to which, and what a session is.

`TRANSITIONS` is the whole rule of what may come when: an event that it does not name for a state is illegal
there. What a legal event does besides is in `scistream.core.table`. Source: the state machine of the control
server in SciStream's specification, with the reservation made at REQ and errors that always free the session.

::

    REQUESTED ──ListenersBound──▶ RESERVED ──Hello──▶ ANNOUNCED ──Update──▶ CONNECTING ──Ready──▶ CONNECTED
        any of them ──Release──▶ RELEASED, ──TimerFired──▶ EXPIRED, ──…Failed──▶ FAILED

Every message may come twice. The three ends are the same for the resources: they are free once
`SessionFreed` has come, and the session is remembered for a while, so that its owner can learn the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from scistream.core.endpoint import Endpoint
from scistream.core.events import (
    CallAbandoned,
    DataServerFailed,
    DataServerReady,
    Event,
    Hello,
    ListenersBound,
    Orphaned,
    PortsTaken,
    Release,
    Request,
    ReservationFailed,
    Role,
    SessionFreed,
    SessionKey,
    TimerFired,
    Update,
)


class State(StrEnum):
    """How far a session has come."""

    REQUESTED = "requested"
    """REQ has come; ports are being bound."""
    RESERVED = "reserved"
    """The listeners are ours; the application has not said hello."""
    ANNOUNCED = "announced"
    """The application has said hello; REQ is answered."""
    CONNECTING = "connecting"
    """Update has come; the data server is starting."""
    CONNECTED = "connected"
    """The data server forwards."""
    RELEASED = "released"
    """Ended by its owner, or by the control server's own end."""
    EXPIRED = "expired"
    """Ended because somebody did not come in time."""
    FAILED = "failed"
    """Ended by an error; the session's reason says which."""

    @property
    def ended(self) -> bool:
        """Whether nothing leads out of this state."""
        return self in {State.RELEASED, State.EXPIRED, State.FAILED}


class Encryption(StrEnum):
    """What this gateway asks of the leg between the gateways."""

    REQUIRED = "required"
    """Only sessions whose other side proves a session key."""
    OPTIONAL = "optional"
    """Encrypted where the other side can, plain where it cannot."""
    NONE = "none"
    """Plain always."""


def _transitions() -> Mapping[tuple[State, type[Event]], State]:
    s = State
    table: dict[tuple[State, type[Event]], State] = {
        (s.REQUESTED, Request): s.REQUESTED,
        (s.REQUESTED, Hello): s.REQUESTED,
        (s.REQUESTED, PortsTaken): s.REQUESTED,
        (s.REQUESTED, ListenersBound): s.RESERVED,
        (s.REQUESTED, ReservationFailed): s.FAILED,
        (s.REQUESTED, Orphaned): s.RELEASED,
        (s.RESERVED, Request): s.RESERVED,
        (s.RESERVED, Hello): s.ANNOUNCED,
        (s.RESERVED, TimerFired): s.EXPIRED,
        (s.RESERVED, Orphaned): s.RELEASED,
        (s.ANNOUNCED, Request): s.ANNOUNCED,
        (s.ANNOUNCED, Hello): s.ANNOUNCED,
        (s.ANNOUNCED, Update): s.CONNECTING,
        (s.ANNOUNCED, TimerFired): s.EXPIRED,
        (s.CONNECTING, Request): s.CONNECTING,
        (s.CONNECTING, Hello): s.CONNECTING,
        (s.CONNECTING, Update): s.CONNECTING,
        (s.CONNECTING, DataServerReady): s.CONNECTED,
        (s.CONNECTING, DataServerFailed): s.FAILED,
        (s.CONNECTED, Request): s.CONNECTED,
        (s.CONNECTED, Hello): s.CONNECTED,
        (s.CONNECTED, Update): s.CONNECTED,
        (s.CONNECTED, DataServerReady): s.CONNECTED,
        (s.CONNECTED, DataServerFailed): s.FAILED,
    }
    for state in State:
        table[state, CallAbandoned] = state
        table[state, Release] = state if state.ended else s.RELEASED
        if state.ended:
            # the shell's reports of what it had begun before it learnt of the end
            for late in (PortsTaken, ListenersBound, ReservationFailed, DataServerReady, DataServerFailed):
                table[state, late] = state
            table[state, SessionFreed] = state
    return MappingProxyType(table)


#: (state, kind of event) → the state after it.
TRANSITIONS = _transitions()


@dataclass(slots=True, kw_only=True)
class Session:
    """What is known of one session.

    Attributes
    ----------
    ports : tuple of int
        Held of the pool.
    listeners : tuple of Endpoint
        Where the data server accepts, as others reach it.
    destinations : tuple of Endpoint
        What the application announced.
    targets : tuple of Endpoint
        Where the data server connects.
    certificate_pem, peer_certificate_pem : bytes
        Ours and the other side's; empty without encryption.
    generation, ready_generation : int
        Number of the newest update, and of the newest that the data server has taken over.
    reason : str
        Why it ended, if it did.
    freed : bool
        Whether it has ended and holds nothing any more.
    """

    key: SessionKey
    role: Role
    num_conn: int
    rate_mbps: float
    state: State = State.REQUESTED
    ports: tuple[int, ...] = ()
    taken_elsewhere: frozenset[int] = frozenset()
    listeners: tuple[Endpoint, ...] = ()
    destinations: tuple[Endpoint, ...] = ()
    targets: tuple[Endpoint, ...] = ()
    certificate_pem: bytes = b""
    peer_certificate_pem: bytes = b""
    generation: int = 0
    ready_generation: int = 0
    reason: str = ""
    freed: bool = False
    # calls without an answer yet
    requests: list[int] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    updates: list[tuple[int, int]] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)

    @property
    def encrypted(self) -> bool:
        """Whether the leg between the gateways is TLS."""
        return bool(self.certificate_pem and self.peer_certificate_pem)
