"""REQ: who gets capacity and ports, who queues for them, who is refused.

Requests that queue are served first come, first served, and none that comes later takes what they wait for.
A request that the whole gateway could not serve is refused at once.
"""

from __future__ import annotations

from scistream.core.commands import BindListeners, CancelTimer, Command, SetTimer
from scistream.core.events import (
    Admitted,
    Hello,
    PortsTaken,
    Request,
    ReservationFailed,
    SessionKey,
    Timer,
)
from scistream.core.leases import lease_s, lifetime_timer, term_timer
from scistream.core.limits import Limits
from scistream.core.replies import reply
from scistream.core.reservation import Capacity, Pool
from scistream.core.session import Session, State
from scistream.errors import InvalidArgument, ResourceExhausted, SessionExists, WrongState

#: So many credentials of a session's application are good at a time: one for each REQ of it, the newest.
MAX_CREDENTIALS = 8


class Admission:
    """What the gateway has, and the queue for it.

    Parameters
    ----------
    pool : Pool
        Its ports.
    capacity : Capacity
        Its throughput.
    limits : Limits
        How long the queue may be, among others.
    reverses : bool
        Whether the gateway's data servers can have reverse sessions.
    """

    def __init__(self, pool: Pool, capacity: Capacity, limits: Limits, *, reverses: bool) -> None:
        self._pool = pool
        self._capacity = capacity
        self._limits = limits
        self._reverses = reverses
        self._queue: dict[SessionKey, Session] = {}

    @property
    def queue(self) -> tuple[SessionKey, ...]:
        """Who queues, the first one first."""
        return tuple(self._queue)

    # --- REQ -------------------------------------------------------------------------------------------

    def request(self, event: Request, hellos: list[Hello]) -> tuple[Session, list[Command]]:
        """Open a session for `event`, with the hellos that overtook it.

        Raises
        ------
        InvalidArgument
            The whole gateway would not suffice.
        WrongState
            It is to be reverse, and the data servers here cannot.
        ResourceExhausted
            What is free does not suffice, and it is not to queue, or the queue is full. Nothing is held.
        """
        session = Session(
            key=event.key,
            role=event.role,
            num_conn=event.num_conn,
            rate_mbps=event.rate_mbps,
            reverse=event.reverse,
            queue=event.queue,
            idle_timeout_s=lease_s(event.idle_timeout_s, self._limits.idle_timeout_s),
            lifetime_s=lease_s(event.lifetime_s, self._limits.lifetime_s),
            term_s=event.term_s,
            who=event.who,
            credential_hashes=(event.credential_hash,) if event.credential_hash else (),
            requests=[event.call],
            hellos=hellos,
        )
        self._check_possible(session)
        lack = self._lack(session) or self._overtakes(session)
        if not lack:
            return session, self._reserve(session)
        uid = event.key.uid
        if not event.queue:
            raise ResourceExhausted(f"session {uid}: {lack}, or ask to queue for it (--queue)")
        if len(self._queue) >= self._limits.queue_length:
            raise ResourceExhausted(
                f"session {uid}: {lack}, and {len(self._queue)} requests queue already, which are the most; "
                "ask again later"
            )
        session.state = State.QUEUED
        self._queue[event.key] = session
        return session, [SetTimer(key=event.key, timer=Timer.QUEUE, seconds=self._limits.queue_timeout_s)]

    def request_again(self, session: Session, event: Request) -> list[Command]:
        """Take a REQ for a session that is here: the same one waits too, another one is refused.

        The leases and the policy's term are those of the first one. A credential that was made for it is good
        beside those before.
        """
        if (event.role, event.num_conn, event.rate_mbps, event.reverse) != (
            session.role,
            session.num_conn,
            session.rate_mbps,
            session.reverse,
        ):
            uid = event.key.uid
            if event.role is not session.role:
                raise SessionExists(
                    f"session {uid}: the name is in use here, as {session.role}, and producer and consumer "
                    "need two control servers; use another uid, or release it first"
                )
            channels = "1 channel" if session.num_conn == 1 else f"{session.num_conn} channels"
            raise SessionExists(
                f"session {uid} is here already, as {session.role} with "
                f"{'reverse ' if session.reverse else ''}{channels} at {session.rate_mbps:g} Mb/s; "
                "use another uid, or release it first"
            )
        if event.credential_hash:
            session.credential_hashes = (*session.credential_hashes, event.credential_hash)[-MAX_CREDENTIALS:]
        if session.state in {State.QUEUED, State.REQUESTED, State.RESERVED}:
            session.requests.append(event.call)
            return []
        return [reply(session, event.call)]

    # --- the queue -------------------------------------------------------------------------------------

    def next(self) -> SessionKey | None:
        """Return who is first in the queue, if there is enough for it now."""
        for first in self._queue.values():
            return None if self._lack(first) else first.key
        return None

    def admitted(self, session: Session, _: Admitted) -> list[Command]:
        """Reserve for a session whose turn it is."""
        return self._reserve(session)

    def leave(self, session: Session) -> None:
        """Take `session` out of the queue, if it is there."""
        self._queue.pop(session.key, None)

    # --- what is held ----------------------------------------------------------------------------------

    def ports_taken(self, session: Session, event: PortsTaken) -> ReservationFailed | list[Command]:
        """Reserve others for the ports that somebody outside holds, or say that there are none."""
        taken = tuple(port for port in session.ports if port in event.ports)
        if not taken:  # it is known already
            return []
        kept = tuple(port for port in session.ports if port not in event.ports)
        self._pool.give_back(taken)
        session.ports = kept
        session.taken_elsewhere |= frozenset(taken)
        try:
            instead = self._pool.take(len(taken), avoid=session.taken_elsewhere)
        except ResourceExhausted as error:
            return ReservationFailed(key=session.key, reason=str(error))
        session.ports = kept + instead
        return [BindListeners(key=session.key, ports=instead, wanted=session.num_ports)]

    def hold(self, session: Session) -> None:
        """Hold what `session`, out of the journal, holds.

        Raises
        ------
        InvalidArgument
            Another one holds some of its ports.
        """
        # port 0: it had not been bound
        session.ports = tuple(port for port in session.ports if port)
        self._pool.hold(session.ports)
        self._capacity.hold(session.held_mbps)

    def give_back(self, session: Session) -> None:
        """Free what `session` holds."""
        self._pool.give_back(session.ports)
        self._capacity.give_back(session.held_mbps)
        session.ports = ()
        session.held_mbps = 0

    def _reserve(self, session: Session) -> list[Command]:
        session.ports = self._pool.take(session.num_ports)
        self._capacity.take(session.rate_mbps)
        session.held_mbps = session.rate_mbps
        leave_queue: list[Command] = []
        if session.state is State.QUEUED:
            leave_queue.append(CancelTimer(key=session.key, timer=Timer.QUEUE))
        session.state = State.REQUESTED
        return [
            *leave_queue,
            *lifetime_timer(session),
            *term_timer(session),
            BindListeners(key=session.key, ports=session.ports, wanted=session.num_ports),
        ]

    # --- whether there is enough -----------------------------------------------------------------------

    def _check_possible(self, session: Session) -> None:
        uid = session.key.uid
        if session.reverse and not self._reverses:
            raise WrongState(
                f"session {uid}: the data server of this gateway cannot have reverse channels; ask without "
                "--reverse, or have its operator start s2cs with --type native"
            )
        if session.num_ports > self._pool.size:
            each = ", each of which takes two ports," if session.reverse else ","
            raise InvalidArgument(
                f"session {uid}: num_conn is {session.num_conn}{each} "
                f"and this gateway has {self._pool.size} ports in all"
            )
        limit_mbps = self._capacity.limit_mbps
        if limit_mbps and session.rate_mbps > limit_mbps:
            raise InvalidArgument(
                f"session {uid}: rate is {session.rate_mbps:g} Mb/s, and this gateway has "
                f"{limit_mbps:g} Mb/s in all; ask for so much or less"
            )

    def _lack(self, session: Session) -> str:
        """Return what is missing for `session`, and what would help; nothing where there is enough."""
        if session.num_ports > self._pool.free:
            return (
                f"{session.num_ports} ports wanted, {self._pool.free} of {self._pool.size} free; "
                "release sessions, widen the port range"
            )
        if not self._capacity.fits(session.rate_mbps):
            free_mbps = self._capacity.free_mbps
            less = f"ask for {free_mbps:g} Mb/s or less" if free_mbps else "release sessions"
            return (
                f"rate is {session.rate_mbps:g} Mb/s, {free_mbps:g} of "
                f"{self._capacity.limit_mbps:g} Mb/s free; {less}"
            )
        return ""

    def _overtakes(self, session: Session) -> str:
        """Return how `session`, for which there is enough, would be in the way of those that queue."""
        if not self._queue:
            return ""
        theirs = sum(other.num_ports for other in self._queue.values())
        if not session.rate_mbps and session.num_ports + theirs <= self._pool.free:
            return ""
        return (
            f"{len(self._queue)} requests queue for capacity and ports; ask again when they have been served"
        )
