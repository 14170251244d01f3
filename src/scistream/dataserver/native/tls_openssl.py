"""TLS by the OpenSSL inside the cryptography wheel, reached through pyOpenSSL.

Contexts, handshake and verification use pyOpenSSL's public interface. The four functions that every byte
passes (SSL_read, SSL_write, BIO_read, BIO_write) are called directly on its cffi library: the public methods
allocate and copy once more per record. That library is private to pyOpenSSL; this module is the only place
that touches it, and raises AttributeError on import where a name is missing, which makes `tls` fall back.

OpenSSL works on memory BIOs: sockets are read and written in batches by the relay, which costs fewer system
calls than letting OpenSSL read header and body of every record by itself.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

from scistream.dataserver.base import TlsCredentials
from scistream.dataserver.native.tls import CIPHERSUITES, Scratch, TlsContext, TlsEngine, TlsError
from scistream.errors import ConfigurationError

_ssl_read, _ssl_write = _lib.SSL_read, _lib.SSL_write
_bio_read, _bio_write = _lib.BIO_read, _lib.BIO_write
_ssl_get_error, _clear_errors = _lib.SSL_get_error, _lib.ERR_clear_error
_ssl_get_shutdown, _ssl_clear_mode = _lib.SSL_get_shutdown, _lib.SSL_clear_mode
_ssl_set_bio, _bio_new, _bio_s_mem = _lib.SSL_set_bio, _lib.BIO_new, _lib.BIO_s_mem
_PARTIAL_WRITE: int = _lib.SSL_MODE_ENABLE_PARTIAL_WRITE
_WANT_READ: int = _lib.SSL_ERROR_WANT_READ
_ZERO_RETURN: int = _lib.SSL_ERROR_ZERO_RETURN

_PIECE_BYTES = 64 * 1024


class OpensslContext(TlsContext):
    """A pyOpenSSL context for one session."""

    def __init__(self, credentials: TlsCredentials) -> None:
        super().__init__(credentials)
        try:
            certificate = x509.load_pem_x509_certificate(credentials.certificate_pem)
            peer = x509.load_pem_x509_certificate(credentials.peer_certificate_pem)
            key: Any = load_pem_private_key(credentials.private_key_pem, password=None)
            context = SSL.Context(SSL.TLS_METHOD)
            context.use_certificate(certificate)
            context.use_privatekey(key)
            context.check_privatekey()
            store = context.get_cert_store()
            if store is not None:
                store.add_cert(crypto.X509.from_cryptography(peer))
        except (ValueError, TypeError, UnsupportedAlgorithm, SSL.Error, crypto.Error) as error:
            # without "from": a parser's error may quote the key
            raise ConfigurationError(
                f"the session's certificate or key cannot be used ({type(error).__name__})"
            ) from None
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(CIPHERSUITES.encode())
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _openssl_is_right)
        self._context = context
        self._server = credentials.is_server
        self._pinned = peer.public_bytes(Encoding.DER)

    def new_engine(self, scratch: Scratch) -> TlsEngine:
        """Return an engine that has not begun."""
        return OpensslEngine(self._context, self._pinned, scratch, server=self._server)


def _openssl_is_right(
    _connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, verified: int
) -> bool:
    return bool(verified)


class OpensslEngine(TlsEngine):
    """One connection's SSL object between two memory BIOs."""

    def __init__(self, context: SSL.Context, pinned: bytes, scratch: Scratch, *, server: bool) -> None:
        self._connection = SSL.Connection(context, None)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._pinned = pinned
        self._ssl: Any = self._connection._ssl  # noqa: SLF001 - see the module's docstring
        _ssl_clear_mode(self._ssl, _PARTIAL_WRITE)  # one call writes all records of a batch
        # our own pair: pyOpenSSL's have no name that could be used
        self._incoming: Any = _bio_new(_bio_s_mem())
        self._outgoing: Any = _bio_new(_bio_s_mem())
        _lib.BIO_set_mem_eof_return(self._incoming, -1)
        _ssl_set_bio(self._ssl, self._incoming, self._outgoing)
        self._input_view = scratch.input_view
        self._input: Any = _ffi.from_buffer(scratch.input)
        self._output: Any = _ffi.from_buffer(scratch.output)
        self._output_bytes = len(scratch.output)

    def handshake(self, received: bytes) -> tuple[bool, bytes]:
        """Take what came; return whether the handshake is complete, and what to send."""
        if received:
            self._follow(received)
            _bio_write(self._incoming, received, len(received))
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False, self.pending()
        except SSL.Error as error:
            raise TlsError(f"TLS handshake failed: {_reason(error)}") from error
        presented = self._connection.get_peer_certificate(as_cryptography=True)
        if presented is None or presented.public_bytes(Encoding.DER) != self._pinned:
            raise TlsError("the peer presented a certificate that is not this session's")
        return True, self.pending()

    def seal(self, length: int) -> int:
        """Encrypt ``scratch.input[:length]`` into ``scratch.output``; return the number of bytes there."""
        _clear_errors()
        done = sealed = 0
        while done < length:
            piece = min(length - done, _PIECE_BYTES)
            if _ssl_write(self._ssl, self._input + done, piece) != piece:
                raise TlsError(f"OpenSSL did not seal {piece} bytes")
            done += piece
            sealed += _bio_read(self._outgoing, self._output + sealed, self._output_bytes - sealed)
        return sealed

    def open(self, length: int) -> int:
        """Decrypt ``scratch.input[:length]`` into ``scratch.output``; return the number of bytes there."""
        _clear_errors()
        ssl, output, room = self._ssl, self._output, self._output_bytes
        if length:
            if self.records is not None:
                self.records.follow(self._input_view[:length])
            # a BIO that reads the scratch buffer itself; the former one was read to its end
            incoming = _lib.BIO_new_mem_buf(self._input, length)
            _lib.BIO_set_mem_eof_return(incoming, -1)
            _ssl_set_bio(ssl, incoming, self._outgoing)
        opened = 0
        while (count := _ssl_read(ssl, output + opened, room - opened)) > 0:
            opened += count
        self._note_end(count)
        return opened

    def preface(self, received: bytes, length: int) -> bytes:
        """Decrypt at most the next `length` bytes, of which `received` may be a part; keep what follows."""
        _clear_errors()
        if received:
            self._follow(received)
            _bio_write(self._incoming, received, len(received))
        opened = b""
        while len(opened) < length:
            count = _ssl_read(self._ssl, self._output, length - len(opened))
            if count <= 0:
                self._note_end(count)
                break
            opened += bytes(_ffi.buffer(self._output, count))
        return opened

    def _follow(self, received: bytes) -> None:
        if self.records is not None:
            self.records.follow(received)

    def _note_end(self, count: int) -> None:
        """Note why SSL_read has returned `count`, which is not above 0."""
        error = _ssl_get_error(self._ssl, count)
        if error == _ZERO_RETURN:
            self.peer_has_ended = True
        elif error != _WANT_READ:
            self.failure = f"the peer's records cannot be opened (SSL error {error})"

    def pending(self) -> bytes:
        """Return what TLS itself has to say (alerts, key updates); mostly nothing."""
        sent = b""
        while (count := _bio_read(self._outgoing, self._output, self._output_bytes)) > 0:
            sent += bytes(_ffi.buffer(self._output, count))
        return sent

    def end(self) -> bytes:
        """Return the close_notify; nothing may be sealed afterwards, opening goes on."""
        _clear_errors()
        _lib.SSL_shutdown(self._ssl)
        return self.pending()

    def shrink(self) -> None:
        """Begin with a small BIO for output; it is empty, and had grown with the largest piece."""
        incoming = _lib.BIO_new_mem_buf(self._input, 0)
        _lib.BIO_set_mem_eof_return(incoming, -1)
        self._outgoing = _bio_new(_bio_s_mem())
        _ssl_set_bio(self._ssl, incoming, self._outgoing)

    def free(self) -> None:
        """Free the SSL object, and with it both BIOs; nothing may be called any more."""
        del self._connection, self._ssl, self._incoming, self._outgoing


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's words for it, which say nothing of keys."""
    texts = [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(text for text in texts if text) or type(error).__name__
