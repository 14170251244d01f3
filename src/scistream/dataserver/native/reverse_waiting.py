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
from typing import TYPE_CHECKING

from scistream.dataserver.base import TlsLeg
from scistream.dataserver.native.reverse_spare import Spare
from scistream.dataserver.native.sockets import EXHAUSTED, is_tuned

if TYPE_CHECKING:
    from scistream.dataserver.native.reverse_pairing import Pairing
    from scistream.dataserver.native.session import Channel

logger = logging.getLogger(__name__)

MOST_GREETING = 1024
"""Connections of a channel in one worker that have not proved yet who they are. One more takes the place of
the oldest that has said nothing; if all talk, of any of them."""
LEAST_GREETING = 128
_GREETING_PART = 64
"""With fewer open files than this allows for, a channel's part of them, down to `LEAST_GREETING`."""
MOST_READY = 256
"""Connections of a channel in one worker that are kept ready; more are refused."""


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

    @property
    def ready(self) -> int:
        """How many connections are kept ready here now."""
        return len(self._ready)

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
