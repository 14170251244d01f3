"""One leg TLS by the kernel, the other plain: both directions by splice, as `plain` does it.

What differs is how the encrypted leg begins and ends, for which the kernel has messages with a record type
[1]_. What it holds next that is no application data, it tells by an error: splice says EINVAL. Such a record
is fetched by recvmsg: a close_notify is the stream's end, session tickets are of no use here, and everything
else, a KeyUpdate included, is a cut. So is TCP's end without a close_notify, unless the peer is known to end
its streams so, and nothing of another record has come.

References
----------
.. [1] Linux, Documentation/networking/tls.rst, "Sending TLS control messages", "Receiving TLS control
   messages"
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

from scistream.dataserver.native.plain import NON_BLOCKING, SpliceFlow
from scistream.dataserver.native.relay import Relay
from scistream.dataserver.native.sockets import unacknowledged_bytes, unread_bytes
from scistream.dataserver.native.tls import BATCH_BYTES
from scistream.dataserver.native.tls_kernel import SOL_TLS, SentRecords
from scistream.dataserver.native.tls_relay import MOST_DISCARDS

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop
    from scistream.dataserver.native.session import Channel

logger = logging.getLogger(__name__)

_SET_RECORD_TYPE, _GET_RECORD_TYPE = 1, 2  # linux/tls.h
_RECORD_TYPE_SPACE = socket.CMSG_SPACE(1)
_ALERT, _HANDSHAKE, _APPLICATION_DATA = 21, 22, 23
_CLOSE_NOTIFY = bytes((1, 0))  # its level, which nobody looks at, and its number
_NEW_SESSION_TICKET = 4
_MESSAGE_HEADER = struct.Struct(">I")  # a byte of type, three of length
_DISCARD_BYTES = 16 * 1024


class KernelSealFlow(SpliceFlow):
    """From the plain leg to the encrypted one."""

    __slots__ = ("_alerted", "_finished", "_looked", "_sent")

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket) -> None:
        super().__init__(relay, source, sink)
        self._finished = False  # the source has ended; only that is still to be said
        self._alerted = self._looked = False
        self._sent = SentRecords(sink)

    def pump(self) -> bool:
        """Move bytes; or say that the source has ended, if that was not possible at once."""
        if self._finished:
            self.source_ended()
            return False
        return super().pump()

    def source_ended(self) -> None:
        """Pass on the source's end: close_notify, and then FIN."""
        if not self.cut and not self._say_the_end():
            return
        super().source_ended()

    def _say_the_end(self) -> bool:
        """Send the close_notify; return whether it and everything before it is TCP's now."""
        self._finished = True
        if not self._alerted:
            kind = [(SOL_TLS, _SET_RECORD_TYPE, bytes((_ALERT,)))]
            try:
                self.sink.sendmsg([_CLOSE_NOTIFY], kind)
            except BlockingIOError:
                self.parked = len(_CLOSE_NOTIFY)  # so that this flow is called when the sink is writable
                return False
            except OSError:
                self.relay.cut(self.back)
                return False
            self._alerted = True
            self.parked = 0
        # the kernel sends no record after FIN, not even one that it has taken before; at last, when TCP has
        # got rid of everything, it has had the time to
        if self._sent.are_all_with_tcp(self.moved + len(_CLOSE_NOTIFY)) or (
            self._looked and not unacknowledged_bytes(self.sink)
        ):
            return True
        self._looked = True
        self.relay.loop.starved.add(self)
        return False

    def release(self) -> None:
        """Give the pipe back, and forget what waits."""
        super().release()
        self.parked = 0


