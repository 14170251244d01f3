"""One connection that the other gateway has dialled, from its first word until a stream begins on it.

It proves itself (TLS, and the greeting of this session and channel), is silent while it is ready, and is
asked to begin when an application's connection wants it; see `reverse_words` for what is said.
"""

from __future__ import annotations

import select
import socket
from enum import Enum, auto
from typing import TYPE_CHECKING

from scistream.dataserver.native import reverse_words as words
from scistream.dataserver.native.handshake import Handshake
from scistream.dataserver.native.relay import EVENTS, READABLE
from scistream.dataserver.native.reverse_times import READY_TIMEOUT_S
from scistream.dataserver.native.sockets import keep_alive, reset

if TYPE_CHECKING:
    from scistream.dataserver.native.reverse_pairing import Pairing
    from scistream.dataserver.native.reverse_waiting import WaitingRoom
    from scistream.dataserver.native.tls import TlsEngine


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
            raise words.TalkEnded("as many as may be are ready already")
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
