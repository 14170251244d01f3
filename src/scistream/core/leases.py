"""What ends a session by time: nobody came, it carries nothing, it has lived long enough.

An idle session is found by looking a few times within its idle time whether anything was carried, so that
carrying costs nothing.
"""

from __future__ import annotations

from scistream.core.commands import Command, LookForTraffic, SetTimer
from scistream.core.ending import end
from scistream.core.events import Renew, Timer, TimerFired, TrafficSeen
from scistream.core.limits import Limits
from scistream.core.replies import reply
from scistream.core.session import AWAITED, Session, State
from scistream.errors import DeadlineExceeded, WrongState

#: How often is looked for traffic within the idle time: a session ends at most a quarter of it too late.
LOOKS = 4


def lease_s(asked_s: float | None, most_s: float) -> float:
    """Return the lease for one who asks for `asked_s` where the gateway gives `most_s`; 0 is none.

    >>> lease_s(None, 60), lease_s(10, 60), lease_s(90, 60), lease_s(0, 60), lease_s(90, 0)
    (60, 10, 60, 60, 90)
    """
    if asked_s is None or (not asked_s and most_s):
        return most_s
    return min(asked_s, most_s) if most_s else asked_s


def lifetime_timer(session: Session) -> list[Command]:
    """Return what lets the lifetime of `session` begin, if it has one."""
    if not session.lifetime_s:
        return []
    return [SetTimer(key=session.key, timer=Timer.LIFETIME, seconds=session.lifetime_s)]


def term_timer(session: Session) -> list[Command]:
    """Return what ends `session` when the gateway's policy says so, if it does."""
    if not session.term_s:
        return []
    return [SetTimer(key=session.key, timer=Timer.TERM, seconds=session.term_s)]


def idle_timer(session: Session) -> list[Command]:
    """Return what leads to the next look for traffic, if the idle time of `session` is limited."""
    if not session.idle_timeout_s:
        return []
    return [SetTimer(key=session.key, timer=Timer.IDLE, seconds=session.idle_timeout_s / LOOKS)]


def traffic_seen(session: Session, event: TrafficSeen) -> list[Command]:
    """End a session that has carried nothing for its idle time; look again later at any other."""
    if not session.looking:
        return []
    session.looking = False
    if event.total != session.traffic:
        session.traffic = event.total
        session.idle_looks = 0
    else:
        session.idle_looks += 1
    if session.idle_looks < LOOKS:
        return idle_timer(session)
    return end(session, State.EXPIRED, f"no byte moved for {session.idle_timeout_s:g} s", DeadlineExceeded)


class Leases:
    """What happens when a timer has fired."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def renew(self, session: Session, event: Renew) -> list[Command]:
        """Let the leases begin anew: whoever renews is there, and may go on waiting for others.

        The lifetime of a session that queues has not begun, and how long it queues is the gateway's decision.
        """
        session.idle_looks = 0
        commands: list[Command] = []
        if session.state is not State.QUEUED:
            commands += lifetime_timer(session)
        match session.state:
            case State.RESERVED:
                seconds = self._limits.hello_timeout_s
                commands.append(SetTimer(key=session.key, timer=Timer.HELLO, seconds=seconds))
            case State.ANNOUNCED:
                seconds = self._limits.update_timeout_s
                commands.append(SetTimer(key=session.key, timer=Timer.UPDATE, seconds=seconds))
            case State.CONNECTED:
                session.looking = False
                commands += idle_timer(session)
        return [*commands, reply(session, event.call)]

    def timer_fired(self, session: Session, event: TimerFired) -> list[Command]:
        """End `session`, or look what it does.

        Raises
        ------
        WrongState
            Nothing waits for this timer.
        """
        unset = {
            Timer.LIFETIME: not session.lifetime_s,
            Timer.TERM: not session.term_s,
            Timer.IDLE: not session.idle_timeout_s,
        }
        if event.timer not in AWAITED[session.state] or unset.get(event.timer, False):
            raise WrongState(
                f"TimerFired({event.timer}) cannot come while session {session.key.uid} is {session.state} "
                "(nothing waits for it)"
            )
        match event.timer:
            case Timer.STEADY:
                session.restarts_in_a_row = 0
                return []
            case Timer.IDLE:
                session.looking = True
                return [LookForTraffic(key=session.key)]
        return end(session, State.EXPIRED, self._reason(session, event.timer), DeadlineExceeded)

    def _reason(self, session: Session, timer: Timer) -> str:
        match timer:
            case Timer.HELLO:
                return f"no hello came within {self._limits.hello_timeout_s:g} s"
            case Timer.UPDATE:
                return f"no update came within {self._limits.update_timeout_s:g} s"
            case Timer.QUEUE:
                return (
                    f"capacity and ports were not free within {self._limits.queue_timeout_s:g} s of queueing"
                )
            case Timer.TERM:
                return (
                    f"this gateway's policy lets it live {session.term_s:g} s, renewed or not; ask for a new "
                    "session"
                )
        return f"its lifetime of {session.lifetime_s:g} s is over; renew it in time, or ask for a longer one"
