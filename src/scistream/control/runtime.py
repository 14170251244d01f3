"""Carries the session rules' commands out: calls and their answers, timers, and one shell per session.

All of it runs in one event loop. What a session holds is in `scistream.control.shell`; who may call is
decided before anything arrives here. Every change is in the journal before anybody is told of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from scistream.config import StopMode
from scistream.control.bookkeeping import Bookkeeping
from scistream.control.calls import Calls
from scistream.control.ending import Ending
from scistream.control.failures import ShellCommand, failed, unexpected
from scistream.control.gateway import Gateway
from scistream.control.journal import Entry, Journal, boot_clock_s
from scistream.control.keypair import KeyPair
from scistream.control.outbox import Outbox
from scistream.control.shell import SessionShell
from scistream.control.status import session_status
from scistream.control.timers import Timers
from scistream.core.commands import (
    Accepted,
    AdoptDataServer,
    BindListeners,
    CancelTimer,
    Command,
    FreeSession,
    LookForTraffic,
    RecoverListeners,
    Refuse,
    Reply,
    SetTimer,
    StartDataServer,
)
from scistream.core.events import (
    CallAbandoned,
    CallEvent,
    Event,
    Release,
    Request,
    SessionFreed,
    SessionKey,
    Update,
)
from scistream.core.policy import Usage, usage_of
from scistream.core.session import Session, State
from scistream.core.status import SessionStatus
from scistream.core.table import SessionTable
from scistream.errors import CallerError, PeerError

logger = logging.getLogger(__name__)


class Runtime:
    """The sessions of one control server, alive.

    Parameters
    ----------
    table : SessionTable
        The rules; nobody else may send it events.
    gateway : Gateway
        What the sessions share.
    journal : Journal or None
        Where sessions are kept for the next control server.
    ended : callable, optional
        Told of each session that has ended, and is not to be changed.
    """

    def __init__(
        self,
        table: SessionTable,
        gateway: Gateway,
        journal: Journal | None = None,
        ended: Callable[[Session], None] | None = None,
    ) -> None:
        self._table = table
        self._gateway = gateway
        self._calls = Calls()
        self._shells: dict[SessionKey, SessionShell] = {}
        self._books = Bookkeeping(table, journal, self._shells.get)
        self._outbox = Outbox(table, self._books, self._carry_out, self._report)
        self._timers = Timers(self._books, self._report)
        self._ended = ended or _ignore
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._detached = False

    @property
    def data_server(self) -> str:
        """Kind of the data servers of this gateway."""
        return self._gateway.data_server

    def next_call(self) -> int:
        """Return a number for one call."""
        return self._calls.next()

    async def call(self, event: CallEvent, *, accepted: Callable[[], None] | None = None) -> Reply:
        """Let `event` happen and return its answer, when there is one. Cancelling it says that nobody waits.

        Parameters
        ----------
        accepted : callable, optional
            Called when a REQ with a credential is taken, and the journal has it; the answer comes later.

        Raises
        ------
        SciStreamError
            What the session rules refuse it with.
        PeerError
            The control server is shutting down.
        """
        if self._detached or (self._closing and isinstance(event, Request)):
            raise PeerError(f"session {event.key.uid}: this control server is shutting down")
        if isinstance(event, Request):
            self._books.check_writable(event.key)
        with self._calls.waiting(event.call, accepted) as answer:
            try:
                self._handle(event)
                return await answer
            except asyncio.CancelledError:
                self._handle(CallAbandoned(key=event.key, call=event.call))
                raise

    async def status(self, owner: str | None, uid: str = "") -> tuple[SessionStatus, ...]:
        """Return what there is to see of the session `uid` of `owner`, or of all of that owner's.

        Without an owner: of everybody's, for administrators.

        Raises
        ------
        SessionNotFound
            `uid` is given, and the owner has no such session.
        """
        if uid and owner is not None:
            sessions = [self._table.get(SessionKey(owner, uid))]
        else:
            sessions = [
                session
                for session in self._table
                if owner in {None, session.key.owner} and uid in {"", session.key.uid}
            ]
        return tuple(await asyncio.gather(*map(self._status, sessions)))

    async def _status(self, session: Session) -> SessionStatus:
        history = self._books.history(session.key)
        if (shell := self._shells.get(session.key)) is not None:
            history.channels = await shell.statistics()
        return session_status(session, history, self._gateway)

    def find(self, key: SessionKey) -> Session | None:
        """Return the session `key`, to be looked at only; None: its owner has none of that uid."""
        return self._table.find(key)

    def with_credential(self, credential_hash: str) -> Session | None:
        """Return the session whose application holds the credential, to be looked at only."""
        return self._table.with_credential(credential_hash)

    def usage(self, key: SessionKey) -> Usage:
        """Return what the owner of `key` has besides it."""
        return usage_of(
            session.num_conn
            for session in self._table
            if session.key.owner == key.owner and session.key != key and not session.state.ended
        )

    def held_ports(self) -> Iterable[int]:
        """Return the ports that are bound here for sessions."""
        return (port for session in self._table for port in session.ports)

    def get(self, key: SessionKey) -> Session:
        """Return the session `key`, to be looked at only.

        Raises
        ------
        SessionNotFound
            Its owner has no such session.
        """
        return self._table.get(key)

    # --- the beginning ---------------------------------------------------------------------------------

    async def recover(self, entries: Sequence[Entry], *, rebooted: bool) -> tuple[int, int]:
        """Take over the sessions of an earlier control server.

        What has died since is ended as failed, and freed. Timers count on from where they were. Data servers
        that run are found again first, and those that no session knows are ended: only then can listeners be
        bound again, which they may hold.

        Parameters
        ----------
        rebooted : bool
            Whether the whole machine was started anew, so that nothing of them can be left.

        Returns
        -------
        tuple of int
            How many sessions live on, and how many data servers there were that no living session has.
        """
        running: list[Command] = []
        others: list[Command] = []
        for entry in entries:
            session = entry.session
            if rebooted and not session.state.ended:
                session.state, session.outcome = State.RELEASING, State.FAILED
                session.reason = "the gateway's machine was started anew"
            commands = self._table.restore(session)
            self._books.take_over(session, entry.history, rebooted=rebooted)
            for command in commands:
                adopts = isinstance(command, AdoptDataServer) and entry.history.handle
                (running if adopts else others).append(command)
        await self._carry_out_and_settle(running)
        strays = await self._gateway.backend.discard_unadopted()
        await self._carry_out_and_settle(others)
        for entry in entries:
            for timer, moment_s in tuple(entry.history.deadlines_s.items()):
                if not entry.session.state.ended:
                    self._timers.set(entry.session.key, timer, max(0.0, moment_s - boot_clock_s()))
        return sum(not entry.session.state.ended for entry in entries), strays

    async def _carry_out_and_settle(self, commands: Sequence[Command]) -> None:
        self._carry_out_all(commands)
        self._outbox.flush()
        await asyncio.gather(*(shell.settled() for shell in tuple(self._shells.values())))

    # --- the end ---------------------------------------------------------------------------------------

    async def close(self, mode: StopMode, timeout_s: float) -> None:
        """End as `mode` says, within `timeout_s`. New requests are refused from now on."""
        self._closing = True
        ending = Ending(self._table, self._shells, self._idle, self._release)
        if mode is StopMode.KEEP:
            await ending.last_figures()
            for session in self._table:
                self._books.changed(session.key)
        else:
            await ending.release_all(timeout_s, drain=mode is StopMode.DRAIN)
        self._outbox.flush()
        self._outbox.stop()
        self._detached = True
        self._timers.stop()
        why = "being restarted; ask again in a moment" if mode is StopMode.KEEP else "shutting down"
        self._calls.refuse_all(PeerError, f"this control server is {why}")
        if mode is StopMode.KEEP:
            await ending.let_go()

    async def _release(self, key: SessionKey) -> None:
        await self.call(Release(key=key, call=self.next_call(), shutdown=True))

    # --- events and commands ---------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if self._detached:
            return
        before = self._table.find(event.key)
        state_before = before.state if before else None
        as_it_was = before.copy() if before is not None and isinstance(event, Update) else None
        commands = self._table.handle(event)
        if as_it_was is not None and any(isinstance(command, StartDataServer) for command in commands):
            self._keep_update(as_it_was)
        after = self._table.find(event.key)
        if after is not None and (after.state is not state_before or after is not before):
            self._log(after)
        if after is not None and after is not before:
            self._books.begin(event.key)
        if after is not None and after.state is State.ANNOUNCED and state_before is not State.ANNOUNCED:
            self._outbox.grant(event.key)
        self._books.changed(event.key)
        self._carry_out_all(commands)

    def _keep_update(self, before: Session) -> None:
        """Write an update that leads elsewhere; one that cannot be written has not come.

        Raises
        ------
        ResourceExhausted
            It cannot be written. The session is as it was `before`, also for the data server.
        """
        self._books.changed(before.key)
        self._outbox.save()
        if before.key in self._books.unwritten:
            self._table.put_back(before)
            raise self._books.refusal(before.key)

    def _report(self, event: Event) -> None:
        """Take an event that no call stands behind."""
        try:
            self._handle(event)
        except CallerError:
            logger.exception("session %s: %s was not expected", event.key.uid, type(event).__name__)

    def _carry_out_all(self, commands: Sequence[Command]) -> None:
        """Note what `commands` mean for the books; they are carried out soon, when that is in the journal."""
        for command in commands:
            self._books.changed(command.key)
            match command:
                case SetTimer(timer=timer, seconds=seconds):
                    self._timers.set(command.key, timer, seconds)
                case CancelTimer(timer=timer):
                    self._timers.cancel(command.key, timer)
                case FreeSession():
                    self._books.end(command.key)
        self._outbox.put(commands)

    def _carry_out(self, command: Command) -> None:
        try:
            self._do(command)
        except Exception as error:
            logger.exception("session %s: %s failed", command.key.uid, type(command).__name__)
            if isinstance(command, ShellCommand):
                self._report(failed(command, unexpected(error)))

    def _do(self, command: Command) -> None:
        key = command.key
        match command:
            case Reply() | Refuse():
                self._calls.answer(command)
            case Accepted():
                self._calls.accept(command)
            case BindListeners() | RecoverListeners() | StartDataServer():
                self._shell(key).carry_out(command)
            case LookForTraffic():
                self._shell(key).look_for_traffic()
            case FreeSession() if key in self._shells:
                self._shell(key).free()
            case FreeSession():  # it holds nothing of this process
                asyncio.get_running_loop().call_soon(self._report_of_shell, SessionFreed(key=key))

    def _shell(self, key: SessionKey) -> SessionShell:
        if (shell := self._shells.get(key)) is None:
            self._idle.clear()
            session = self._table.get(key)
            shell = self._shells[key] = SessionShell(
                session,
                KeyPair(session, self._books.number(key), self._gateway.state),
                self._gateway,
                self._report_of_shell,
                self._books.history(key),
            )
        return shell

    def _report_of_shell(self, event: Event) -> None:
        self._report(event)
        session = self._table.find(event.key)
        if session is None or session.freed:
            shell = self._shells.pop(event.key, None)
            if session is not None and shell is not None:
                self._books.freed(event.key, shell)
        if not self._shells:
            self._idle.set()

    def _log(self, session: Session) -> None:
        if session.freed:
            self._ended(session)
        because = f" ({session.reason})" if session.reason else ""
        logger.info("session %s of %s: %s%s", session.key.uid, session.key.owner, session.state, because)


def _ignore(_: Session) -> None:
    pass
