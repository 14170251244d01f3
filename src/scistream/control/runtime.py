"""Carries the session rules' commands out: calls and their answers, timers, and one shell per session.

All of it runs in one event loop. What a session holds is in `scistream.control.shell`; who may call is
decided before anything arrives here. Every change is in the journal before anybody is told of it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence

from scistream.config import StopMode
from scistream.control.bookkeeping import Bookkeeping
from scistream.control.gateway import Gateway
from scistream.control.journal import Entry, Journal, boot_clock_s
from scistream.control.shell import Identity, SessionShell
from scistream.control.status import session_status
from scistream.control.timers import Timers
from scistream.core.commands import (
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
    DataServerFailed,
    Event,
    Release,
    Request,
    ReservationFailed,
    SessionFreed,
    SessionKey,
)
from scistream.core.session import Session, State
from scistream.core.status import SessionStatus
from scistream.core.table import SessionTable
from scistream.errors import CallerError, ConfigurationError, PeerError

logger = logging.getLogger(__name__)

# How often a server that drains looks whether streams have finished.
_DRAIN_LOOK_S = 0.2
# Also after the time for draining is over.
_RELEASE_TIMEOUT_S = 5.0


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
    """

    def __init__(self, table: SessionTable, gateway: Gateway, journal: Journal | None = None) -> None:
        self._table = table
        self._gateway = gateway
        self._journal = journal
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._shells: dict[SessionKey, SessionShell] = {}
        self._books = Bookkeeping(table, journal, self._shells.get)
        self._timers = Timers(self._books, self._report)
        self._idle = asyncio.Event()
        self._idle.set()
        self._pending: list[Command] = []
        self._flush_is_due = False
        self._closing = False
        self._detached = False

    def next_call(self) -> int:
        """Return a number for one call."""
        return next(self._numbers)

    async def call(self, event: CallEvent) -> Reply:
        """Let `event` happen and return its answer, when there is one. Cancelling it says that nobody waits.

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
            self._books.check_writable()
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls[event.call] = answer
        try:
            self._handle(event)
            return await answer
        except asyncio.CancelledError:
            self._handle(CallAbandoned(key=event.key, call=event.call))
            raise
        finally:
            del self._calls[event.call]

    async def status(self, owner: str, uid: str = "") -> tuple[SessionStatus, ...]:
        """Return what there is to see of the session `uid` of `owner`, or of all of that owner's.

        Raises
        ------
        SessionNotFound
            `uid` is given, and the owner has no such session.
        """
        if uid:
            sessions = [self._table.get(SessionKey(owner, uid))]
        else:
            sessions = [session for session in self._table if session.key.owner == owner]
        return tuple([await self._status(session) for session in sessions])

    async def _status(self, session: Session) -> SessionStatus:
        if (shell := self._shells.get(session.key)) is not None:
            await shell.statistics()
        return session_status(session, self._books.history(session), self._gateway)

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
            How many sessions live on, and how many data servers nobody knew.
        """
        running: list[Command] = []
        others: list[Command] = []
        for entry in entries:
            session = entry.session
            if rebooted and not session.state.ended:
                session.state, session.outcome = State.RELEASING, State.FAILED
                session.reason = "the gateway's machine was started anew"
            self._books.take_over(session, entry.history)
            self._books.changed(session.key)
            for command in self._table.restore(session):
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
        self._flush()
        await asyncio.gather(*(shell.settled() for shell in tuple(self._shells.values())))

    # --- the end ---------------------------------------------------------------------------------------

    async def close(self, mode: StopMode, timeout_s: float) -> None:
        """End as `mode` says, within `timeout_s`. New requests are refused from now on."""
        self._closing = True
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        if mode is StopMode.KEEP:
            await self._let_go()
            return
        if mode is StopMode.DRAIN:
            await self._drain(deadline_s)
        deadline_s = max(deadline_s, loop.time() + _RELEASE_TIMEOUT_S)
        await self._release(lambda _: True, deadline_s)
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d sessions are not free", len(self._shells))
        self._timers.stop()

    async def _drain(self, deadline_s: float) -> None:
        """Wait for the streams to finish; release every session as soon as it has no connection."""
        loop = asyncio.get_running_loop()
        said = False
        while True:
            shells = dict(self._shells)
            found = await asyncio.gather(*(shell.statistics() for shell in shells.values()))
            busy = {
                key
                for key, channels in zip(shells, found, strict=True)
                if any(channel.connections_open for channel in channels)
            }
            await self._release(lambda session: session.key not in busy, deadline_s)  # noqa: B023 - called now
            if not self._shells or loop.time() >= deadline_s:
                return
            if not said:
                said = True
                logger.info("waiting for the streams of %d sessions to finish", len(self._shells))
            try:
                async with asyncio.timeout(min(_DRAIN_LOOK_S, max(0.0, deadline_s - loop.time()))):
                    await self._idle.wait()
            except TimeoutError:
                continue

    async def _release(self, which: Callable[[Session], bool], deadline_s: float) -> None:
        """Release the living sessions that `which` chooses, and wait until all that have ended are free."""
        live = [session.key for session in self._table if not session.state.ended and which(session)]
        if live:
            logger.info("releasing %d sessions", len(live))
        try:
            async with asyncio.timeout_at(deadline_s):
                await asyncio.gather(*(self.call(Release(key=key, call=self.next_call())) for key in live))
        except TimeoutError:
            logger.warning("not all of %d sessions were released in time", len(live))

    async def _let_go(self) -> None:
        """Stop, and leave all data servers running for the next control server."""
        shells = tuple(self._shells.values())
        await asyncio.gather(*(shell.statistics() for shell in shells))
        for session in self._table:
            self._books.changed(session.key)
        self._flush()
        self._detached = True
        for call in self._calls.values():
            if not call.done():
                call.set_exception(PeerError("this control server is being restarted; ask again in a moment"))
        self._timers.stop()
        await asyncio.gather(*(shell.let_go() for shell in shells))
        logger.info("%d sessions go on without a control server", len(shells))

    # --- events and commands ---------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if self._detached:
            return
        before = self._table.find(event.key)
        state_before = before.state if before else None
        commands = self._table.handle(event)
        after = self._table.find(event.key)
        if after is not None and (after.state is not state_before or after is not before):
            self._log(after)
        if after is not None and after is not before:
            self._books.begin(event.key)
        self._books.changed(event.key)
        self._carry_out_all(commands)

    def _report(self, event: Event) -> None:
        """Take an event that no call stands behind."""
        try:
            self._handle(event)
        except CallerError:
            logger.exception("session %s: %s was not expected", event.key.uid, type(event).__name__)

    def _carry_out_all(self, commands: Sequence[Command]) -> None:
        """Note what `commands` mean for the books; they are carried out soon, when that is in the journal.

        One transaction serves all events of one turn of the loop.
        """
        for command in commands:
            self._books.changed(command.key)
            match command:
                case SetTimer(timer=timer, seconds=seconds):
                    self._timers.set(command.key, timer, seconds)
                case CancelTimer(timer=timer):
                    self._timers.cancel(command.key, timer)
                case FreeSession():
                    self._books.end(command.key)
        self._pending += commands
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has changed, and only then let anybody know."""
        self._flush_is_due = False
        self._books.save()
        pending, self._pending = self._pending, []
        for command in pending:
            try:
                self._carry_out(command)
            except Exception as error:
                logger.exception("session %s: %s failed", command.key.uid, type(command).__name__)
                reason = f"unexpected {type(error).__name__} in the control server; its log says more"
                if isinstance(command, BindListeners | RecoverListeners):
                    self._report(ReservationFailed(key=command.key, reason=reason))
                elif isinstance(command, StartDataServer):
                    self._report(DataServerFailed(key=command.key, reason=reason))

    def _carry_out(self, command: Command) -> None:
        key = command.key
        match command:
            case Reply(call=call):
                if (answer := self._calls.get(call)) is not None and not answer.done():
                    answer.set_result(command)
            case Refuse(call=call, error=error):
                if (answer := self._calls.get(call)) is not None and not answer.done():
                    answer.set_exception(error)
            case BindListeners() | RecoverListeners() | StartDataServer():
                self._shell(key).carry_out(command)
            case LookForTraffic():
                self._shell(key).look_for_traffic()
            case FreeSession() if key in self._shells or self._books.number(key) is not None:
                self._shell(key).free()
            case FreeSession():  # it has never held anything
                asyncio.get_running_loop().call_soon(self._report_of_shell, SessionFreed(key=key))

    def _shell(self, key: SessionKey) -> SessionShell:
        if (shell := self._shells.get(key)) is None:
            self._idle.clear()
            session = self._table.get(key)
            number, state = self._books.number(key), self._gateway.state
            private_key_pem = b""
            if session.certificate_pem and state is not None and number is not None:
                try:
                    private_key_pem = state.read_key(number)
                except ConfigurationError:
                    logger.exception("session %s: its private key is lost", key.uid)
            shell = self._shells[key] = SessionShell(
                session,
                Identity(
                    number=number, certificate_pem=session.certificate_pem, private_key_pem=private_key_pem
                ),
                self._gateway,
                self._report_of_shell,
                self._books.history(session),
            )
        return shell

    def _report_of_shell(self, event: Event) -> None:
        self._report(event)
        session = self._table.find(event.key)
        if session is None or session.freed:
            if session is not None:
                self._books.history(session)  # what it has carried is known here for the last time
            self._shells.pop(event.key, None)
        if not self._shells:
            self._idle.set()

    def _log(self, session: Session) -> None:
        because = f" ({session.reason})" if session.reason else ""
        logger.info("session %s of %s: %s%s", session.key.uid, session.key.owner, session.state, because)
