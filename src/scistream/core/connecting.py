"""UpdateTargets, and the data server that follows it: started, retargeted, restarted where it has ended.

Every order to the data server has a number, its generation. Who sent an update is answered when the data
server has taken over that generation or a newer one. A data server that ends by itself is started again on
the same listeners under a new generation, with the newest targets; so whoever waited for an older one is
answered by it, and what its predecessor reported last cannot be mistaken for its own.

A data server that cannot be retargeted goes on as before, and so does the session: who sent the update learns
why, and the targets are again those of the last order that worked.
"""

from __future__ import annotations

from scistream.core.commands import (
    CancelTimer,
    Command,
    Refuse,
    RestartDataServer,
    RetargetDataServer,
    SetTimer,
    StartDataServer,
)
from scistream.core.ending import end
from scistream.core.endpoint import Endpoint
from scistream.core.events import (
    DataServerDied,
    DataServerFailed,
    DataServerReady,
    DataServerRestarted,
    RetargetFailed,
    Role,
    Timer,
    Update,
)
from scistream.core.leases import idle_timer
from scistream.core.limits import Limits
from scistream.core.replies import named, reply
from scistream.core.session import Encryption, Session, State
from scistream.errors import DataServerError, InvalidArgument, ResourceExhausted, WrongState

# Updates to different targets that the data server has not taken over yet; a caller sends one at a time.
_MAX_PENDING_UPDATES = 16


class Connecting:
    """The rules of updates and data servers.

    Parameters
    ----------
    encryption : Encryption
        What is asked of the leg between the gateways.
    limits : Limits
        How often a data server is restarted.
    """

    def __init__(self, encryption: Encryption, limits: Limits) -> None:
        self._encryption = encryption
        self._limits = limits

    def update(self, session: Session, event: Update) -> list[Command]:
        """Start the data server, or retarget it. Answered once it forwards to these targets.

        Raises
        ------
        InvalidArgument
            The role is not the session's, there is no target, or the addresses are not those that the side of
            a reverse session needs.
        WrongState
            The encryption is not what this gateway asks for.
        ResourceExhausted
            Too many updates wait already.
        """
        uid = session.key.uid
        if event.role not in {None, session.role}:
            raise InvalidArgument(f"session {uid}: update has role {event.role}; here it is {session.role}")
        reverse_listeners = _reverse_listeners(session, event)
        meets_only = session.reverse and session.role is Role.CONSUMER
        targets = reverse_listeners if meets_only else event.targets or session.destinations
        if not targets:
            raise InvalidArgument(f"session {uid}: update names no target; give the other side's listeners")
        # one that only leads elsewhere need not say again who the other side is
        peer_certificate_pem = event.peer_certificate_pem or session.peer_certificate_pem
        self._check_encryption(session, peer_certificate_pem)
        same_peer = peer_certificate_pem == session.peer_certificate_pem
        peer_data_server = event.peer_data_server or (session.peer_data_server if same_peer else "")
        asked = (targets, peer_certificate_pem, peer_data_server, reverse_listeners)
        newest = (
            session.targets,
            session.peer_certificate_pem,
            session.peer_data_server,
            session.reverse_listeners,
        )
        if session.generation and newest == asked:
            if session.ready_generation >= session.generation:
                return [reply(session, event.call)]
            session.updates.append((event.call, session.generation))
            return []
        if session.generation - session.ready_generation >= _MAX_PENDING_UPDATES:
            raise ResourceExhausted(
                f"session {uid}: {_MAX_PENDING_UPDATES} updates wait for the data server; await their answers"
            )
        kind = RetargetDataServer if session.generation else StartDataServer
        session.targets = targets
        session.peer_certificate_pem = peer_certificate_pem
        session.peer_data_server = peer_data_server
        session.reverse_listeners = reverse_listeners
        if session.state is State.ANNOUNCED:
            session.state = State.CONNECTING
        order = _next_order(session, kind)
        session.updates.append((event.call, session.generation))
        return [CancelTimer(key=session.key, timer=Timer.UPDATE), order]

    def data_server_ready(self, session: Session, event: DataServerReady) -> list[Command]:
        """Answer the updates that the data server has taken over."""
        if event.generation < session.restart_generation:
            return []
        if event.generation > session.ready_generation:
            session.ready_targets = event.targets
            session.ready_peer_certificate_pem = event.peer_certificate_pem
            session.ready_peer_data_server = event.peer_data_server
            session.ready_reverse_listeners = event.reverse_listeners
        answered: list[Command] = [reply(session, call) for call in _settled(session, event.generation)]
        return [*self._forwards(session), *answered]

    def retarget_failed(self, session: Session, event: RetargetFailed) -> list[Command]:
        """Refuse the updates that the data server cannot take over; it forwards as it did before them.

        One that never forwarded to anything has nothing to go back to, and ends the session.
        """
        if event.generation < session.restart_generation:
            return []
        if not session.ready_targets:
            return end(session, State.FAILED, event.reason, DataServerError)
        if event.generation == session.generation:
            session.targets = session.ready_targets
            session.peer_certificate_pem = session.ready_peer_certificate_pem
            session.peer_data_server = session.ready_peer_data_server
            session.reverse_listeners = session.ready_reverse_listeners
        reason = f"{named(session, event.reason)}; it forwards as before"
        refused: list[Command] = [
            Refuse(key=session.key, call=call, error=DataServerError(reason))
            for call in _settled(session, event.generation)
        ]
        return [*self._forwards(session), *refused]

    def data_server_failed(self, session: Session, event: DataServerFailed) -> list[Command]:
        """End the session: nothing forwards, and nothing would."""
        return end(session, State.FAILED, event.reason, DataServerError)

    def data_server_died(self, session: Session, event: DataServerDied) -> list[Command]:
        """Start another one, unless that has been done too often in a row."""
        if session.restarts_in_a_row >= self._limits.restarts_in_a_row:
            times = session.restarts_in_a_row
            again = f" (after {times} restarts in a row; the gateway's log says more)" if times else ""
            return end(session, State.FAILED, f"{event.reason}{again}", DataServerError)
        session.restarts_in_a_row += 1
        session.restarts += 1
        session.notice = event.reason
        session.looking = False
        session.state = State.CONNECTING
        order = _next_order(session, RestartDataServer)
        session.restart_generation = session.generation
        return [
            CancelTimer(key=session.key, timer=Timer.IDLE),
            CancelTimer(key=session.key, timer=Timer.STEADY),
            order,
        ]

    def data_server_restarted(self, session: Session, event: DataServerRestarted) -> list[Command]:
        """Note it: connections were lost."""
        session.restarts += 1
        session.notice = event.reason
        return []

    def _forwards(self, session: Session) -> list[Command]:
        """Let `session` be connected, and return the timers that this begins."""
        if session.state is State.CONNECTED:
            return []
        session.state = State.CONNECTED
        steady: list[Command] = []
        if session.restarts_in_a_row:
            steady.append(SetTimer(key=session.key, timer=Timer.STEADY, seconds=self._limits.steady_s))
        return [*steady, *idle_timer(session)]

    def _check_encryption(self, session: Session, peer_certificate_pem: bytes) -> None:
        if peer_certificate_pem and not session.certificate_pem:
            raise WrongState(
                f"Update of session {session.key.uid} brings a peer certificate, and this gateway does not "
                "encrypt (--encryption none); update without it, or have the operator allow encryption"
            )
        if not peer_certificate_pem and self._encryption is Encryption.REQUIRED:
            raise WrongState(
                f"Update of session {session.key.uid} brings no peer certificate, and this gateway forwards "
                "encrypted sessions only; use a client that passes the other side's certificate on "
                "(s2uc request), or have the operator start s2cs with --encryption optional"
            )


