"""What the session rules have commanded, held back until what led to it is in the journal.

One transaction serves all events of one turn of the event loop. Where it fails, nobody is promised anything
that the next control server would not know: no listener is bound, no lease or listener is confirmed. What is
running goes on, what ends ends, and the journal is written as soon as that is possible again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from scistream.control.bookkeeping import Bookkeeping
from scistream.control.failures import failed
from scistream.core.commands import Accepted, BindListeners, Command, Refuse, Reply
from scistream.core.events import Event, ReservationFailed, SessionKey
from scistream.core.table import SessionTable
from scistream.errors import ResourceExhausted

# How often what could not be written is tried again while nothing else happens.
_AGAIN_S = 2.0


class Outbox:
    """The commands that wait for the journal.

    Parameters
    ----------
    table : SessionTable
        Only looked at.
    books : Bookkeeping
        Writes the journal.
    carry_out : callable
        Carries a command out.
    report : callable
        Told of what cannot be carried out.
    """

    def __init__(
        self,
        table: SessionTable,
        books: Bookkeeping,
        carry_out: Callable[[Command], None],
        report: Callable[[Event], None],
    ) -> None:
        self._table = table
        self._books = books
        self._carry_out = carry_out
        self._report = report
        self._waiting: list[Command] = []
        self._granted: set[SessionKey] = set()
        self._due: asyncio.Handle | None = None
        self._again: asyncio.TimerHandle | None = None

    def put(self, commands: Sequence[Command]) -> None:
        """Let `commands` be carried out soon, when everything that has changed is in the journal."""
        self._waiting += commands
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self.flush)

    def grant(self, key: SessionKey) -> None:
        """Note that the commands of this turn tell the listeners of the session for the first time."""
        self._granted.add(key)

    def save(self) -> None:
        """Write what has changed; what cannot be written is tried again soon."""
        self._books.save()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._books.unwritten:
            self._again = asyncio.get_running_loop().call_later(_AGAIN_S, self.flush)

    def flush(self) -> None:
        """Write what has changed, and only then let anybody know."""
        self._forget_due()
        self.save()
        waiting, self._waiting = self._waiting, []
        granted, self._granted = self._granted, set()
        refused = self._refused()
        for command in waiting:
            error = refused.get(command.key)
            if error is not None and isinstance(command, Reply):
                self._carry_out(Refuse(key=command.key, call=command.call, error=error))
            elif error is not None and isinstance(command, BindListeners):
                self._report(failed(command, str(error)))
            elif error is not None and isinstance(command, Accepted):
                continue  # who asked learns it by the answer
            else:
                self._carry_out(command)
        for key in granted & refused.keys():
            self._report(ReservationFailed(key=key, reason=str(refused[key])))

    def stop(self) -> None:
        """Carry nothing out any more."""
        self._forget_due()
        self._waiting.clear()
        if self._again is not None:
            self._again.cancel()

    def _forget_due(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _refused(self) -> dict[SessionKey, ResourceExhausted]:
        """Return the living sessions that could not be written, and why."""
        refused = {}
        for key in self._books.unwritten:
            session = self._table.find(key)
            if session is not None and not session.state.ended:
                refused[key] = self._books.refusal(key)
        return refused
