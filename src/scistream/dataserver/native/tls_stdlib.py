"""TLS by the standard library's ssl module: the engine that always works, at some more CPU per byte.

The module wants files for certificate and key; it gets an anonymous memory file, so that the key never
touches a disk.
"""

from __future__ import annotations

import contextlib
import os
import ssl

from scistream.dataserver.base import TlsCredentials
from scistream.dataserver.native.tls import Scratch, TlsContext, TlsEngine, TlsError
from scistream.errors import ConfigurationError


class StdlibContext(TlsContext):
    """An ssl.SSLContext for one session."""

    def __init__(self, credentials: TlsCredentials) -> None:
        super().__init__(credentials)
        self._server = credentials.is_server
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate is pinned, its names do not matter
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self._server:
            context.num_tickets = 0
        try:
            peer = credentials.peer_certificate_pem.decode("ascii")
            self._pinned = ssl.PEM_cert_to_DER_cert(peer)
            context.load_verify_locations(cadata=peer)
            _load_key(context, credentials)
        except (ValueError, ssl.SSLError) as error:
            # without "from": the causes may quote the key
            raise ConfigurationError(
                f"the session's certificate or key cannot be used ({type(error).__name__})"
            ) from None
        self._context = context

    def new_engine(self, scratch: Scratch) -> TlsEngine:
        """Return an engine that has not begun."""
        return StdlibEngine(self._context, self._pinned, scratch, server=self._server)


def _load_key(context: ssl.SSLContext, credentials: TlsCredentials) -> None:
    descriptor = os.memfd_create("session-key", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(credentials.private_key_pem + b"\n" + credentials.certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class StdlibEngine(TlsEngine):
    """One connection's SSLObject between two memory BIOs."""

    def __init__(self, context: ssl.SSLContext, pinned: bytes, scratch: Scratch, *, server: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._pinned = pinned
        self._input, self._output = scratch.input_view, scratch.output_view

    def handshake(self, received: bytes) -> tuple[bool, bytes]:
        """Take what came; return whether the handshake is complete, and what to send."""
        self._take(received)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False, self.pending()
        except ssl.SSLError as error:
            raise TlsError(f"TLS handshake failed: {error.reason or type(error).__name__}") from error
        if self._object.getpeercert(binary_form=True) != self._pinned:
            raise TlsError("the peer presented a certificate that is not this session's")
        return True, self.pending()

    def seal(self, length: int) -> int:
        """Encrypt ``scratch.input[:length]`` into ``scratch.output``; return the number of bytes there."""
        try:
            # all records in one call: a memory BIO takes everything
            self._object.write(self._input[:length])
        except ssl.SSLError as error:
            raise TlsError(f"sealing failed: {error.reason}") from error
        sealed = self._outgoing.read()
        self._output[: len(sealed)] = sealed
        return len(sealed)

    def open(self, length: int) -> int:
        """Decrypt ``scratch.input[:length]`` into ``scratch.output``; return the number of bytes there."""
        if length:
            self._take(self._input[:length])
        output, opened, room = self._output, 0, len(self._output)
        try:
            while count := self._object.read(room - opened, output[opened:]):
                opened += int(count)
            self.peer_has_ended = True
        except ssl.SSLError as error:
            self._note_end(error)
        return opened

    def preface(self, received: bytes, length: int) -> bytes:
        """Decrypt at most the next `length` bytes, of which `received` may be a part; keep what follows."""
        self._take(received)
        opened = b""
        try:
            while len(opened) < length and (part := self._object.read(length - len(opened))):
                opened += part
            self.peer_has_ended = len(opened) < length
        except ssl.SSLError as error:
            self._note_end(error)
        return opened

    def _take(self, received: bytes | memoryview) -> None:
        if self.records is not None:
            self.records.follow(received)
        self._incoming.write(received)

    def _note_end(self, error: ssl.SSLError) -> None:
        """Note why nothing more can be read, if that is more than that nothing is there."""
        if isinstance(error, ssl.SSLZeroReturnError):
            self.peer_has_ended = True
        elif not isinstance(error, ssl.SSLWantReadError):
            self.failure = f"the peer's records cannot be opened: {error.reason}"

    def pending(self) -> bytes:
        """Return what TLS itself has to say (alerts, key updates); mostly nothing."""
        return self._outgoing.read()

    def end(self) -> bytes:
        """Return the close_notify; nothing may be sealed afterwards, opening goes on."""
        # it wants the peer's close_notify next, which is not awaited here
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()
        return self.pending()

    def free(self) -> None:
        """Free the SSL object and both BIOs; nothing may be called any more."""
        del self._object, self._incoming, self._outgoing
