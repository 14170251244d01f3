"""Plain TCP on both legs: the kernel moves the bytes by splice, through a pipe that is borrowed meanwhile.

Nothing is copied into this process. A pipe belongs to a flow only while it holds bytes, so that thousands
of idle connections need none. Out-of-band data (TCP urgent) is not supported, as in every splicing relay.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from scistream.dataserver.native.relay import Flow, Relay
from scistream.dataserver.native.sockets import EXHAUSTED, PIPE_BYTES

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop
    from scistream.dataserver.native.session import Channel

FAIR_SHARE = 16
"""Chunks that one flow may move before the others get their turn."""
MANY_PARKED = 64
SMALL_CHUNK_BYTES = 64 * 1024
"""With many slow receivers a flow parks no more than this, which bounds the memory they hold."""

_NON_BLOCKING = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class SpliceFlow(Flow):
    """One direction of a plain relay."""

    __slots__ = ("_pipe",)

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket) -> None:
        super().__init__(relay, source, sink)
        self._pipe: tuple[int, int] | None = None

    def pump(self) -> bool:
        """Move chunks from source to pipe to sink."""
        pipes = self.relay.loop.pipes
        splice = os.splice
        source, sink = self.source.fileno(), self.sink.fileno()
        pipe = self._pipe
        for _ in range(FAIR_SHARE):
            if pipe is None:
                try:
                    pipe = self._pipe = pipes.borrow()
                except OSError as error:
                    if error.errno not in EXHAUSTED:
                        raise
                    self.relay.loop.starved.add(self)
                    return False
            parked = self.parked
            if not parked:
                try:
                    chunk = PIPE_BYTES if pipes.lent < MANY_PARKED else SMALL_CHUNK_BYTES
                    parked = splice(source, pipe[1], chunk, flags=_NON_BLOCKING)
                except BlockingIOError:
                    self.release()
                    return False
                except OSError:
                    self.release()
                    self.source_failed()
                    return False
                if not parked:
                    self.release()
                    self.source_ended()
                    return False
                self.parked = parked
            # each piece has a byte at least: fewer bytes than slots means that the source is empty
            emptied = parked < pipes.fewest_slots and not self.ending
            while parked:
                try:
                    written = splice(pipe[0], sink, parked, flags=_NON_BLOCKING)
                except BlockingIOError:
                    return False
                except OSError:
                    self.relay.cut(self.back)
                    return False
                parked -= written
                self.parked = parked
                self.moved += written
            if emptied:
                self.release()
                return False
        self.release()
        return True

    def release(self) -> None:
        """Give the pipe back; what it still holds is lost."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        if self.parked:
            self.parked = 0
            self.relay.loop.pipes.discard(pipe)
        else:
            self.relay.loop.pipes.give_back(pipe)


def relay_plain(loop: Loop, channel: Channel, accepted: socket.socket, target: socket.socket) -> None:
    """Relay plain TCP between two connected sockets, which it owns from now on."""
    relay = Relay(loop, channel, accepted, target)
    relay.join(SpliceFlow(relay, accepted, target), SpliceFlow(relay, target, accepted))
