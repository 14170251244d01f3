"""All sessions of one control server: every event goes in here, and out come the commands for the shell.

It does no I/O and knows no time. An event that is illegal, or cannot be served, raises and leaves everything
as it was. Sessions are found by their owner and uid together, so nobody can tell another's from none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scistream.core.commands import (
    BindListeners,
    CancelTimer,
    Command,
    FreeSession,
    Refuse,
    Reply,
    RetargetDataServer,
    SetTimer,
    StartDataServer,
)
from scistream.core.events import (
    CallAbandoned,
    CallEvent,
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
    Timer,
    TimerFired,
    Update,
)
from scistream.core.reservation import Pool
from scistream.core.session import TRANSITIONS, Encryption, Session, State
from scistream.errors import (
    DataServerError,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SciStreamError,
    SessionExists,
    SessionNotFound,
    WrongState,
)

# Updates to different targets that the data server has not taken over yet; a caller sends one at a time.
_MAX_PENDING_UPDATES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a session waits for whom, and how much is kept for those who do not come.

    Parameters
    ----------
    hello_timeout_s : float
        From the reservation to the application's HELLO. 180 s is the reference implementation's.
    update_timeout_s : float
        From the answer to REQ to UpdateTargets.
    early_hello_timeout_s : float
        How long a HELLO waits for its REQ. Below the 5 s after which the reference client gives up.
    early_hellos, ended_sessions : int
        How many HELLOs without REQ, and ended sessions, are remembered at most.
    """

    hello_timeout_s: float = 180
    update_timeout_s: float = 180
    early_hello_timeout_s: float = 4
    early_hellos: int = 10_000
    ended_sessions: int = 1_000


