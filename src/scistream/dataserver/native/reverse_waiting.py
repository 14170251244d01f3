"""The consumer's side of reverse channels: the other gateway's connections wait here for the application's.

The producer's data server has dialled them, and keeps some ready. Each is greeted and then idle, until an
application's connection comes: that one gets it, and the other side is told to begin. What an application
sends is not read before the other side has taken the connection, so where one is dead another one is tried.

Nobody who has not proved the session's key gets beyond the handshake, which is limited in time and number.
The other gateway speaks first and at once, so that who says nothing has to make room for all others, and has
no TLS state yet. Connections that are ready carry nothing and count as none.
"""

from __future__ import annotations

import logging
import secrets
import select
import socket
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from scistream.dataserver.base import TlsLeg
from scistream.dataserver.native import reverse_words as words
from scistream.dataserver.native.handshake import Handshake
from scistream.dataserver.native.relay import EVENTS, READABLE
from scistream.dataserver.native.reverse_times import READY_TIMEOUT_S
from scistream.dataserver.native.sockets import EXHAUSTED, is_tuned, keep_alive, reset

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Owner
    from scistream.dataserver.native.session import Channel
    from scistream.dataserver.native.tls import TlsEngine

logger = logging.getLogger(__name__)

MOST_GREETING = 1024
"""Connections of a channel in one worker that have not proved yet who they are. One more takes the place of
the oldest that has said nothing; if all talk, of any of them."""
LEAST_GREETING = 128
_GREETING_PART = 64
"""With fewer open files than this allows for, a channel's part of them, down to `LEAST_GREETING`."""
MOST_READY = 256
"""Connections of a channel in one worker that are kept ready; more are refused."""
PAIR_LIMIT_S = 10.0
"""How long an application's connection is held while the producer's side has none for it."""


class WaitingRoom:
    """One channel's connections of the other gateway, in one worker, and who waits for them.

    Parameters
    ----------
    listener : socket.socket
        Where the other gateway dials; owned from now on.
    """

    def __init__(self, channel: Channel, listener: socket.socket) -> None:
        self.owner = self
        self.channel = channel
        self.session = channel.session
        self.worker = channel.session.worker
        self.listener = listener
        self._listening = False
        most = self.worker.descriptors // _GREETING_PART
        self._most_greeting = max(LEAST_GREETING, min(MOST_GREETING, most))
        self._silent: dict[Spare, None] = {}
        self._greeting: dict[Spare, None] = {}
        self._ready: dict[Spare, None] = {}
        self._waiting: dict[Pairing, None] = {}
        self._looks = False

    # --- accepting ---------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Begin or go on accepting."""
        if not self._listening:
            self._listening = True
            self.worker.loop.watch(
                self.listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE, self._accept, self
            )

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        if self._listening:
            self._listening = False
            self.worker.loop.forget_shared(self.listener.fileno())

    def _accept(self, _events: int) -> None:
        if not self.worker.has_room():
            self.worker.pause_accepting()
            return
        try:
            accepted, _ = self.listener.accept()
        except BlockingIOError:
            return  # another worker was quicker
        except OSError as error:
            if error.errno in EXHAUSTED:
                self.worker.pause_accepting()
            return  # or that connection was gone before it was accepted
        accepted.setblocking(False)
        if not self.worker.hand_over_spare(self.channel, accepted):
            self.adopt(accepted)

    def adopt(self, accepted: socket.socket) -> None:
        """Find out who an accepted connection is."""
        if len(self._silent) + len(self._greeting) >= self._most_greeting:
            self._lose_one()
        if not is_tuned(accepted):  # it came before the listener was tuned
            self.session.prepare(accepted, TlsLeg.TARGET)
        spare = Spare(self, accepted)
        self._silent[spare] = None
        self.worker.spare_begins()
        self._publish()
        spare.begin()

    def _lose_one(self) -> None:
        # not the oldest of those that talk: among many strangers, that would be the other gateway's each time
        spare = next(iter(self._silent), None) or secrets.choice(list(self._greeting))
        spare.lose("others come after it, and it has not said who it is")

    def lose_silent(self) -> None:
        """Keep only those that have said something."""
        for spare in list(self._silent):
            spare.lose("there is no room for who says nothing")

    # --- what spares report ------------------------------------------------------------------------------

    def has_spoken(self, spare: Spare) -> None:
        """Take note that `spare` has said something."""
        self._greeting[spare] = self._silent.pop(spare)

    def has_greeted(self, spare: Spare) -> bool:
        """Take note that `spare` is the other gateway's; return False if there are too many already."""
        if len(self._ready) >= MOST_READY:
            return False
        self._greeting.pop(spare, None)
        self._ready[spare] = None
        self._publish()
        return True

    def serve(self) -> None:
        """Let those who wait longest have what is ready."""
        while self._ready and self._waiting:
            next(iter(self._waiting)).find()

    def has_ended(self, spare: Spare, reason: str) -> None:
        """Forget a connection that is gone."""
        unknown = spare in self._greeting or spare in self._silent
        self._silent.pop(spare, None)
        self._greeting.pop(spare, None)
        if unknown and reason:
            self.session.tell_refusal(self.channel, f"from the producer's side: {reason}")
        elif self._ready.pop(spare, spare) is None:
            logger.debug("session %s: a connection that was ready is gone: %s", self.session.uid, reason)
        self.worker.spare_ends()
        self._publish()

    # --- who waits ---------------------------------------------------------------------------------------

    def take(self, pairing: Pairing) -> Spare | None:
        """Return the connection that is ready longest; if there is none, `pairing` waits for one."""
        self._waiting.pop(pairing, None)
        spare = next(iter(self._ready), None)
        if spare is None:
            self._waiting[pairing] = None
            self._look_later()
        else:
            del self._ready[spare]
        self._publish()
        return spare

    def leave(self, pairing: Pairing) -> None:
        """Let `pairing` wait no more."""
        if self._waiting.pop(pairing, pairing) is None:
            self._publish()

    def look(self) -> None:
        """Let those who wait longest go where another worker has something ready."""
        self._looks = False
        for pairing in list(self._waiting):
            if not pairing.go_elsewhere():
                break
        if self._waiting:
            self._look_later()

    def _look_later(self) -> None:
        if not self._looks:
            self._looks = True
            self.worker.reverse.looks.add(self)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def _publish(self) -> None:
        self.worker.publish_ready(
            self.channel,
            len(self._ready) - len(self._waiting),
            coming=len(self._silent) + len(self._greeting),
        )

    # --- the end -----------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Keep no connection that was greeted with the credentials before; the other side dials again."""
        for spare in (*self._silent, *self._greeting, *self._ready):
            spare.drop()

    def abort(self) -> None:
        """Give every connection up that carries nothing; go on accepting."""
        self.renew()

    def close(self) -> None:
        """Give everything up."""
        self.pause()
        self.worker.reverse.looks.discard(self)
        self.listener.close()
        self.renew()


