"""Carries the session rules' commands out: calls and their answers, timers, and one shell per session.

All of it runs in one event loop. What a session holds is in `scistream.control.shell`; who may call is
decided before anything arrives here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass

from scistream.control.gateway import Gateway
from scistream.control.shell import SessionShell
from scistream.core.commands import (
    BindListeners,
    CancelTimer,
    Command,
    FreeSession,
    Refuse,
    Reply,
    SetTimer,
    StartDataServer,
)
from scistream.core.events import CallAbandoned, CallEvent, Event, Release, SessionKey, Timer, TimerFired
from scistream.core.session import Session
from scistream.core.status import ChannelStatistics, SessionStatus
from scistream.core.table import SessionTable
from scistream.errors import CallerError, PeerError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _History:
    """What is kept of a session beyond its shell."""

    begin_s: float
    end_s: float | None = None
    channels: tuple[ChannelStatistics, ...] = ()


class Runtime:
    """The sessions of one control server, alive.

    Parameters
    ----------
    table : SessionTable
        The rules; nobody else may send it events.
    gateway : Gateway
        What the sessions share.
    """

    def __init__(self, table: SessionTable, gateway: Gateway) -> None:
        self._table = table
        self._gateway = gateway
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._timers: dict[tuple[SessionKey, Timer], asyncio.TimerHandle] = {}
        self._shells: dict[SessionKey, SessionShell] = {}
        self._histories: dict[SessionKey, _History] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

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
        if self._closing and not isinstance(event, Release):
            raise PeerError(f"session {event.key.uid}: this control server is shutting down")
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

    async def close(self, timeout_s: float) -> None:
        """Release every session and wait until all is free, `timeout_s` at most. New calls are refused."""
        self._closing = True
        live = [session.key for session in self._table if not session.state.ended]
        if live:
            logger.info("releasing %d sessions", len(live))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(self.call(Release(key=key, call=self.next_call())) for key in live))
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d sessions were not free after %g s", len(self._shells), timeout_s)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # --- events and commands ---------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        before = self._state(event.key)
        commands = self._table.handle(event)
        after = self._state(event.key)
        if before != after:
            self._log(event, after)
        for command in commands:
            self._carry_out(command)

    def _report(self, event: Event) -> None:
        """Take an event that no call stands behind."""
        try:
            self._handle(event)
        except CallerError:
            logger.exception("session %s: %s was not expected", event.key.uid, type(event).__name__)

    def _carry_out(self, command: Command) -> None:
        key = command.key
        match command:
            case Reply(call=call):
                if (answer := self._calls.get(call)) is not None and not answer.done():
                    answer.set_result(command)
            case Refuse(call=call, error=error):
                if (answer := self._calls.get(call)) is not None and not answer.done():
                    answer.set_exception(error)
            case SetTimer(timer=timer, seconds=seconds):
                self._cancel(key, timer)
                loop = asyncio.get_running_loop()
                self._timers[key, timer] = loop.call_later(seconds, self._fire, key, timer)
            case CancelTimer(timer=timer):
                self._cancel(key, timer)
            case BindListeners() if key not in self._shells:
                self._idle.clear()
                role = self._table.get(key).role
                self._shells[key] = SessionShell(key, role, self._gateway, self._report_of_shell)
                self._histories[key] = _History(asyncio.get_running_loop().time())
                self._shells[key].carry_out(command)
            case BindListeners() | StartDataServer():
                self._shells[key].carry_out(command)
            case FreeSession():
                self._histories[key].end_s = asyncio.get_running_loop().time()
                self._shells[key].free()

    def _report_of_shell(self, event: Event) -> None:
        self._report(event)
        session = self._table.find(event.key)
        if session is None or session.freed:
            if (shell := self._shells.pop(event.key, None)) is not None:
                self._histories[event.key].channels = shell.last_statistics
            if len(self._histories) > 2 * self._table.remembered + 100:
                self._histories = {
                    key: history for key, history in self._histories.items() if self._table.find(key)
                }
            if not self._shells:
                self._idle.set()

    def _fire(self, key: SessionKey, timer: Timer) -> None:
        self._timers.pop((key, timer), None)
        self._report(TimerFired(key=key, timer=timer))

    def _cancel(self, key: SessionKey, timer: Timer) -> None:
        if (handle := self._timers.pop((key, timer), None)) is not None:
            handle.cancel()

    # --- looking ---------------------------------------------------------------------------------------

    def _state(self, key: SessionKey) -> str | None:
        session = self._table.find(key)
        return session.state.value if session else None

    def _log(self, event: Event, state: str | None) -> None:
        session = self._table.find(event.key)
        because = f" ({session.reason})" if session and session.reason else ""
        logger.info("session %s of %s: %s%s", event.key.uid, event.key.owner, state, because)

    async def _status(self, session: Session) -> SessionStatus:
        history = self._histories.get(session.key)
        end_s = asyncio.get_running_loop().time()
        if history and history.end_s is not None:
            end_s = history.end_s
        kept = history.channels if history else ()
        shell = self._shells.get(session.key)
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
            data_server=self._gateway.data_server,
            seconds=end_s - history.begin_s if history else 0.0,
            channels=await shell.statistics() if shell else kept,
        )
