"""The timers of all sessions: set, cancelled, fired; each is noted where the next control server finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from scistream.control.bookkeeping import Bookkeeping
from scistream.core.events import SessionKey, Timer, TimerFired


class Timers:
    """The timers that session rules have set.

    Parameters
    ----------
    books : Bookkeeping
        Where their moments are noted.
    report : callable
        Told of a timer that has fired.
    """

    def __init__(self, books: Bookkeeping, report: Callable[[TimerFired], None]) -> None:
        self._books = books
        self._report = report
        self._handles: dict[tuple[SessionKey, Timer], asyncio.TimerHandle] = {}

    def set(self, key: SessionKey, timer: Timer, seconds: float) -> None:
        """Report the timer after `seconds`; one that is set already begins anew."""
        self.cancel(key, timer)
        loop = asyncio.get_running_loop()
        self._handles[key, timer] = loop.call_later(seconds, self._fire, key, timer)
        self._books.timer_set(key, timer, seconds)

    def cancel(self, key: SessionKey, timer: Timer) -> None:
        """Forget the timer, if it is set."""
        if (handle := self._handles.pop((key, timer), None)) is not None:
            handle.cancel()
        self._books.timer_gone(key, timer)

    def stop(self) -> None:
        """Let none fire any more; what is noted of them stays."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _fire(self, key: SessionKey, timer: Timer) -> None:
        del self._handles[key, timer]
        self._books.timer_gone(key, timer)
        self._report(TimerFired(key=key, timer=timer))
