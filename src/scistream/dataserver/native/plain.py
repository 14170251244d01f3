"""Plain TCP on both legs: the kernel moves the bytes by splice, through a pipe that is borrowed meanwhile.

Bulk data are never copied into this process. A pipe belongs to a flow only while it holds bytes, so that
thousands of idle connections need none. Small messages are copied instead, which costs less than a pipe and
two splices. Out-of-band data (TCP urgent) are not supported, as in every splicing relay.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from scistream.dataserver.native.relay import Flow, Relay
from scistream.dataserver.native.sockets import COPIED_BYTES, EXHAUSTED, PIPE_BYTES

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop
    from scistream.dataserver.native.session import Channel

FAIR_SHARE = 16
"""Chunks that one flow may move before the others get their turn."""
MANY_PARKED = 64
"""With more slow receivers a flow parks no more than its share, which bounds the memory they hold."""

_NOTHING = memoryview(b"")
NON_BLOCKING = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class SpliceFlow(Flow):
    """One direction of a plain relay."""

    __slots__ = ("_bulk", "_pipe", "_rest")

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket) -> None:
        super().__init__(relay, source, sink)
        # parked bytes are in one of these two
        self._pipe: tuple[int, int] | None = None
        self._rest = _NOTHING
        self._bulk = False

    def pump(self) -> bool:
        """Copy a little, or splice a lot, from source to sink."""
        if self._rest and not self._write_rest():
            return False
        if not (self._bulk or self.parked) and not self._copy():
            return False
        return self._splice()

    def _copy(self) -> bool:
        """Copy a message that fits the buffer; return whether there may be more."""
        small = self.relay.loop.small
        try:
            received = self.receive(small)
        except BlockingIOError:
            return False
        except OSError:
            self.source_failed()
            return False
        if not received:
            self.source_ended()
            return False
        try:
            sent = self.sink.send(small[:received])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.relay.cut(self.back)
            return False
        self.moved += sent
        if sent < received:
            self._rest = memoryview(bytes(small[sent:received]))
            self.parked = received - sent
            return self._write_rest()
        if received == COPIED_BYTES:
            self._bulk = True
            return True
        # a short read emptied the source; only its end may be there already
        return self.ending

    def receive(self, buffer: memoryview) -> int:
        """Read some bytes of the source; return how many, 0 at its end.

        Raises
        ------
        BlockingIOError
            There is nothing now.
        OSError
            The source is broken, and holds nothing more.
        """
        return self.source.recv_into(buffer)

    def fill(self, pipe: int, most: int) -> int:
        """Move some bytes of the source into a pipe; return and raise as `receive` does."""
        return os.splice(self.source.fileno(), pipe, most, flags=NON_BLOCKING)

    def _write_rest(self) -> bool:
        """Write what is left of a copied message; return whether that is done."""
        while self.parked:
            try:
                sent = self.sink.send(self._rest)
            except BlockingIOError:
                return False
            except OSError:
                self.relay.cut(self.back)
                return False
            self._rest = self._rest[sent:]
            self.parked -= sent
            self.moved += sent
        self._rest = _NOTHING
        return True

    def _splice(self) -> bool:
        """Move chunks from source to pipe to sink."""
        pipes = self.relay.loop.pipes
        splice = os.splice
        sink = self.sink.fileno()
        pipe = self._pipe
        moved_before = self.moved
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
                    chunk = PIPE_BYTES if pipes.lent < MANY_PARKED else self.relay.loop.share_bytes
                    parked = self.fill(pipe[1], chunk)
                except BlockingIOError:
                    self.release()
                    self._bulk = self.moved - moved_before > COPIED_BYTES
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
            while parked:
                try:
                    written = splice(pipe[0], sink, parked, flags=NON_BLOCKING)
                except BlockingIOError:
                    return False
                except OSError:
                    self.relay.cut(self.back)
                    return False
                parked -= written
                self.parked = parked
                self.moved += written
        self.release()
        return True

    def release(self) -> None:
        """Give the pipe back; what is still parked is lost."""
        if self._rest:
            self._rest = _NOTHING
            self.parked = 0
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        if self.parked:
            self.parked = 0
            self.relay.loop.pipes.discard(pipe)
        else:
            self.relay.loop.pipes.give_back(pipe)


def plain_relay(loop: Loop, channel: Channel, accepted: socket.socket, target: socket.socket) -> Relay:
    """Return a relay of plain TCP between two connected sockets."""
    relay = Relay(loop, channel, accepted, target)
    relay.join(SpliceFlow(relay, accepted, target), SpliceFlow(relay, target, accepted))
    return relay
