"""A TLS peer of the test's own, which says what it likes when it likes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from dataclasses import dataclass, field
from typing import Any

from support.relays import Identity, connect, receive_all


def tls_context(own: Identity | None, peer: Identity | None, *, server: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if peer is None else ssl.CERT_REQUIRED
    if peer is not None:
        context.load_verify_locations(cadata=peer.certificate.decode())
    if own is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(own.key + own.certificate)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def stranger_talks(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """Try to get bytes through, in TLS or plain; return when the gateway has closed."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(connect(listener))
        stack.enter_context(contextlib.suppress(ssl.SSLError, ConnectionError))
        sock = raw if context is None else stack.enter_context(context.wrap_socket(raw))
        # TLS 1.3 lets a client write before the server has judged its certificate
        sock.sendall(b"let me in")
        assert receive_all(sock) in {b"", b"\x15\x03\x03\x00\x02\x02\x16"}, "only an alert may come back"


@dataclass
class Peer:
    """A TLS client of the test's own that holds the consumer's key."""

    raw: socket.socket
    incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    tls: Any = None
    opened: bytearray = field(default_factory=bytearray)

    def say_hello(self, context: ssl.SSLContext) -> None:
        """Send the first message of the handshake."""
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.raw.sendall(self.outgoing.read())

    def handshake(self, context: ssl.SSLContext, *, last_words: bytes = b"") -> None:
        """Shake hands; `last_words` go out in the same packet as the end of the handshake."""
        if self.tls is None:
            self.say_hello(context)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.raw.sendall(self.outgoing.read())
                self.incoming.write(self.raw.recv(1 << 16))
        if last_words:
            self.tls.write(last_words)
        self.raw.sendall(self.outgoing.read())

    def receive(self) -> None:
        """Take what comes next into `opened`."""
        received = self.raw.recv(1 << 16)
        assert received, "the stream has ended"
        self.incoming.write(received)
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.tls.read(1 << 16):
                self.opened += data
