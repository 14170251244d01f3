"""The producer's side of reverse channels: connections to the other gateway, dialled and kept ready.

Each waits for the word to begin; then it is like one that the other gateway had dialled, and another one is
dialled in its place. The word says how many connections wait there still: so many more are dialled, within
limits, and what is ready beyond the usual number is given up when it was not needed for a while.

While the other gateway cannot be reached, one attempt at a time is made, less and less often. The times are
drawn by lot, so that the sessions of a gateway do not all come at once when the other one is back.
"""

from __future__ import annotations

import logging
import math
import socket
from enum import Enum, auto
from typing import TYPE_CHECKING

from scistream.dataserver.native import reverse_words as words
from scistream.dataserver.native.establish import Dial
from scistream.dataserver.native.handshake import Handshake
from scistream.dataserver.native.relay import EVENTS
from scistream.dataserver.native.reverse_times import READY_TIMEOUT_S
from scistream.dataserver.native.sockets import keep_alive, reset

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Deadlines
    from scistream.dataserver.native.session import Address, Channel
    from scistream.dataserver.native.tls import TlsEngine

logger = logging.getLogger(__name__)

LEAST_READY = 4
"""Connections of a channel that all workers together keep ready."""
LEAST_READY_PER_WORKER = 2
"""Of all channels of a session together, so that one channel can use all cores."""
MOST_READY = 64
"""Of a channel, in one worker."""
MOST_DIALLING = 32
"""Of a channel, at once, in one worker."""


def usual_number(channel: int, channels: int, worker: int, workers: int) -> int:
    """Return how many connections of a channel one of the workers keeps ready.

    >>> [usual_number(0, 1, worker, 2) for worker in range(2)]
    [2, 2]
    >>> [usual_number(3, 5, worker, 3) for worker in range(3)]
    [2, 1, 1]
    """
    in_all = max(LEAST_READY, math.ceil(LEAST_READY_PER_WORKER * workers / channels))
    # beginning with another worker for each channel
    return len(range((worker - channel) % workers, in_all, workers))


class Dialler:
    """One channel's connections to the other gateway, in one worker.

    Parameters
    ----------
    usual : int
        How many are kept ready.
    """

    def __init__(self, channel: Channel, usual: int) -> None:
        self.owner = self
        self.channel = channel
        self.session = channel.session
        self.worker = channel.session.worker
        self.addresses: tuple[Address, ...] = ()
        self._usual = self._wanted = usual
        self._dialling: dict[Line, None] = {}
        self._ready: dict[Line, None] = {}
        self._failures = 0
        self._pausing = True
        self._waiting: Deadlines[Dialler] | None = None

    @property
    def ready(self) -> int:
        """How many connections are kept ready now."""
        return len(self._ready)

    # --- dialling ----------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Begin or go on keeping connections ready."""
        self._pausing = False
        self._fill()

    def pause(self) -> None:
        """Dial no more."""
        self._pausing = True

    def try_again(self) -> None:
        """Dial after a failure."""
        self._waiting = None
        self._fill()

    def _fill(self) -> None:
        while not self._pausing and self._waiting is None and self._missing() > 0:
            if not self.worker.has_room():
                self.worker.pause_accepting()
                return
            line = Line(self)
            self._dialling[line] = None
            self.worker.spare_begins()
            line.begin()

    def _missing(self) -> int:
        at_once = 1 if self._failures else MOST_DIALLING
        missing = self._wanted - len(self._ready) - len(self._dialling)
        return min(missing, at_once - len(self._dialling))

    # --- what lines report -------------------------------------------------------------------------------

    def is_ready(self, line: Line) -> None:
        """Keep a connection that the other gateway has welcomed."""
        del self._dialling[line]
        self._ready[line] = None
        self._failures = 0
        self.session.tell_reached()
        self._fill()

    def begins(self, line: Line, waiting: int) -> None:
        """Dial another one in the place of one that becomes a stream, and more if there is need."""
        self._forget(line)
        if waiting:
            self._wanted = max(self._wanted, min(self._usual + waiting, MOST_READY))
            self.worker.reverse.surplus.add(self)
        self._fill()

    def has_failed(self, line: Line, reason: str) -> None:
        """Dial again, but not at once."""
        was_ready = line in self._ready
        self._forget(line)
        if was_ready:
            logger.debug("session %s: a connection that was ready is gone: %s", self.session.uid, reason)
        else:
            self._failures += 1
            self.session.tell_unreachable(self.channel, reason)
        if self._waiting is None:
            self._waiting = self.worker.reverse.retry_after(self._failures)
            self._waiting.add(self)

    def _forget(self, line: Line) -> None:
        self._dialling.pop(line, None)
        self._ready.pop(line, None)
        self.worker.spare_ends()

    # --- fewer again -------------------------------------------------------------------------------------

    def shrink(self) -> None:
        """Give up what is ready beyond the usual number, the youngest first."""
        self._wanted = self._usual
        for line in list(self._ready)[self._usual :]:
            self._forget(line)
            line.drop()

    def renew(self) -> None:
        """Dial anew, with the addresses and credentials of now."""
        for line in (*self._dialling, *self._ready):
            self._forget(line)
            line.drop()
        self._failures = 0
        self._stop_waiting()
        self._fill()

    def abort(self) -> None:
        """Dial anew, after an error here."""
        self.renew()

    def close(self) -> None:
        """Give everything up."""
        self.pause()
        self.renew()
        self.worker.reverse.surplus.discard(self)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.discard(self)
            self._waiting = None


