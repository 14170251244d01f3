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

    def history(self, key: SessionKey) -> History:
        """Return the history of the session `key`, as it is known; one that is not known begins now."""
        return self._histories.setdefault(key, History(boot_clock_s()))

    def refresh(self, key: SessionKey) -> History:
        """Bring the history of the session `key` up to date, and return it."""
        history = self.history(key)
        if (shell := self._shell_of(key)) is not None:
            history.handle = shell.handle
            history.channels = shell.last_statistics
            history.carried = shell.carried
        return history

    def freed(self, key: SessionKey, shell: SessionShell) -> None:
        """Note what the session, which is over, has carried in all; it has no data server any more."""
        history = self.history(key)
        history.handle = ""
        history.channels = shell.last_statistics
        history.carried = shell.carried
        self.changed(key)

    def take_over(self, session: Session, history: History, *, rebooted: bool) -> None:
        """Keep the history of a session of an earlier control server; if it lives no more, it ends now.

        After a boot nobody knows how long it had lived: the moments are those of another clock.
        """
        self._histories[session.key] = history
        if session.state.ended:
            history.deadlines_s.clear()
            if history.end_s is None:
                history.end_s = history.begin_s if rebooted else boot_clock_s()
        self.changed(session.key)

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
        """Write what has changed; what cannot be written is tried again, and `check_writable` says so."""
        for key in list(self._histories) if len(self._histories) > self._table.remembered else ():
            if self._table.find(key) is None:
                del self._histories[key]
                self._changed.add(key)
        failure = ""
        try:
            self._write(self._changed)
        except sqlite3.Error as error:
            failure = str(error)
            if not self._failure:
                logger.exception(
                    "the journal cannot be written; new sessions and updates are refused until it can be"
                )
        except Exception:  # one session is to blame, and the others are not to suffer from it
            logger.debug("sessions are written one by one", exc_info=True)
            failure = self._write_one_by_one()
        if self._failure and not failure:
            logger.warning("the journal can be written again")
        self._failure = failure

    def _write_one_by_one(self) -> str:
        failure = ""
        for key in tuple(self._changed):
            try:
                self._write({key})
            except Exception as error:
                # told to all callers: nothing in it is anybody's
                failure = f"unexpected {type(error).__name__}; its log says more"
                if not self._failure:
                    logger.exception("session %s cannot be written to the journal", key.uid)
        return failure

    def _write(self, keys: set[SessionKey]) -> None:
        content: dict[SessionKey, tuple[Session, History] | None] = {}
        for key in keys if self._journal is not None else ():
            session = self._table.find(key)
            if session is not None:
                content[key] = session, self.refresh(key)
            elif self.number(key) is not None:
                content[key] = None
        if self._journal is not None and content:
            self._journal.save(content)
        self._changed -= set(keys)

    @property
    def unwritten(self) -> frozenset[SessionKey]:
        """The sessions that are in the journal otherwise than they are."""
        return frozenset(self._changed)

    def check_writable(self, key: SessionKey) -> None:
        """Try again to write what could not be written, before `key` begins.

        Raises
        ------
        ResourceExhausted
            It still cannot: a new session would be lost with the control server.
        """
        if self._failure:
            self.save()
        if self._failure:
            raise self.refusal(key)

    def refusal(self, key: SessionKey) -> ResourceExhausted:
        """Return the error for what is asked of a session that cannot be written."""
        return ResourceExhausted(
            f"session {key.uid}: this gateway's state directory cannot be written ({self._failure}), so "
            "nothing can be promised; ask again when its operator has made room"
        )