class SessionTable:
    """The sessions of one control server.

    Parameters
    ----------
    pool : Pool
        Ports for listeners.
    encryption : Encryption
        What is asked of the leg between the gateways.
    """

    def __init__(
        self, pool: Pool, *, encryption: Encryption = Encryption.REQUIRED, limits: Limits | None = None
    ) -> None:
        self._pool = pool
        self._encryption = encryption
        self._limits = limits or Limits()
        self._sessions: dict[SessionKey, Session] = {}
        self._early: dict[SessionKey, list[Hello]] = {}
        self._ended: dict[SessionKey, None] = {}  # in the order of their ends
        self._handlers: dict[type[Event], Callable[[Session, Any], list[Command]]] = {
            Request: self._request_again,
            Hello: self._hello,
            Update: self._update,
            Release: self._release,
            CallAbandoned: self._call_abandoned,
            Orphaned: self._orphaned,
            PortsTaken: self._ports_taken,
            ListenersBound: self._listeners_bound,
            ReservationFailed: self._reservation_failed,
            DataServerReady: self._data_server_ready,
            DataServerFailed: self._data_server_failed,
            TimerFired: self._timer_fired,
            SessionFreed: self._session_freed,
        }

    # --- looking ---------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Session]:
        """Iterate over all sessions, the ended ones that are remembered among them."""
        return iter(tuple(self._sessions.values()))

    @property
    def remembered(self) -> int:
        """How many sessions there are, the ended ones that are remembered among them."""
        return len(self._sessions)

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
            raise _not_found(key) from None

    @property
    def early_hellos(self) -> int:
        """How many HELLOs wait for their REQ."""
        return sum(map(len, self._early.values()))

    # --- events ----------------------------------------------------------------------------------------

    def handle(self, event: Event) -> tuple[Command, ...]:
        """Let `event` happen and return what the shell has to do, in order.

        Raises
        ------
        CallerError
            `WrongState`, `SessionNotFound`, `SessionExists`, `InvalidArgument`: it cannot be served.
        ResourceExhausted
            There are not enough ports, or too many HELLOs without a REQ.
        """
        session = self._sessions.get(event.key)
        if session is None or (session.freed and isinstance(event, Request)):
            return tuple(self._without_session(event))
        return tuple(self._apply(session, event))

    def _apply(self, session: Session, event: Event) -> list[Command]:
        after = TRANSITIONS.get((session.state, type(event)))
        if after is None:
            because = f": {session.reason}" if session.reason else ""
            raise WrongState(
                f"{type(event).__name__} cannot come while session {event.key.uid} "
                f"is {session.state}{because}{_advice(session.state, event)}"
            )
        before = session.state
        handler = self._handlers[type(event)]
        if before.ended and not isinstance(event, Release | SessionFreed | CallAbandoned):
            return []
        commands = handler(session, event)
        if session.state is before:  # the handler may have gone further, by an event of its own
            session.state = after
        return commands + self._end(session, before)

    def _without_session(self, event: Event) -> list[Command]:
        match event:
            case Request():
                return self._request(event)
            case Hello():
                return self._hold_hello(event)
            case Release():
                return [Reply(key=event.key, call=event.call)]
            case CallAbandoned():
                return self._forget_hello(event)
            case TimerFired(timer=Timer.EARLY_HELLO):
                return [
                    Refuse(key=event.key, call=hello.call, error=_not_found(event.key))
                    for hello in self._early.pop(event.key, [])
                ]
        raise _not_found(event.key)

    # --- REQ -------------------------------------------------------------------------------------------

    def _request(self, event: Request) -> list[Command]:
        if event.num_conn > self._pool.size:
            raise InvalidArgument(
                f"session {event.key.uid}: num_conn is {event.num_conn}, "
                f"and this gateway has {self._pool.size} ports in all"
            )
        ports = self._pool.take(event.num_conn)
        early = self._early.pop(event.key, [])
        if event.key in self._sessions:
            del self._ended[event.key]
        self._sessions[event.key] = Session(
            key=event.key,
            role=event.role,
            num_conn=event.num_conn,
            rate_mbps=event.rate_mbps,
            ports=ports,
            requests=[event.call],
            hellos=early,
        )
        commands: list[Command] = [CancelTimer(key=event.key, timer=Timer.EARLY_HELLO)] if early else []
        return [*commands, BindListeners(key=event.key, ports=ports, wanted=event.num_conn)]

    def _request_again(self, session: Session, event: Request) -> list[Command]:
        if (event.role, event.num_conn, event.rate_mbps) != (
            session.role,
            session.num_conn,
            session.rate_mbps,
        ):
            raise SessionExists(
                f"session {event.key.uid} is here already, as {session.role} with {session.num_conn} "
                f"channels at {session.rate_mbps:g} Mb/s; use another uid, or release it first"
            )
        if session.state in {State.REQUESTED, State.RESERVED}:
            session.requests.append(event.call)
            return []
        return [_reply(session, event.call)]

    def _ports_taken(self, session: Session, event: PortsTaken) -> list[Command]:
        taken = tuple(port for port in session.ports if port in event.ports)
        kept = tuple(port for port in session.ports if port not in event.ports)
        self._pool.give_back(taken)
        session.ports = kept
        session.taken_elsewhere |= frozenset(taken)
        try:
            instead = self._pool.take(len(taken), avoid=session.taken_elsewhere)
        except ResourceExhausted as error:
            return self._apply(session, ReservationFailed(key=session.key, reason=str(error)))
        session.ports = kept + instead
        return [BindListeners(key=session.key, ports=instead, wanted=session.num_conn)]

    def _listeners_bound(self, session: Session, event: ListenersBound) -> list[Command]:
        session.listeners = event.listeners
        session.certificate_pem = event.certificate_pem
        session.state = State.RESERVED
        commands: list[Command] = [
            SetTimer(key=session.key, timer=Timer.HELLO, seconds=self._limits.hello_timeout_s)
        ]
        early, session.hellos = session.hellos, []
        for hello in early:
            try:
                commands += self._apply(session, hello)
            except SciStreamError as error:
                commands.append(Refuse(key=session.key, call=hello.call, error=error))
        return commands

    def _reservation_failed(self, session: Session, event: ReservationFailed) -> list[Command]:
        session.reason = event.reason
        return self._refuse_waiting(session, ResourceExhausted(_named(session, event.reason)))

    # --- HELLO -----------------------------------------------------------------------------------------

    def _hold_hello(self, event: Hello) -> list[Command]:
        if self.early_hellos >= self._limits.early_hellos:
            raise ResourceExhausted(
                f"session {event.key.uid}: {self.early_hellos} applications wait for their request already; "
                "send hello again after the request"
            )
        waiting = self._early.setdefault(event.key, [])
        waiting.append(event)
        if len(waiting) > 1:
            return []
        return [SetTimer(key=event.key, timer=Timer.EARLY_HELLO, seconds=self._limits.early_hello_timeout_s)]

    def _forget_hello(self, event: CallAbandoned) -> list[Command]:
        waiting = [hello for hello in self._early.pop(event.key, []) if hello.call != event.call]
        if not waiting:
            return [CancelTimer(key=event.key, timer=Timer.EARLY_HELLO)]
        self._early[event.key] = waiting
        return []

    def _hello(self, session: Session, event: Hello) -> list[Command]:
        # The reference client says PROD on a consumer's session too, and names the producer's listeners.
        uid = session.key.uid
        if session.role is Role.PRODUCER and event.role is not Role.PRODUCER:
            raise InvalidArgument(f"session {uid}: hello has role {event.role}; this is the producer's side")
        if session.role is Role.PRODUCER and not event.addresses:
            raise InvalidArgument(f"session {uid}: hello names no address of the application; give one")
        if session.state is State.REQUESTED:
            session.hellos.append(event)
            return []
        if session.state is State.RESERVED:
            session.destinations = event.addresses
            answered = [_reply(session, call) for call in (*session.requests, event.call)]
            session.requests.clear()
            return [
                CancelTimer(key=session.key, timer=Timer.HELLO),
                SetTimer(key=session.key, timer=Timer.UPDATE, seconds=self._limits.update_timeout_s),
                *answered,
            ]
        if session.role is Role.PRODUCER and event.addresses != session.destinations:
            raise WrongState(
                f"Hello cannot change the addresses of session {uid} while it is {session.state}: "
                f"{_listed(session.destinations)} to {_listed(event.addresses)}; send UpdateTargets instead"
            )
        if session.state is State.ANNOUNCED and event.addresses:
            session.destinations = event.addresses
        return [_reply(session, event.call)]

    # --- UpdateTargets ---------------------------------------------------------------------------------

    def _update(self, session: Session, event: Update) -> list[Command]:
        uid = session.key.uid
        if event.role not in {None, session.role}:
            raise InvalidArgument(f"session {uid}: update has role {event.role}; here it is {session.role}")
        targets = event.targets or session.destinations
        if not targets:
            raise InvalidArgument(f"session {uid}: update names no target; give the other side's listeners")
        self._check_encryption(session, event)
        newest = (session.targets, session.peer_certificate_pem)
        if session.generation and newest == (targets, event.peer_certificate_pem):
            if session.ready_generation == session.generation:
                return [_reply(session, event.call)]
            session.updates.append((event.call, session.generation))
            return []
        if session.generation - session.ready_generation >= _MAX_PENDING_UPDATES:
            raise ResourceExhausted(
                f"session {uid}: {_MAX_PENDING_UPDATES} updates wait for the data server; await their answers"
            )
        kind = RetargetDataServer if session.generation else StartDataServer
        session.targets = targets
        session.peer_certificate_pem = event.peer_certificate_pem
        session.generation += 1
        session.updates.append((event.call, session.generation))
        return [
            CancelTimer(key=session.key, timer=Timer.UPDATE),
            kind(
                key=session.key,
                generation=session.generation,
                targets=targets,
                peer_certificate_pem=event.peer_certificate_pem,
            ),
        ]

    def _check_encryption(self, session: Session, event: Update) -> None:
        if event.peer_certificate_pem and not session.certificate_pem:
            raise WrongState(
                f"Update of session {session.key.uid} brings a peer certificate, and this gateway does not "
                "encrypt (--encryption none); update without it, or have the operator allow encryption"
            )
        if not event.peer_certificate_pem and self._encryption is Encryption.REQUIRED:
            raise WrongState(
                f"Update of session {session.key.uid} brings no peer certificate, and this gateway forwards "
                "encrypted sessions only; use a client that passes the other side's certificate on "
                "(s2uc request), or have the operator start s2cs with --encryption optional"
            )

    def _data_server_ready(self, session: Session, event: DataServerReady) -> list[Command]:
        session.ready_generation = max(session.ready_generation, event.generation)
        done = [call for call, generation in session.updates if generation <= event.generation]
        session.updates = [waiting for waiting in session.updates if waiting[1] > event.generation]
        return [_reply(session, call) for call in done]

    def _data_server_failed(self, session: Session, event: DataServerFailed) -> list[Command]:
        session.reason = event.reason
        return self._refuse_waiting(session, DataServerError(_named(session, event.reason)))

    # --- the end ---------------------------------------------------------------------------------------

    def _release(self, session: Session, event: Release) -> list[Command]:
        if session.freed:
            return [Reply(key=session.key, call=event.call)]
        session.releases.append(event.call)
        if session.state.ended:
            return []
        session.reason = "released on request"
        return self._refuse_waiting(session, WrongState(f"session {session.key.uid} was released meanwhile"))

    def _orphaned(self, session: Session, _: Orphaned) -> list[Command]:
        session.reason = "the client went away before its request was answered"
        return self._refuse_waiting(session, WrongState(f"session {session.key.uid}: {session.reason}"))

    def _call_abandoned(self, session: Session, event: CallAbandoned) -> list[Command]:
        waited = event.call in session.requests
        session.requests = [call for call in session.requests if call != event.call]
        session.hellos = [hello for hello in session.hellos if hello.call != event.call]
        session.updates = [waiting for waiting in session.updates if waiting[0] != event.call]
        session.releases = [call for call in session.releases if call != event.call]
        if waited and not session.requests:
            return self._apply(session, Orphaned(key=session.key))
        return []

    def _timer_fired(self, session: Session, event: TimerFired) -> list[Command]:
        awaited, seconds = {
            State.RESERVED: (Timer.HELLO, self._limits.hello_timeout_s),
            State.ANNOUNCED: (Timer.UPDATE, self._limits.update_timeout_s),
        }[session.state]
        if event.timer is not awaited:
            raise WrongState(
                f"TimerFired({event.timer}) cannot come while session {session.key.uid} is {session.state}"
            )
        session.reason = f"no {event.timer} came within {seconds:g} s"
        return self._refuse_waiting(
            session, DeadlineExceeded(f"session {session.key.uid}: {session.reason}; everything is released")
        )

    def _refuse_waiting(self, session: Session, error: SciStreamError) -> list[Command]:
        calls = [
            *session.requests,
            *(hello.call for hello in session.hellos),
            *(call for call, _ in session.updates),
        ]
        session.requests.clear()
        session.hellos.clear()
        session.updates.clear()
        return [Refuse(key=session.key, call=call, error=error) for call in calls]

    def _end(self, session: Session, before: State) -> list[Command]:
        """Return what frees `session`, if it has ended just now."""
        if before.ended or not session.state.ended or session.key in self._ended:
            return []
        self._ended[session.key] = None
        return [
            CancelTimer(key=session.key, timer=Timer.HELLO),
            CancelTimer(key=session.key, timer=Timer.UPDATE),
            FreeSession(key=session.key),
        ]

    def _session_freed(self, session: Session, _: SessionFreed) -> list[Command]:
        if session.freed:
            raise WrongState(f"SessionFreed cannot come twice for session {session.key.uid}")
        self._pool.give_back(session.ports)
        session.ports = ()
        session.freed = True
        answered: list[Command] = [Reply(key=session.key, call=call) for call in session.releases]
        session.releases.clear()
        self._forget_oldest()
        return answered

    def _forget_oldest(self) -> None:
        surplus = len(self._ended) - self._limits.ended_sessions
        if surplus <= 0:
            return
        freed = (key for key in self._ended if self._sessions[key].freed)
        for key in tuple(itertools.islice(freed, surplus)):
            del self._ended[key]
            del self._sessions[key]


def _reply(session: Session, call: int) -> Reply:
    return Reply(
        key=session.key,
        call=call,
        listeners=session.listeners,
        destinations=session.destinations,
        certificate_pem=session.certificate_pem,
    )


def _not_found(key: SessionKey) -> SessionNotFound:
    return SessionNotFound(
        f"session {key.uid} is not here; ask for it first, by the same user (s2uc request)"
    )


def _named(session: Session, reason: str) -> str:
    """Return `reason` with the session's name, once."""
    return reason if session.key.uid in reason else f"session {session.key.uid}: {reason}"


def _listed(addresses: tuple[object, ...]) -> str:
    return ", ".join(map(str, addresses)) or "none"


def _advice(state: State, event: Event) -> str:
    if state.ended:
        return "; ask for a new session"
    if isinstance(event, Update):
        return "; the application's hello comes first"
    return "" if isinstance(event, CallEvent) else " (a report that nobody asked for)"