def _settled(session: Session, generation: int) -> list[int]:
    """Note that the outcome of all orders up to `generation` is known; return who waited for them."""
    session.ready_generation = max(session.ready_generation, generation)
    calls = [call for call, waits_for in session.updates if waits_for <= generation]
    session.updates = [waiting for waiting in session.updates if waiting[1] > generation]
    return calls


def _next_order(session: Session, kind: type[StartDataServer]) -> StartDataServer:
    """Return the next order to the data server of `session`, for its newest targets."""
    session.generation += 1
    return kind(
        key=session.key,
        generation=session.generation,
        targets=session.targets,
        peer_certificate_pem=session.peer_certificate_pem,
        peer_data_server=session.peer_data_server,
        reverse_listeners=session.reverse_listeners,
    )


def _reverse_listeners(session: Session, event: Update) -> tuple[Endpoint, ...]:
    """Return where the sides of `session` meet if it is reverse; none if it is not."""
    uid = session.key.uid
    if not session.reverse:
        if event.reverse_listeners:
            raise InvalidArgument(
                f"session {uid}: update names reverse listeners, and the session is not reverse; request it "
                "with --reverse on both sides"
            )
        return ()
    if session.role is Role.CONSUMER:
        if event.targets or event.reverse_listeners:
            raise InvalidArgument(
                f"session {uid}: update names an address, and on the consumer's side of a reverse session "
                "nothing is connected to; leave it out"
            )
        return session.reverse_listeners
    told = event.reverse_listeners or session.reverse_listeners
    if len(told) != session.num_conn:
        raise InvalidArgument(
            f"session {uid}: update names {len(told)} reverse listeners, and the session has "
            f"{session.num_conn} channels; give those that the consumer's side was granted, one per channel"
        )
    return told
