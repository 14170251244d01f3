"""All sessions of one control server: every event goes in here, and out come the commands for the shell.

It does no I/O and knows no time. An event that is illegal, or cannot be served, raises and leaves everything
as it was. Sessions are found by their owner and uid together, so nobody can tell another's from none.

`scistream.core.session` says which event is legal when. What it does is in `admission` (REQ, the queue,
ports), `greeting` (HELLO), `connecting` (UpdateTargets, the data server), `leases` (timers), `ending` and
`recovery`; here they are joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scistream.core import ending
from scistream.core.admission import Admission
from scistream.core.commands import Accepted, Command, Reply
from scistream.core.connecting import Connecting
from scistream.core.events import (
    Admitted,
    CallAbandoned,
    CallEvent,
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
    SessionFreed,
    SessionKey,
    Timer,
    TimerFired,
    TrafficSeen,
    Update,
)
from scistream.core.greeting import Greeting
from scistream.core.leases import Leases, traffic_seen
from scistream.core.limits import Limits
from scistream.core.recovery import drop_unbound, recover
from scistream.core.replies import not_found
from scistream.core.reservation import Capacity, Pool
from scistream.core.session import LATE_REPORTS, TRANSITIONS, Encryption, Session, State
from scistream.errors import InvalidArgument, ResourceExhausted, SessionExists, WrongState

__all__ = ["Limits", "SessionTable"]


class SessionTable:
    """The sessions of one control server.

    Parameters
    ----------
    pool : Pool
        Ports for listeners.
    encryption : Encryption
        What is asked of the leg between the gateways.
    limits : Limits or None
        How long who waits; None: the defaults.
    capacity : Capacity or None
        Throughput that sessions can reserve; None: without limit.
    reverses : bool
        Whether the data servers can have reverse sessions.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        encryption: Encryption = Encryption.REQUIRED,
        limits: Limits | None = None,
        capacity: Capacity | None = None,
        reverses: bool = False,
    ) -> None:
        self._limits = limits or Limits()
        self._sessions: dict[SessionKey, Session] = {}
        self._ended: dict[SessionKey, None] = {}  # in the order of their ends
        self._with_credential: dict[str, SessionKey] = {}
        self._admission = Admission(pool, capacity or Capacity(0), self._limits, reverses=reverses)
        self._greeting = Greeting(self._limits)
        connecting = Connecting(encryption, self._limits)
        leases = Leases(self._limits)
        self._handlers: dict[type[Event], Callable[[Session, Any], list[Command]]] = {
            Request: self._request_again,
            Admitted: self._admission.admitted,
            PortsTaken: self._ports_taken,
            ListenersBound: self._greeting.listeners_bound,
            ReservationFailed: _reservation_failed,
            Hello: self._greeting.hello,
            Update: connecting.update,
            DataServerReady: connecting.data_server_ready,
            DataServerFailed: connecting.data_server_failed,
            RetargetFailed: connecting.retarget_failed,
            DataServerDied: connecting.data_server_died,
            DataServerRestarted: connecting.data_server_restarted,
            Renew: leases.renew,
            TrafficSeen: traffic_seen,
            TimerFired: leases.timer_fired,
            Release: ending.release,
            CallAbandoned: self._call_abandoned,
            Orphaned: ending.orphaned,
            SessionFreed: ending.session_freed,
        }

    # --- looking ---------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Session]:
        """Iterate over all sessions, the ended ones that are remembered among them."""
        return iter(tuple(self._sessions.values()))

    @property
    def remembered(self) -> int:
        """How many sessions there are, the ended ones that are remembered among them."""
        return len(self._sessions)

    @property
    def queue(self) -> tuple[SessionKey, ...]:
        """Who queues for capacity and ports, the first one first."""
        return self._admission.queue

    def find(self, key: SessionKey) -> Session | None:
        """Return the session `key`, or None."""
        return self._sessions.get(key)

    def get(self, key: SessionKey) -> Session:
        """Return the session `key`.

        Raises
        ------
        SessionNotFound
            Its owner has none of that uid.
        """
        try:
            return self._sessions[key]
        except KeyError:
            raise not_found(key) from None

    def with_credential(self, credential_hash: str) -> Session | None:
        """Return the session whose application holds the credential, also if it has ended; None: none."""
        key = self._with_credential.get(credential_hash)
        return None if key is None else self._sessions[key]

    # --- events ----------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[Command, ...]:
        """Let `event` happen and return what the shell has to do, in order.

        When something becomes free, that concerns the sessions that queue for it too.

        Raises
        ------
        CallerError
            `WrongState`, `SessionNotFound`, `SessionExists`, `InvalidArgument`: it cannot be served.
        ResourceExhausted
            There are not enough ports, too little capacity, or too many wait already.
        """
        session = self._sessions.get(event.key)
        if session is None or (session.freed and self._precedes_another(event)):
            return tuple(self._without_session(event))
        return tuple(self._apply(session, event))

    def restore(self, session: Session) -> tuple[Command, ...]:
        """Take a session out of the journal over, and return what lets it go on. Its timers are the shell's.

        Raises
        ------
        SessionExists
            There is one of its name.
        InvalidArgument
            Another one holds its ports.
        """
        if session.key in self._sessions:
            raise SessionExists(f"session {session.key.uid} of {session.key.owner} is here already")
        drop_unbound(session)
        try:
            self._admission.hold(session)
        except InvalidArgument as error:
            raise InvalidArgument(f"session {session.key.uid}: {error}") from error
        self._sessions[session.key] = session
        self._with_credential.update(dict.fromkeys(session.credential_hashes, session.key))
        if session.state.ended:
            self._ended[session.key] = None
            self._forget_oldest()
        return tuple(recover(session))

    def put_back(self, session: Session) -> None:
        """Let a session be again what `session`, its copy, says: the update that came since was in vain.

        Nothing else may have happened to it in between, and none of the update's commands was carried out.
        """
        self._sessions[session.key] = session

    def _precedes_another(self, event: Event) -> bool:
        """Return whether `event`, after the end of a session, is about the next one of its name."""
        match event:
            case Request() | Hello():
                return True
            case CallAbandoned() | TimerFired(timer=Timer.EARLY_HELLO):
                return bool(self._greeting.of(event.key))
        return False

    def _apply(self, session: Session, event: Event) -> list[Command]:
        before = session.state
        allowed = TRANSITIONS.get((before, type(event)))
        if allowed is None:
            because = f": {session.reason}" if session.reason else ""
            raise WrongState(
                f"{type(event).__name__} cannot come while session {event.key.uid} "
                f"is {before}{because}{_advice(before, event)}"
            )
        if before.ended and isinstance(event, LATE_REPORTS):
            return []
        commands = self._handlers[type(event)](session, event)
        if session.state not in allowed:
            raise AssertionError(
                f"{type(event).__name__} led session {event.key.uid} from {before} to {session.state}"
            )
        return commands + self._afterwards(session, before)

    def _afterwards(self, session: Session, before: State) -> list[Command]:
        """Note that `session` has ended or is free, and serve those that queue."""
        served: list[Command] = []
        if session.state is not State.QUEUED:
            self._admission.leave(session)
        if session.state.ended and not before.ended:
            self._ended.setdefault(session.key)
            # it may have been the first in the queue, or have given back ports that somebody outside holds
            served += self._serve_queue()
        if session.freed and not before.freed:
            self._admission.give_back(session)
            served += self._serve_queue()
            self._forget_oldest()
        return served

    def _serve_queue(self) -> list[Command]:
        commands: list[Command] = []
        while (key := self._admission.next()) is not None:
            commands += self._apply(self._sessions[key], Admitted(key=key))
        return commands

    def _without_session(self, event: Event) -> list[Command]:
        match event:
            case Request():
                return self._request(event)
            case Hello():
                return self._greeting.hold(event)
            case Release():
                return [Reply(key=event.key, call=event.call)]
            case CallAbandoned():
                return self._greeting.forget(event)
            case TimerFired(timer=Timer.EARLY_HELLO):
                return self._greeting.expire(event.key, self._sessions.get(event.key))
        raise not_found(event.key)

    def _request(self, event: Request) -> list[Command]:
        session, commands = self._admission.request(event, self._greeting.of(event.key))
        self._ended.pop(event.key, None)
        if (before := self._sessions.get(event.key)) is not None:
            self._forget_credentials(before.credential_hashes)
        self._sessions[event.key] = session
        return [*self._accepted(session, event), *self._greeting.requested(event.key), *commands]

    def _request_again(self, session: Session, event: Request) -> list[Command]:
        before = session.credential_hashes
        commands = self._admission.request_again(session, event)
        self._forget_credentials(one for one in before if one not in session.credential_hashes)
        return [*self._accepted(session, event), *commands]

    def _accepted(self, session: Session, event: Request) -> list[Command]:
        """Let the credential that came with a REQ find its session."""
        if not event.credential_hash:
            return []
        self._with_credential[event.credential_hash] = session.key
        return [Accepted(key=session.key, call=event.call)]

    def _forget_credentials(self, hashes: Iterable[str]) -> None:
        for one in hashes:
            self._with_credential.pop(one, None)

    def _ports_taken(self, session: Session, event: PortsTaken) -> list[Command]:
        instead = self._admission.ports_taken(session, event)
        return self._apply(session, instead) if isinstance(instead, ReservationFailed) else instead

    def _call_abandoned(self, session: Session, event: CallAbandoned) -> list[Command]:
        if ending.forget_call(session, event):
            return self._apply(session, Orphaned(key=session.key))
        return []

    def _forget_oldest(self) -> None:
        surplus = len(self._ended) - self._limits.ended_sessions
        if surplus <= 0:
            return
        freed = (key for key in self._ended if self._sessions[key].freed)
        for key in tuple(itertools.islice(freed, surplus)):
            del self._ended[key]
            self._forget_credentials(self._sessions.pop(key).credential_hashes)


def _reservation_failed(session: Session, event: ReservationFailed) -> list[Command]:
    return ending.end(session, State.FAILED, event.reason, ResourceExhausted)


def _advice(state: State, event: Event) -> str:
    if state.ended:
        return "; ask for a new session"
    if isinstance(event, Update):
        return "; the application's hello comes first"
    return "" if isinstance(event, CallEvent) else " (a report that nobody asked for)"
