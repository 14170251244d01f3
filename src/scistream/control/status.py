"""What is shown of a session to its owner."""

from __future__ import annotations

from scistream.control.gateway import Gateway
from scistream.control.journal import History, boot_clock_s
from scistream.core.events import Timer
from scistream.core.session import Session
from scistream.core.status import SessionStatus


def session_status(session: Session, history: History, gateway: Gateway) -> SessionStatus:
    """Return the status of `session`, as it is now."""
    now_s = boot_clock_s()
    term_end_s = history.deadlines_s.get(Timer.TERM)
    lifetime_end_s = history.deadlines_s.get(Timer.LIFETIME)
    return SessionStatus(
        uid=session.key.uid,
        role=session.role,
        state=session.state,
        reason=session.reason,
        num_conn=session.num_conn,
        rate_mbps=session.rate_mbps,
        listeners=session.listeners,
        targets=session.targets,
        principal=session.key.owner,
        encrypted=session.encrypted,
        data_server=gateway.data_server,
        seconds=(now_s if history.end_s is None else history.end_s) - history.begin_s,
        channels=history.channels,
        restarts=session.restarts,
        notice=session.notice,
        idle_timeout_s=session.idle_timeout_s,
        lifetime_s=session.lifetime_s,
        lifetime_left_s=None if lifetime_end_s is None else max(0.0, lifetime_end_s - now_s),
        term_left_s=None if term_end_s is None else max(0.0, term_end_s - now_s),
        reverse=session.reverse,
        paced=gateway.paces and session.rate_mbps > 0,
    )
