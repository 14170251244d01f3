"""Answers to calls, and the words that errors share."""

from __future__ import annotations

from scistream.core.commands import Reply
from scistream.core.events import Role, SessionKey
from scistream.core.session import Session
from scistream.errors import SessionNotFound, WrongState


def reply(session: Session, call: int) -> Reply:
    """Return the answer to `call`: what is known of `session`."""
    return Reply(
        key=session.key,
        call=call,
        listeners=session.listeners,
        destinations=session.destinations,
        certificate_pem=session.certificate_pem,
        reverse=session.reverse,
        reverse_listeners=session.reverse_listeners if session.role is Role.CONSUMER else (),
    )


def not_found(key: SessionKey) -> SessionNotFound:
    """Return the error for a session that its owner does not have."""
    return SessionNotFound(
        f"session {key.uid} is not here; ask for it first, by the same user (s2uc request)"
    )


def too_late(session: Session) -> WrongState:
    """Return the error for a message that comes after the end of its session."""
    return WrongState(
        f"session {session.key.uid} is {session.state}: {session.reason}; ask for a new session"
    )


def named(session: Session, reason: str) -> str:
    """Return `reason` with the session's name, once."""
    return reason if session.key.uid in reason else f"session {session.key.uid}: {reason}"


def listed(addresses: tuple[object, ...]) -> str:
    """Return `addresses` as a text for people."""
    return ", ".join(map(str, addresses)) or "none"
