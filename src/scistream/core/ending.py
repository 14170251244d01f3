"""How sessions end: on request, with their callers, by time or by an error. All go the same way.

Whoever waits for something is answered, every timer is cancelled, and the shell frees what is held. Only its
report that all is free brings the session to its end, and answers the release.
"""

from __future__ import annotations

from scistream.core.commands import CancelTimer, Command, FreeSession, Refuse, Reply
from scistream.core.events import CallAbandoned, Orphaned, Release, SessionFreed, Timer
from scistream.core.replies import named
from scistream.core.session import Session, State
from scistream.errors import PeerError, SciStreamError, WrongState


def end(session: Session, outcome: State, reason: str, error: type[SciStreamError]) -> list[Command]:
    """Let `session` end as `outcome`; whoever waits gets `reason` as an `error`."""
    session.state = State.RELEASING
    session.outcome = outcome
    session.reason = reason
    calls = [
        *session.requests,
        *(hello.call for hello in session.hellos),
        *(call for call, _ in session.updates),
    ]
    session.requests.clear()
    session.hellos.clear()
    session.updates.clear()
    return [
        *(Refuse(key=session.key, call=call, error=error(named(session, reason))) for call in calls),
        *(CancelTimer(key=session.key, timer=timer) for timer in Timer if timer is not Timer.EARLY_HELLO),
        FreeSession(key=session.key),
    ]


def release(session: Session, event: Release) -> list[Command]:
    """End `session` on request, or with its control server. Answered once everything is free."""
    if session.freed:
        return [Reply(key=session.key, call=event.call)]
    session.releases.append(event.call)
    if session.state.ended:
        return []
    if event.shutdown:
        return end(session, State.RELEASED, "this control server is shutting down", PeerError)
    return end(session, State.RELEASED, "released on request", WrongState)


def orphaned(session: Session, _: Orphaned) -> list[Command]:
    """End `session`, whose REQ nobody waits for any more."""
    return end(session, State.RELEASED, "the client went away before its request was answered", WrongState)


def forget_call(session: Session, event: CallAbandoned) -> bool:
    """Forget who has gone. Return whether that was the last who waited for the REQ's answer."""
    waited = event.call in session.requests
    session.requests = [call for call in session.requests if call != event.call]
    session.hellos = [hello for hello in session.hellos if hello.call != event.call]
    session.updates = [waiting for waiting in session.updates if waiting[0] != event.call]
    session.releases = [call for call in session.releases if call != event.call]
    return waited and not session.requests


def session_freed(session: Session, _: SessionFreed) -> list[Command]:
    """Bring `session` to its end. What it held is given back by the table."""
    session.state = session.outcome or State.FAILED
    answered: list[Command] = [Reply(key=session.key, call=call) for call in session.releases]
    session.releases.clear()
    return answered
