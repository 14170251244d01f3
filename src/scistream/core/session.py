"""The states of a session, which event leads from which to which, and what a session is.

`TRANSITIONS` is the whole rule of what may come when: an event that it does not name for a state is illegal
there. What a legal event does besides is in the modules that `scistream.core.table` joins. Source: the state
machine of the control server in SciStream's specification, with the reservation made at REQ, and with errors
and timeouts that always free the session. docs/explanation/sessions.md draws it.

Every message may come twice. Nothing leads back out of RELEASING. The three ends are the same for the
resources: nothing is held any more, and the session is remembered for a while, so that its owner can learn
the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from scistream.core.endpoint import Endpoint
from scistream.core.events import (
    Admitted,
    CallAbandoned,
    DataServerDied,
    DataServerFailed,
    DataServerReady,
    DataServerRestarted,
    Event,
    Hello,
    ListenersBound,
    Orphaned,
    PortsTaken,
    Release,
    Renew,
    Request,
    ReservationFailed,
    RetargetFailed,
    Role,
    SessionFreed,
    SessionKey,
    Timer,
    TimerFired,
    TrafficSeen,
    Update,
)
from scistream.core.principal import Who


class State(StrEnum):
    """How far a session has come."""

    QUEUED = "queued"
    """REQ has come; there is too little capacity, or there are too few ports. Nothing is held."""
    REQUESTED = "requested"
    """Capacity and ports are held; the ports are being bound."""
    RESERVED = "reserved"
    """The listeners are ours; the application has not said hello."""
    ANNOUNCED = "announced"
    """The application has said hello; REQ is answered."""
    CONNECTING = "connecting"
    """The data server is being started, for the first time or again."""
    CONNECTED = "connected"
    """The data server forwards."""
    RELEASING = "releasing"
    """It is over, and what was held is being freed."""
    RELEASED = "released"
    """Ended by its owner, or by the control server's own end."""
    EXPIRED = "expired"
    """Ended because somebody did not come in time, or by the end of a lease."""
    FAILED = "failed"
    """Ended by an error; the session's reason says which."""

    @property
    def freed(self) -> bool:
        """Whether it is over and nothing is held."""
        return self in ENDS

    @property
    def ended(self) -> bool:
        """Whether nothing leads back to life."""
        return self is State.RELEASING or self.freed


#: What a session can end as.
ENDS = frozenset({State.RELEASED, State.EXPIRED, State.FAILED})

#: What a session can begin as.
BEGINNINGS = (State.REQUESTED, State.QUEUED)


class Encryption(StrEnum):
    """What this gateway asks of the leg between the gateways."""

    REQUIRED = "required"
    """Only sessions whose other side proves a session key."""
    OPTIONAL = "optional"
    """Encrypted where the other side can, plain where it cannot."""
    NONE = "none"
    """Plain always."""


#: What the shell had begun, or seen, before it learnt of the end: it changes nothing then.
LATE_REPORTS: tuple[type[Event], ...] = (
    PortsTaken,
    ListenersBound,
    ReservationFailed,
    DataServerReady,
    DataServerFailed,
    RetargetFailed,
    DataServerDied,
    DataServerRestarted,
    TrafficSeen,
)


