"""HELLO: the application is there. It may overtake its REQ, come twice, or come before ports are bound."""

from __future__ import annotations

from scistream.core.commands import CancelTimer, Command, Refuse, SetTimer
from scistream.core.events import CallAbandoned, Hello, ListenersBound, Role, SessionKey, Timer
from scistream.core.limits import Limits
from scistream.core.replies import listed, not_found, reply, too_late
from scistream.core.session import Session, State
from scistream.errors import InvalidArgument, ResourceExhausted, SciStreamError, WrongState


class Greeting:
    """The hellos, those among them that wait for their REQ.

    Parameters
    ----------
    limits : Limits
        How long who waits for whom, and how many.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._early: dict[SessionKey, list[Hello]] = {}

    # --- before REQ ------------------------------------------------------------------------------------

    def of(self, key: SessionKey) -> list[Hello]:
        """Return the HELLOs that wait for the REQ of `key`."""
        return list(self._early.get(key, []))

    def hold(self, event: Hello) -> list[Command]:
        """Let a HELLO without a session wait for a while.

        Raises
        ------
        ResourceExhausted
            Too many wait already.
        """
        early = sum(map(len, self._early.values()))
        if early >= self._limits.early_hellos:
            raise ResourceExhausted(
                f"session {event.key.uid}: {early} applications wait for their request already; "
                "send hello again after the request"
            )
        waiting = self._early.setdefault(event.key, [])
        waiting.append(event)
        if len(waiting) > 1:
            return []
        return [SetTimer(key=event.key, timer=Timer.EARLY_HELLO, seconds=self._limits.early_hello_timeout_s)]

    def forget(self, event: CallAbandoned) -> list[Command]:
        """Forget a HELLO whose caller has gone."""
        waiting = [hello for hello in self._early.pop(event.key, []) if hello.call != event.call]
        if not waiting:
            return [CancelTimer(key=event.key, timer=Timer.EARLY_HELLO)]
        self._early[event.key] = waiting
        return []

    def requested(self, key: SessionKey) -> list[Command]:
        """Stop waiting for the REQ of `key`: it has come, and has taken the hellos over."""
        if self._early.pop(key, None) is None:
            return []
        return [CancelTimer(key=key, timer=Timer.EARLY_HELLO)]

    def expire(self, key: SessionKey, ended: Session | None) -> list[Command]:
        """Refuse the HELLOs whose REQ has not come; where one of that name has `ended`, say why it did."""
        return [
            Refuse(key=key, call=hello.call, error=not_found(key) if ended is None else too_late(ended))
            for hello in self._early.pop(key, [])
        ]

    # --- within a session ------------------------------------------------------------------------------

    def listeners_bound(self, session: Session, event: ListenersBound) -> list[Command]:
        """Take the listeners over, and whoever has said hello already.

        Raises
        ------
        WrongState
            The ports are not those that the session holds, or not said where it could not choose them.
        """
        _check_ports(session, event.ports)
        session.ports = event.ports or session.ports
        session.listeners = event.listeners
        session.reverse_listeners = event.reverse_listeners
        session.certificate_pem = event.certificate_pem
        session.state = State.RESERVED
        commands: list[Command] = [
            SetTimer(key=session.key, timer=Timer.HELLO, seconds=self._limits.hello_timeout_s)
        ]
        early, session.hellos = session.hellos, []
        for hello in early:
            try:
                commands += self.hello(session, hello)
            except SciStreamError as error:
                commands.append(Refuse(key=session.key, call=hello.call, error=error))
        return commands

    def hello(self, session: Session, event: Hello) -> list[Command]:
        """Let the application be known. It and REQ are answered once the listeners are there.

        Raises
        ------
        InvalidArgument
            Its role or addresses do not suit the session.
        WrongState
            It gives a producer's session other addresses than before.
        """
        # The reference client says PROD on a consumer's session too, and names the producer's listeners.
        uid = session.key.uid
        if session.role is Role.PRODUCER and event.role is not Role.PRODUCER:
            raise InvalidArgument(f"session {uid}: hello has role {event.role}; this is the producer's side")
        if session.role is Role.PRODUCER and not event.addresses:
            raise InvalidArgument(f"session {uid}: hello names no address of the application; give one")
        if session.state in {State.QUEUED, State.REQUESTED}:
            session.hellos.append(event)
            return []
        if session.state is State.RESERVED:
            session.state = State.ANNOUNCED
            session.destinations = event.addresses
            answered = [reply(session, call) for call in (*session.requests, event.call)]
            session.requests.clear()
            return [
                CancelTimer(key=session.key, timer=Timer.HELLO),
                SetTimer(key=session.key, timer=Timer.UPDATE, seconds=self._limits.update_timeout_s),
                *answered,
            ]
        if session.role is Role.PRODUCER and event.addresses != session.destinations:
            raise WrongState(
                f"Hello cannot change the addresses of session {uid} while it is {session.state}: "
                f"{listed(session.destinations)} to {listed(event.addresses)}; send UpdateTargets instead"
            )
        if session.state is State.ANNOUNCED and event.addresses:
            session.destinations = event.addresses
        return [reply(session, event.call)]


def _check_ports(session: Session, bound: tuple[int, ...]) -> None:
    chosen_elsewhere = 0 in session.ports
    if chosen_elsewhere and (len(bound) != session.num_ports or 0 in bound):
        raise WrongState(
            f"ListenersBound of session {session.key.uid} tells ports {listed(bound)}; "
            f"{session.num_ports} are wanted, as the operating system chose them"
        )
    if bound and not chosen_elsewhere and sorted(bound) != sorted(session.ports):
        raise WrongState(
            f"ListenersBound of session {session.key.uid} tells ports {listed(bound)}; "
            f"it holds {listed(session.ports)}"
        )