class KernelOpenFlow(SpliceFlow):
    """From the encrypted leg to the plain one.

    The kernel looks at a record when the one before has been read, and announces it then: as of a plain
    source, epoll tells of whatever a read has left.

    Parameters
    ----------
    omitted : bool
        Whether the peer omits the close_notify at the end of its stream.
    """

    __slots__ = ("_ended", "_failure", "_omitted")

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket, *, omitted: bool) -> None:
        super().__init__(relay, source, sink)
        self._omitted = omitted
        self._ended = False  # in whichever way; nothing is read any more
        self._failure: OSError | None = None  # which is told when there is nothing else

    def receive(self, buffer: memoryview) -> int:
        """Read some bytes of the source; return how many, 0 at its end."""
        self._fail_late()
        while not self._ended:
            try:
                length, ancillary, _, _ = self.source.recvmsg_into([buffer], _RECORD_TYPE_SPACE)
            except BlockingIOError:
                if not self.cut:
                    raise
                break  # the rest of a broken source is no whole record
            except OSError:
                self._ended = True
                raise
            kind = _record_type(ancillary)
            if kind is None:
                self._without_alert()
            elif kind != _APPLICATION_DATA:
                self._control(kind, bytes(buffer[:length]))
            elif length:
                return length
        return 0

    def fill(self, pipe: int, most: int) -> int:
        """Move some bytes of the source into a pipe; return and raise as `receive` does."""
        self._fail_late()
        filled, source = 0, self.source.fileno()
        most = min(most, BATCH_BYTES)
        while filled < most and not self._ended:
            try:
                # a record at a time
                moved = os.splice(source, pipe, most - filled, flags=NON_BLOCKING)
                if not moved:
                    self._without_alert()
            except BlockingIOError:
                if not filled and not self.cut:
                    raise
                break
            except OSError as error:
                try:
                    self._look_into(error)
                except OSError as failure:
                    if not filled:
                        raise
                    self._failure = failure  # what came before is delivered first
            else:
                filled += moved
        return filled

    def _fail_late(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _look_into(self, error: OSError) -> None:
        """Fetch the control record that splice has refused, if that was it; raise whatever else it was."""
        if error.errno != errno.EINVAL:
            self._ended = True
            raise error
        try:
            content, ancillary, _, _ = self.source.recvmsg(_DISCARD_BYTES, _RECORD_TYPE_SPACE)
        except BlockingIOError:
            kind = None  # EINVAL is also what the kernel says, once, if the next bytes are no record
        else:
            kind = _record_type(ancillary)
        if kind is None or kind == _APPLICATION_DATA:
            self._broken("sent what is no TLS record")
        else:
            self._control(kind, content)

    def _control(self, kind: int, content: bytes) -> None:
        if kind == _ALERT and content[1:] == _CLOSE_NOTIFY[1:]:
            self._ended = True
        elif kind == _ALERT:
            self._broken(f"gave up with TLS alert {content[-1:].hex() or 'without a number'}")
        elif kind != _HANDSHAKE or not _are_tickets(content):
            self._broken(f"sent TLS record type {kind} ({content[:1].hex()}), which the kernel cannot serve")

    def _without_alert(self) -> None:
        """TCP has ended, and TLS has not."""
        self._ended = True
        if not self._omitted:
            raise ConnectionResetError(errno.ECONNRESET, "ended without close_notify")
        # since Linux 6.0 the kernel leaves a record with TCP until it is whole, unless memory is short
        if unread_bytes(self.source):
            raise ConnectionResetError(errno.ECONNRESET, "ended in the middle of a record")

    def _broken(self, what: str) -> None:
        self._ended = True
        channel = self.relay.channel
        logger.info("session %s: channel %d: a peer %s: cut", channel.session.uid, channel.index, what)
        raise ConnectionAbortedError(errno.ECONNABORTED, what)


def _record_type(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == SOL_TLS and kind == _GET_RECORD_TYPE:
            return data[0]
    return None


def _are_tickets(content: bytes) -> bool:
    """Return whether a handshake record holds whole NewSessionTicket messages and nothing else."""
    at = 0
    while at + _MESSAGE_HEADER.size <= len(content):
        kind, length = divmod(_MESSAGE_HEADER.unpack_from(content, at)[0], 1 << 24)
        if kind != _NEW_SESSION_TICKET:
            return False
        at += _MESSAGE_HEADER.size + length
    return at == len(content) > 0


class KernelRelay(Relay):
    """A relay between a leg whose TLS is the kernel's and a plain one.

    Parameters
    ----------
    tls_accepted : bool
        Whether the accepted connection is the encrypted one; else the target's is.
    """

    __slots__ = ("_opening", "tls_socket")

    def __init__(
        self,
        loop: Loop,
        channel: Channel,
        accepted: socket.socket,
        target: socket.socket,
        *,
        tls_accepted: bool,
    ) -> None:
        super().__init__(loop, channel, accepted, target)
        self.tls_socket, plain = (accepted, target) if tls_accepted else (target, accepted)
        seal = KernelSealFlow(self, plain, self.tls_socket)
        omitted = channel.session.peer_omits_close_notify
        self._opening = KernelOpenFlow(self, self.tls_socket, plain, omitted=omitted)
        if tls_accepted:
            self.join(self._opening, seal)
        else:
            self.join(seal, self._opening)

    def run_first(self) -> None:
        """Move what the kernel has had since the keys came."""
        self._opening.run()

    def close(self) -> None:
        """Close both connections; unread records after the close_notify must not turn that into a reset."""
        if not self.closed:
            with contextlib.suppress(OSError):
                for _ in range(MOST_DISCARDS):
                    if not any(self.tls_socket.recvmsg(_DISCARD_BYTES, _RECORD_TYPE_SPACE)[:2]):
                        break
        super().close()