def _transitions() -> Mapping[tuple[State, type[Event]], tuple[State, ...]]:
    s = State
    stay_or_end: dict[State, tuple[State, ...]] = {state: (state, s.RELEASING) for state in State}
    table: dict[tuple[State, type[Event]], tuple[State, ...]] = {
        (s.QUEUED, Admitted): (s.REQUESTED,),
        (s.QUEUED, Hello): (s.QUEUED,),
        (s.QUEUED, Orphaned): (s.RELEASING,),
        (s.QUEUED, TimerFired): (s.RELEASING,),
        (s.REQUESTED, Hello): (s.REQUESTED,),
        (s.REQUESTED, PortsTaken): stay_or_end[s.REQUESTED],
        # a hello that has come early goes on with it at once
        (s.REQUESTED, ListenersBound): (s.RESERVED, s.ANNOUNCED),
        (s.REQUESTED, ReservationFailed): (s.RELEASING,),
        (s.REQUESTED, Orphaned): (s.RELEASING,),
        (s.REQUESTED, TimerFired): (s.RELEASING,),
        (s.RESERVED, Hello): (s.ANNOUNCED,),
        (s.RESERVED, ReservationFailed): (s.RELEASING,),
        (s.RESERVED, Orphaned): (s.RELEASING,),
        (s.RESERVED, TimerFired): (s.RELEASING,),
        (s.ANNOUNCED, Hello): (s.ANNOUNCED,),
        (s.ANNOUNCED, Update): (s.CONNECTING,),
        (s.ANNOUNCED, ReservationFailed): (s.RELEASING,),
        (s.ANNOUNCED, TimerFired): (s.RELEASING,),
        (s.CONNECTING, Hello): (s.CONNECTING,),
        (s.CONNECTING, Update): (s.CONNECTING,),
        (s.CONNECTING, ReservationFailed): (s.RELEASING,),
        # what the ended data server had reported changes nothing
        (s.CONNECTING, DataServerReady): (s.CONNECTED, s.CONNECTING),
        (s.CONNECTING, DataServerFailed): (s.RELEASING,),
        # one that is found again goes on as before, if it ever forwarded
        (s.CONNECTING, RetargetFailed): (s.CONNECTED, s.CONNECTING, s.RELEASING),
        (s.CONNECTING, DataServerDied): stay_or_end[s.CONNECTING],
        (s.CONNECTING, DataServerRestarted): (s.CONNECTING,),
        (s.CONNECTING, TrafficSeen): (s.CONNECTING,),
        (s.CONNECTING, TimerFired): (s.RELEASING,),
        (s.CONNECTED, Hello): (s.CONNECTED,),
        (s.CONNECTED, Update): (s.CONNECTED,),
        (s.CONNECTED, DataServerReady): (s.CONNECTED,),
        (s.CONNECTED, DataServerFailed): (s.RELEASING,),
        (s.CONNECTED, RetargetFailed): (s.CONNECTED,),
        (s.CONNECTED, DataServerDied): (s.CONNECTING, s.RELEASING),
        (s.CONNECTED, DataServerRestarted): (s.CONNECTED,),
        (s.CONNECTED, TrafficSeen): stay_or_end[s.CONNECTED],
        (s.CONNECTED, TimerFired): stay_or_end[s.CONNECTED],
        (s.RELEASING, SessionFreed): (s.RELEASED, s.EXPIRED, s.FAILED),
    }
    for state in State:
        if not state.ended:
            table[state, Request] = (state,)
            table[state, Renew] = (state,)
            table[state, Release] = (s.RELEASING,)
            # with the last caller who waits for its REQ goes the session
            waits = state in {s.QUEUED, s.REQUESTED, s.RESERVED}
            table[state, CallAbandoned] = stay_or_end[state] if waits else (state,)
            continue
        table[state, Release] = (state,)
        table[state, CallAbandoned] = (state,)
        for late in LATE_REPORTS:
            table[state, late] = (state,)
    return MappingProxyType(table)


#: (state, kind of event) → the states that it can lead to.
TRANSITIONS = _transitions()

#: The timers that can fire in a state; any other is illegal there.
AWAITED: Mapping[State, tuple[Timer, ...]] = MappingProxyType(
    {
        State.QUEUED: (Timer.QUEUE,),
        State.REQUESTED: (Timer.LIFETIME, Timer.TERM),
        State.RESERVED: (Timer.HELLO, Timer.LIFETIME, Timer.TERM),
        State.ANNOUNCED: (Timer.UPDATE, Timer.LIFETIME, Timer.TERM),
        State.CONNECTING: (Timer.LIFETIME, Timer.TERM),
        State.CONNECTED: (Timer.LIFETIME, Timer.TERM, Timer.IDLE, Timer.STEADY),
    }
)


