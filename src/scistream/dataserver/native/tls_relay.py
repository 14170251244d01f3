"""One leg TLS, the other plain: both directions through the worker's scratch buffers and the TLS engine.

A connection keeps only what its sink did not take (at most one batch in each direction), and reads nothing
meanwhile. A TLS stream that ends without close_notify was cut, whatever TCP says; unless the peer is known to
end its streams so. Then TCP's end is taken for one if it does not come in the middle of a record.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from scistream.dataserver.native.relay import Flow, Relay
from scistream.dataserver.native.tls import Scratch, TlsEngine

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop
    from scistream.dataserver.native.session import Channel

FAIR_SHARE = 8
"""Batches that one flow may move before the others get their turn."""
SMALL_BYTES = 16 * 1024
"""After a read shorter than this the source is left alone until it announces more."""
_DISCARD_BYTES = 64 * 1024
MOST_DISCARDS = 64
"""Reads of what a peer sends after its end; who goes on and on gets a reset, and keeps nobody waiting."""


class TlsFlow(Flow):
    """What both directions share: the engine, and the rest that the sink did not take."""

    __slots__ = ("_engine", "_finished", "_rest", "_scratch")

    def __init__(
        self,
        relay: Relay,
        source: socket.socket,
        sink: socket.socket,
        engine: TlsEngine,
        scratch: Scratch,
    ) -> None:
        super().__init__(relay, source, sink)
        self._engine = engine
        self._scratch = scratch
        self._rest = memoryview(b"")
        self._finished = False  # the source has nothing more; only the rest is still to be written

    def pump(self) -> bool:
        """Move batches from source to engine to sink."""
        for _ in range(FAIR_SHARE):
            if self.parked and not self._write_rest():
                return False
            if self._finished:
                self.source_ended()
                return False
            try:
                received = self.source.recv_into(self._scratch.input, self.relay.loop.share_bytes)
            except BlockingIOError:
                return False
            except OSError:
                self.source_failed()
                return False
            self.convert(received)
            if self.dead:
                return False
            if received < SMALL_BYTES and not self.parked and not self._finished and not self.ending:
                return False
        return True

    def convert(self, received: int) -> None:
        """Write what becomes of the scratch input's first bytes; 0 means that the source has ended."""
        raise NotImplementedError

    def write(self, length: int) -> None:
        """Write the scratch output's first bytes, and keep what the sink does not take."""
        view = self._scratch.output_view
        try:
            sent = self.sink.send(view[:length])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.relay.cut(self.back)
            return
        if sent < length:
            self._rest = memoryview(bytes(view[sent:length]))
            self.parked = length - sent

    def append(self, data: bytes) -> None:
        """Write `data` after what waits already."""
        self._rest = memoryview(bytes(self._rest) + data)
        self.parked = len(self._rest)

    def _write_rest(self) -> bool:
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
        self._rest = memoryview(b"")
        return True

    def release(self) -> None:
        """Forget the rest."""
        self._rest = memoryview(b"")
        self.parked = 0


class SealFlow(TlsFlow):
    """From the plain leg to the encrypted one."""

    __slots__ = ("_moved_before",)

    def __init__(
        self,
        relay: Relay,
        source: socket.socket,
        sink: socket.socket,
        engine: TlsEngine,
        scratch: Scratch,
    ) -> None:
        super().__init__(relay, source, sink, engine, scratch)
        self._moved_before: int | None = None  # set while the engine holds memory for bulk data

    def convert(self, received: int) -> None:
        """Seal what was received; a complete stream ends with close_notify, a cut one does not."""
        if received:
            sealed = self._engine.seal(received)
            if sealed > SMALL_BYTES and self._moved_before is None:
                self._moved_before = self.moved
                self.relay.loop.bulky.add(self)
            self.moved += received
            self.write(sealed)
            return
        self._finished = True
        if not self.cut:
            self.append(self._engine.end())

    def shrink_if_idle(self) -> None:
        """Free the engine's memory if nothing was sealed for a while; look again later otherwise."""
        if self.dead or self.done:
            return
        if self._moved_before == self.moved:
            self._moved_before = None
            self._engine.shrink()
        else:
            self._moved_before = self.moved
            self.relay.loop.bulky.add(self)


class OpenFlow(TlsFlow):
    """From the encrypted leg to the plain one."""

    __slots__ = ()

    def convert(self, received: int) -> None:
        """Open what was received."""
        engine = self._engine
        if not received:
            self._finished = True
            if engine.records is None or engine.records.inside:
                self._cut_here()
            return
        self.open(received)
        if self.relay.closed:
            return
        answer = engine.pending()
        back = self.back
        if answer and isinstance(back, SealFlow) and not (back.dead or back.done):
            back.append(answer)
            back.run()

    def open(self, received: int) -> None:
        """Open the scratch input's first bytes, and what the engine has kept from the handshake."""
        engine = self._engine
        opened = engine.open(received)
        if opened:
            self.moved += opened
            self.write(opened)
        if engine.peer_has_ended:
            self._finished = True
        elif engine.failure is not None:
            self._finished = True
            self._cut_here()

    def _cut_here(self) -> None:
        """Treat the end of the source as a reset once the rest is written; `pump` goes on to that."""
        if not self.dead and not self.cut:
            self.waiting = True  # cut() would begin another pump inside this one
            self.relay.cut(self)
            self.waiting = False


class TlsRelay(Relay):
    """A relay between a TLS leg, whose handshake is complete, and a plain one.

    Parameters
    ----------
    tls_accepted : bool
        Whether the accepted connection is the encrypted one; else the target's is.
    """

    __slots__ = ("_opening", "engine", "tls_socket")

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        accepted: socket.socket,
        target: socket.socket,
        engine: TlsEngine,
        *,
        tls_accepted: bool,
    ) -> None:
        super().__init__(loop, channel, accepted, target)
        self.engine = engine
        self.tls_socket, plain = (accepted, target) if tls_accepted else (target, accepted)
        scratch = loop.scratch
        seal = SealFlow(self, plain, self.tls_socket, engine, scratch)
        self._opening = OpenFlow(self, self.tls_socket, plain, engine, scratch)
        if tls_accepted:
            self.join(self._opening, seal)
        else:
            self.join(seal, self._opening)

    def run_first(self) -> None:
        """Open what came with the end of the handshake, the peer's first data perhaps."""
        self._opening.open(0)
        if not self.closed:
            self._opening.run()

    def close(self) -> None:
        """Close both connections; unread bytes after the close_notify must not turn that into a reset."""
        if not self.closed:
            with contextlib.suppress(OSError):
                for _ in range(MOST_DISCARDS):
                    if not self.tls_socket.recv(_DISCARD_BYTES):
                        break
        super().close()

    def _leave(self) -> None:
        super()._leave()
        self.engine.free()