class _State(Enum):
    SILENT = auto()
    GREETING = auto()
    READY = auto()
    ASKED = auto()
    ENDED = auto()


class Spare:
    """One connection of the other gateway, until an application's connection has it."""

    def __init__(self, room: WaitingRoom, sock: socket.socket) -> None:
        self.owner = self
        self._room = room
        self._loop = room.worker.loop
        self._socket = sock
        self._tls = room.session.tls
        self._engine: TlsEngine | None = None
        self._talk = words.Talk(self._loop, sock, None)
        self._expected = words.greeting(room.session.uid, room.channel.index)
        self._handshake: Handshake | None = None
        self._state = _State.SILENT
        self._pairing: Pairing | None = None

    def begin(self) -> None:
        """Wait for its first word."""
        self._loop.establishing.add(self)
        self._loop.watch(self._socket.fileno(), READABLE | select.EPOLLET, self._on_first_word, self)

    def _on_first_word(self, _events: int) -> None:
        self._room.has_spoken(self)
        self._state = _State.GREETING
        if self._tls is None:
            self._proved()
            return
        self._loop.establishing.discard(self)
        engine = self._engine = self._tls.engine(self._loop.scratch)
        self._talk = words.Talk(self._loop, self._socket, engine)
        self._handshake = Handshake(self._loop, self, self._socket, engine, self._proved, self.lose)
        self._handshake.begin()

    def _proved(self) -> None:
        self._loop.establishing.add(self)
        self._loop.watch(self._socket.fileno(), EVENTS, self._on_events, self)

    def _on_events(self, _events: int) -> None:
        try:
            if self._state is _State.GREETING:
                self._listen_to_greeting()
            # what it has said besides is not told again
            if self._state is _State.READY:
                self._listen_to_silence()
            if self._state is _State.ASKED:
                self._listen_to_answer()
        except words.TalkEnded as error:
            self.lose(str(error))

    def _listen_to_silence(self) -> None:
        if self._talk.hear(1):
            raise words.TalkEnded("it speaks without being asked")

    def _listen_to_answer(self) -> None:
        answer = self._talk.hear(len(words.TAKEN))
        if answer == words.TAKEN:
            self._taken()
        elif answer:
            raise words.TalkEnded("it answers something else than that it begins")

    def _listen_to_greeting(self) -> None:
        said = self._talk.hear(words.GREETING_BYTES)
        if not said:
            return
        if said != self._expected:
            raise words.TalkEnded("it greets as for another session or channel")
        if not self._room.has_greeted(self):
            raise words.TalkEnded(f"{MOST_READY} are ready already")
        self._loop.establishing.discard(self)
        self._state = _State.READY
        self._talk.say(words.WELCOME)
        keep_alive(self._socket, min(READY_TIMEOUT_S, self._room.worker.options.peer_timeout_s))
        self._room.serve()

    def ask(self, pairing: Pairing) -> None:
        """Tell the other side to begin; `pairing` learns what comes of it.

        Raises
        ------
        TalkEnded
            It is gone.
        """
        self._state = _State.ASKED
        self._room.worker.reverse.answers.add(self)
        try:
            self._talk.say(words.begin(self._room.waiting))
        except words.TalkEnded as error:
            self.lose(str(error))
            raise
        self._pairing = pairing

    def _taken(self) -> None:
        pairing = self._leave("it carries a stream")
        if pairing is not None:
            keep_alive(self._socket, self._room.worker.options.peer_timeout_s)
            pairing.answered(self._socket, self._engine)

    def too_late(self) -> None:
        """Give up."""
        self.lose("no answer in time" if self._state is _State.ASKED else "no greeting in time")

    def lose(self, reason: str) -> None:
        """Close it; whoever has asked it tries another one."""
        if self._state is _State.ENDED:
            return
        pairing = self._leave(reason)
        reset(self._socket)
        if self._engine is not None:
            self._engine.free()
        if pairing is not None:
            pairing.unanswered(reason)

    def abort(self) -> None:
        """Close it after an error here."""
        self.lose("an error here")

    def drop(self) -> None:
        """Close it; nobody is told."""
        self._pairing = None
        self.lose("")

    def _leave(self, reason: str) -> Pairing | None:
        pairing, self._pairing = self._pairing, None
        self._state = _State.ENDED
        if self._handshake is not None:
            self._handshake.abort()
        self._loop.establishing.discard(self)
        self._room.worker.reverse.answers.discard(self)
        self._loop.forget_shared(self._socket.fileno())
        self._room.has_ended(self, reason)
        return pairing


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