class _State(Enum):
    DIALLING = auto()
    GREETED = auto()
    READY = auto()
    ENDED = auto()


class Line:
    """One connection to the other gateway, until a stream begins on it."""

    def __init__(self, dialler: Dialler) -> None:
        self.owner = self
        self._dialler = dialler
        self._loop = dialler.worker.loop
        self._state = _State.DIALLING
        self._step: Dial | Handshake | None = None
        self._socket: socket.socket | None = None
        self._engine: TlsEngine | None = None
        self._talk: words.Talk | None = None

    def begin(self) -> None:
        """Dial."""
        self._step = Dial(
            self._loop,
            self,
            self._dialler.addresses,
            self._dialler.session.peer_socket,
            wanted=lambda: True,
            connected=self._connected,
            failed=self._fail,
            tries_again=False,
        )
        self._step.begin()

    def _connected(self, sock: socket.socket) -> None:
        self._socket = sock
        session = self._dialler.session
        if session.tls is None:
            self._proved()
            return
        self._engine = session.tls.engine(self._loop.scratch)
        self._step = Handshake(self._loop, self, sock, self._engine, self._proved, self._fail)
        self._step.begin()

    def _proved(self) -> None:
        if self._socket is None:
            return
        self._talk = words.Talk(self._loop, self._socket, self._engine)
        self._state = _State.GREETED
        self._loop.establishing.add(self)
        try:
            self._talk.say(words.greeting(self._dialler.session.uid, self._dialler.channel.index))
        except words.TalkEnded as error:
            self._fail(str(error))
            return
        self._loop.watch(self._socket.fileno(), EVENTS, self._on_events, self)

    def _on_events(self, _events: int) -> None:
        try:
            if self._state is _State.GREETED:
                self._listen_to_welcome()
            if self._state is _State.READY:
                self._listen_to_begin()
        except words.TalkEnded as error:
            self._fail(str(error))

    def _listen_to_welcome(self) -> None:
        if self._talk is None or self._socket is None or not (said := self._talk.hear(len(words.WELCOME))):
            return
        if said != words.WELCOME:
            raise words.TalkEnded("it answers something else than a welcome")
        self._loop.establishing.discard(self)
        self._state = _State.READY
        keep_alive(self._socket, min(READY_TIMEOUT_S, self._dialler.worker.options.peer_timeout_s))
        self._dialler.is_ready(self)

    def _listen_to_begin(self) -> None:
        if self._talk is None or self._socket is None or not (said := self._talk.hear(words.BEGIN_BYTES)):
            return
        waiting = words.waiting_in(said)
        self._talk.say(words.TAKEN)
        self._state = _State.ENDED
        self._loop.forget_shared(self._socket.fileno())
        keep_alive(self._socket, self._dialler.worker.options.peer_timeout_s)
        self._dialler.channel.begin_dialled(self._socket, self._engine)
        self._dialler.begins(self, waiting)

    def too_late(self) -> None:
        """Give up."""
        self._fail("no welcome in time")

    def _fail(self, reason: str) -> None:
        if self._state is not _State.ENDED:
            self.drop()
            self._dialler.has_failed(self, reason)

    def abort(self) -> None:
        """Close it after an error here."""
        self._fail("an error here")

    def drop(self) -> None:
        """Close it; nobody is told."""
        self._state = _State.ENDED
        if self._step is not None:
            self._step.abort()
        self._loop.establishing.discard(self)
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            reset(self._socket)
        if self._engine is not None:
            self._engine.free()
