"""How an application's connection finds one of the other gateway's: here, in another worker, or later."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from scistream.dataserver.native import reverse_words as words

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Owner
    from scistream.dataserver.native.reverse_spare import Spare
    from scistream.dataserver.native.reverse_waiting import WaitingRoom
    from scistream.dataserver.native.tls import TlsEngine

PAIR_LIMIT_S = 10.0
"""How long an application's connection is held while the producer's side has none for it."""


class Pairing:
    """The step of an application's connection that finds one of the other gateway's for it.

    Parameters
    ----------
    owner : Owner
        Ends the application's connection.
    due : float
        Until when it waits, on the monotonic clock.
    moved : bool
        Whether it comes from another worker; if that was in vain it does not go on at once.
    wanted : callable
        Returns whether the application is there still.
    move : callable
        Hands the application's connection over to that worker; returns whether it is gone from here.
    paired, failed : callable
        Called with the other gateway's connection; or with the reason, at the end.
    """

    def __init__(
        self,
        room: WaitingRoom,
        owner: Owner,
        due: float,
        *,
        moved: bool,
        wanted: Callable[[], bool],
        move: Callable[[int], bool],
        paired: Callable[[socket.socket, TlsEngine | None], None],
        failed: Callable[[str], None],
    ) -> None:
        self._room = room
        self.owner = owner
        self.due = due
        self._moved = moved
        self._wanted = wanted
        self._move = move
        self._paired = paired
        self._failed = failed
        self._spare: Spare | None = None
        self._reason = "the producer's side has no connection ready"
        self._patience = room.worker.reverse.patience

    def find(self) -> None:
        """Take one that is ready, here or in another worker; wait if there is none."""
        self._patience.discard(self)
        if not self._wanted():
            self._give_up(f"{self._reason}; the client has left")
            return
        # not by `unanswered`, which calls this: all that are ready may be gone at once
        while (spare := self._room.take(self)) is not None:
            try:
                spare.ask(self)
            except words.TalkEnded as error:
                self._reason = f"the producer's side has not begun: {error}"
            else:
                self._spare = spare
                return
        if self._moved or not self.go_elsewhere():
            self._patience.add(self)

    def go_elsewhere(self) -> bool:
        """Go to another worker that has one ready; return False if it stays here."""
        richest = self._room.worker.richest(self._room.channel)
        return richest is not None and self._move(richest)

    def look_again(self) -> None:
        """See whether it is worth while to wait on."""
        if not self._wanted():
            self._give_up(f"{self._reason}; the client has left")
        elif time.monotonic() >= self.due:
            self._give_up(self._reason)
        else:
            self._patience.add(self)

    def _give_up(self, reason: str) -> None:
        self.abort()
        self._failed(reason)

    def answered(self, sock: socket.socket, engine: TlsEngine | None) -> None:
        """Take the connection, on which the stream may begin."""
        self._spare = None
        self._paired(sock, engine)

    def unanswered(self, reason: str) -> None:
        """Try another one."""
        self._spare = None
        self._reason = f"the producer's side has not begun: {reason}"
        if time.monotonic() >= self.due:
            self._give_up(self._reason)
        else:
            self.find()

    def abort(self) -> None:
        """Stop; nobody is called."""
        self._patience.discard(self)
        self._room.leave(self)
        if self._spare is not None:
            spare, self._spare = self._spare, None
            spare.drop()