@dataclass(slots=True, kw_only=True)
class Session:
    """What is known of one session.

    Attributes
    ----------
    reverse : bool
        Whether the producer's side dials the consumer's.
    queue : bool
        Whether its REQ asked to wait for capacity and ports.
    outcome : State or None
        What it ends as, once that is known.
    ports : tuple of int
        Held of the pool, in the order of the listeners, and after them of the reverse listeners that are
        ours; 0 while the operating system has not chosen.
    held_mbps : float
        Held of the gateway's capacity.
    listeners : tuple of Endpoint
        Where the data server accepts, as others reach it; other ports than `ports` where they are translated.
    reverse_listeners : tuple of Endpoint
        Where the sides of a reverse session meet, one per channel: the consumer's own, as others reach them;
        of the producer's side those that it dials.
    destinations : tuple of Endpoint
        What the application announced.
    targets : tuple of Endpoint
        Where the data server connects. With fewer than channels the data server begins again with the first
        (`targets[channel % len(targets)]`); with more, it leaves the others aside. The consumer's side of a
        reverse session connects nowhere, and has its reverse listeners here.
    certificate_pem, peer_certificate_pem : bytes
        Ours and the other side's; empty without encryption.
    peer_data_server : str
        Kind of the other side's data server; empty: not known.
    generation, ready_generation : int
        Number of the newest order to the data server, and of the newest that is settled: it was taken over,
        or could not be.
    ready_targets, ready_peer_certificate_pem, ready_peer_data_server, ready_reverse_listeners
        What the newest order said that was taken over; an order that fails leads back to it.
    restart_generation : int
        The order that began the data server that runs now, if it was restarted; older ones were its
        predecessor's.
    restarts, restarts_in_a_row : int
        How often the data server was restarted: in all, and since it was last steady.
    notice : str
        Why it was restarted last.
    idle_timeout_s, lifetime_s : float
        The leases; 0: none.
    term_s : float
        How long the gateway's policy lets it live, renewed or not; 0: as long as its leases do.
    who : Who or None
        Its owner, as an authenticator knew it when the session was asked for; None: only the name is known.
    credential_hashes : tuple of str
        Of the credentials that were made for its application, the newest last.
    idle_looks, traffic : int
        How often nothing had been carried since the look before, and the figure seen last.
    looking : bool
        Whether an answer to such a look is awaited.
    reason : str
        Why it ended, if it did.
    """

    key: SessionKey
    role: Role
    num_conn: int
    rate_mbps: float
    reverse: bool = False
    queue: bool = False
    state: State = State.REQUESTED
    outcome: State | None = None
    ports: tuple[int, ...] = ()
    held_mbps: float = 0
    taken_elsewhere: frozenset[int] = frozenset()
    listeners: tuple[Endpoint, ...] = ()
    reverse_listeners: tuple[Endpoint, ...] = ()
    destinations: tuple[Endpoint, ...] = ()
    targets: tuple[Endpoint, ...] = ()
    certificate_pem: bytes = b""
    peer_certificate_pem: bytes = b""
    peer_data_server: str = ""
    generation: int = 0
    ready_generation: int = 0
    ready_targets: tuple[Endpoint, ...] = ()
    ready_peer_certificate_pem: bytes = b""
    ready_peer_data_server: str = ""
    ready_reverse_listeners: tuple[Endpoint, ...] = ()
    restart_generation: int = 0
    restarts: int = 0
    restarts_in_a_row: int = 0
    notice: str = ""
    idle_timeout_s: float = 0
    lifetime_s: float = 0
    term_s: float = 0
    who: Who | None = None
    credential_hashes: tuple[str, ...] = ()
    idle_looks: int = 0
    traffic: int = 0
    looking: bool = False
    reason: str = ""
    # calls without an answer yet
    requests: list[int] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    updates: list[tuple[int, int]] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)

    def copy(self) -> Session:
        """Return a session that is like this one is now, and stays so."""
        return replace(
            self,
            requests=list(self.requests),
            hellos=list(self.hellos),
            updates=list(self.updates),
            releases=list(self.releases),
        )

    @property
    def owner(self) -> Who:
        """Its owner, as far as that is known."""
        return self.who or Who(name=self.key.owner)

    @property
    def num_ports(self) -> int:
        """How many ports it needs: a reverse session all of them at the consumer's side."""
        if not self.reverse:
            return self.num_conn
        return 2 * self.num_conn if self.role is Role.CONSUMER else 0

    @property
    def freed(self) -> bool:
        """Whether it has ended and holds nothing any more."""
        return self.state.freed

    @property
    def encrypted(self) -> bool:
        """Whether the leg between the gateways is TLS."""
        return bool(self.certificate_pem and self.peer_certificate_pem)
