"""What becomes of a session that a control server finds in its journal: its predecessor ended without notice.

Streams went on meanwhile: data servers outlive the control server, and are found again. Listeners without a
data server were closed with it, and are bound again on the same ports. Who waited for an answer has lost its
connection and asks again, so nothing is answered here.
"""

from __future__ import annotations

from scistream.core.commands import (
    AdoptDataServer,
    Command,
    FreeSession,
    LookForTraffic,
    RecoverListeners,
)
from scistream.core.session import Session, State

#: Why a session ended that had no listeners yet.
UNANSWERED = "the control server ended before the request was answered"


def recover(session: Session) -> list[Command]:
    """Let `session` go on; what it holds is counted already."""
    match session.state:
        case State.RESERVED | State.ANNOUNCED:
            return [RecoverListeners(key=session.key, ports=session.ports)]
        case State.CONNECTING | State.CONNECTED:
            adopt = AdoptDataServer(
                key=session.key,
                generation=session.generation,
                targets=session.targets,
                peer_certificate_pem=session.peer_certificate_pem,
                peer_data_server=session.peer_data_server,
                reverse_listeners=session.reverse_listeners,
            )
            # an answer that was awaited will not come, and without it nobody would look again
            return [adopt, LookForTraffic(key=session.key)] if session.looking else [adopt]
        case State.RELEASING:
            return [FreeSession(key=session.key)]
    return []


def drop_unbound(session: Session) -> None:
    """Let a session end that had no listeners: with the control server it lost all that it held."""
    if session.state not in {State.QUEUED, State.REQUESTED}:
        return
    session.state = session.outcome = State.FAILED
    session.reason = UNANSWERED
    session.ports = ()
    session.held_mbps = 0
