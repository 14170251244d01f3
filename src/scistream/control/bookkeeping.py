"""What is kept of every session beyond the session rules, and when all of it is written to the journal.

Without a journal it is kept in memory alone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from scistream.control.journal import History, Journal, boot_clock_s
from scistream.control.shell import SessionShell
from scistream.core.events import SessionKey, Timer
from scistream.core.session import Session
from scistream.core.table import SessionTable
from scistream.errors import ResourceExhausted

logger = logging.getLogger(__name__)


class Bookkeeping:
    """The histories of all sessions of a table.

    Parameters
    ----------
    table : SessionTable
        Only looked at.
    shell_of : callable
        Returns the shell of a session, or None.
    """

    def __init__(
        self,
        table: SessionTable,
        journal: Journal | None,
        shell_of: Callable[[SessionKey], SessionShell | None],
    ) -> None:
        self._table = table
        self._journal = journal
        self._shell_of = shell_of
        self._histories: dict[SessionKey, History] = {}
        self._changed: set[SessionKey] = set()
        self._failure = ""

    # --- histories -------------------------------------------------------------------------------------

    def history(self, session: Session) -> History:
        """Return the history of `session`, up to date; one that is not known begins now."""
        history = self._histories.get(session.key)
        if history is None:
            history = self._histories[session.key] = History(boot_clock_s())
        if (shell := self._shell_of(session.key)) is not None:
            history.handle = shell.handle
            history.channels = shell.last_statistics
            history.carried = shell.carried
        return history

    def take_over(self, session: Session, history: History) -> None:
        """Keep the history of a session of an earlier control server."""
        self._histories[session.key] = history

    def begin(self, key: SessionKey) -> None:
        """Forget what there was of an earlier session of that name: a new one begins."""
        self._histories[key] = History(boot_clock_s())

    def end(self, key: SessionKey) -> None:
        """Note that the session ends now."""
        if (history := self._histories.get(key)) is not None and history.end_s is None:
            history.end_s = boot_clock_s()

    def timer_set(self, key: SessionKey, timer: Timer, seconds: float) -> None:
        """Note when the timer will fire."""
        if (history := self._histories.get(key)) is not None:
            history.deadlines_s[timer] = boot_clock_s() + seconds

    def timer_gone(self, key: SessionKey, timer: Timer) -> None:
        """Note that the timer has fired, or been cancelled."""
        if (history := self._histories.get(key)) is not None:
            history.deadlines_s.pop(timer, None)

    # --- the journal -----------------------------------------------------------------------------------

    def number(self, key: SessionKey) -> int | None:
        """Return the number of a session in the journal; None where it is not in any."""
        if self._journal is None or not self._journal.knows(key):
            return None
        return self._journal.number(key)

    def changed(self, key: SessionKey) -> None:
        """Note that the session is not any more as it was written."""
        self._changed.add(key)

    def save(self) -> None:
        """Write what has changed; if that fails, it is tried again, and `check_writable` says so."""
        for key in list(self._histories) if len(self._histories) > self._table.remembered else ():
            if self._table.find(key) is None:
                del self._histories[key]
                self._changed.add(key)
        content: dict[SessionKey, tuple[Session, History] | None] = {}
        for key in self._changed:
            session = self._table.find(key)
            if session is not None:
                content[key] = session, self.history(session)
            elif self.number(key) is not None:
                content[key] = None
        if self._journal is None or not content:
            self._changed.clear()
            return
        try:
            self._journal.save(content)
        except sqlite3.Error as error:
            if not self._failure:
                logger.exception("the journal cannot be written; new sessions are refused until it can be")
            self._failure = str(error)
            return
        if self._failure:
            logger.warning("the journal can be written again")
        self._failure = ""
        self._changed.clear()

    def check_writable(self) -> None:
        """Try again to write what could not be written.

        Raises
        ------
        ResourceExhausted
            It still cannot: a new session would be lost with the control server.
        """
        if self._failure:
            self.save()
        if self._failure:
            raise ResourceExhausted(
                f"this gateway's state directory cannot be written ({self._failure}); no new sessions until "
                "its operator has made room"
            )
