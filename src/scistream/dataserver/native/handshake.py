"""TLS handshakes on connected sockets, within a limited time."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from scistream.dataserver.native.relay import EVENTS, READABLE
from scistream.dataserver.native.tls import TlsEngine, TlsError

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop, Owner


class Handshake:
    """Bring a TLS handshake to its end on a connected socket, which stays its owner's."""

    def __init__(
        self,
        loop: Loop,
        owner: Owner,
        sock: socket.socket,
        engine: TlsEngine,
        proved: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self.owner = owner
        self._socket = sock
        self._engine = engine
        self._proved = proved
        self._failed = failed
        self._unsent = b""
        self._complete = False
        self._ended = False

    def begin(self) -> None:
        """Send the first message, or wait for it."""
        self._loop.establishing.add(self)
        self._loop.watch(self._socket.fileno(), EVENTS, self._on_events, self.owner)
        self._advance(b"")

    def _on_events(self, events: int) -> None:
        if self._ended:
            return  # what comes now is reported again to whoever watches next
        if self._unsent and not self._send():
            return
        if events & READABLE:
            while not self._ended and not self._complete:
                try:
                    received = self._socket.recv(self._engine.handshake_bytes)
                except BlockingIOError:
                    return
                except OSError as error:
                    self._fail(str(error.strerror))
                    return
                if not received:
                    self._fail("closed during the TLS handshake")
                    return
                self._advance(received)

    def _advance(self, received: bytes) -> None:
        try:
            self._complete, answer = self._engine.handshake(received)
        except TlsError as error:
            # the alert tells the peer why; it is not waited for
            with contextlib.suppress(OSError):
                self._socket.send(self._engine.pending())
            self._fail(str(error))
            return
        self._unsent += answer
        self._send()

    def _send(self) -> bool:
        """Write what waits; return False if the handshake cannot go on now."""
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError as error:
                self._fail(str(error.strerror))
                return False
            self._unsent = self._unsent[sent:]
            if self._unsent:
                return False
        if self._complete and not self._ended:
            self._leave()
            self._proved()
            return False
        return True

    def _leave(self) -> None:
        self._ended = True
        self._loop.establishing.discard(self)

    def _fail(self, reason: str) -> None:
        if not self._ended:
            self._leave()
            self._failed(reason)

    def too_late(self) -> None:
        """Give up."""
        self._fail("no TLS handshake in time")

    def abort(self) -> None:
        """Stop; nobody is called."""
        if not self._ended:
            self._leave()
