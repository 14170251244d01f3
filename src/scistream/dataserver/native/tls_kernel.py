"""TLS records by the kernel (kTLS): handshake and identities by OpenSSL, then every byte by the kernel.

The handshake is `tls_openssl`'s, with the same rules. It is fed whole records and nothing behind its last
one, so that what the peer sends next is still in the socket when the kernel takes over, with sequence number
0. The application's traffic secrets come from OpenSSL's key log [1]_, key and IV from them by
HKDF-Expand-Label [2]_, and the kernel gets them by setsockopt [3]_. That works with any build of OpenSSL: the
one in the cryptography wheel has no kTLS, and OpenSSL 3.0 none for receiving TLS 1.3. The secrets stay in
memory, and are forgotten when the kernel has the keys.

What it does not do: rekeying. A peer's KeyUpdate cuts the stream (`kernel_relay`); none of our data servers
sends one.

References
----------
.. [1] RFC 9850, "The SSLKEYLOGFILE Format for TLS"
.. [2] RFC 8446, "TLS 1.3", sections 7.1, 7.3 and 5.3
.. [3] Linux, Documentation/networking/tls.rst, include/uapi/linux/tls.h
"""

from __future__ import annotations

import logging
import socket
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

from scistream.dataserver.base import TlsCredentials
from scistream.dataserver.native.tcp_info import written_bytes
from scistream.dataserver.native.tls import Scratch, TlsEngine, TlsError
from scistream.dataserver.native.tls_openssl import OpensslContext, OpensslEngine

logger = logging.getLogger(__name__)

SOL_TLS = 282
TLS_TX, TLS_RX = 1, 2
TCP_ULP = 31
_TLS_1_3 = 0x0304
_HEAD = struct.Struct("=HH")  # struct tls_crypto_info: version, cipher type
_SEQUENCE = struct.Struct(">Q")
_HEADER_BYTES = 5
_OVERHEAD_BYTES = _HEADER_BYTES + 1 + 16
"""Of each record: its header, its type, and the tag, which all three suites have of this length."""
_LARGEST_RECORD_BYTES = 16384 + 256  # RFC 8446, 5.2
_RECORD_TYPES = range(20, 24)

_LABELS = {"CLIENT_TRAFFIC_SECRET_0": "client", "SERVER_TRAFFIC_SECRET_0": "server"}


class Cipher(NamedTuple):
    """A cipher suite as linux/tls.h and RFC 8446 see it.

    Parameters
    ----------
    number : int
        The kernel's cipher type.
    key_bytes, salt_bytes, iv_bytes : int
        The kernel calls the first bytes of the 12-byte IV salt, and the others IV.
    algorithm : type
        The suite's hash.
    """

    number: int
    key_bytes: int
    salt_bytes: int
    iv_bytes: int
    algorithm: type[hashes.HashAlgorithm]


CIPHERS = {
    "TLS_AES_128_GCM_SHA256": Cipher(51, 16, 4, 8, hashes.SHA256),
    "TLS_AES_256_GCM_SHA384": Cipher(52, 32, 4, 8, hashes.SHA384),
    "TLS_CHACHA20_POLY1305_SHA256": Cipher(54, 32, 0, 12, hashes.SHA256),
}


class KernelContext(OpensslContext):
    """A pyOpenSSL context whose connections keep their traffic secrets until the kernel has the keys."""

    def __init__(self, credentials: TlsCredentials) -> None:
        super().__init__(credentials)
        self._context.set_keylog_callback(_keep_secret)

    def new_engine(self, scratch: Scratch) -> TlsEngine:
        """Return an engine that has not begun."""
        return KernelEngine(self._context, self._pinned, scratch, server=self._server)


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    label, _, secret = line.decode("ascii").split(" ")
    if label in _LABELS:
        connection.get_app_data()[_LABELS[label]] = bytes.fromhex(secret)


class KernelEngine(OpensslEngine):
    """An OpenSSL engine that the kernel can relieve after the handshake."""

    def __init__(self, context: SSL.Context, pinned: bytes, scratch: Scratch, *, server: bool) -> None:
        super().__init__(context, pinned, scratch, server=server)
        self._server = server
        self._secrets: dict[str, bytes] = {}
        self._connection.set_app_data(self._secrets)
        self._record = b""
        self._records_sent = 0
        self.handshake_bytes = _HEADER_BYTES

    def handshake(self, received: bytes) -> tuple[bool, bytes]:
        """Take what came; see `TlsEngine`.

        Raises
        ------
        ValueError
            That is more than `handshake_bytes`: the kernel would miss what is behind the handshake.
        """
        if len(received) > self.handshake_bytes:
            raise ValueError(f"{len(received)} bytes of a handshake were read, not {self.handshake_bytes}")
        record = self._record + received
        if record:
            missing = _HEADER_BYTES - len(record)
            if missing <= 0:
                missing += int.from_bytes(record[3:_HEADER_BYTES])
                if record[0] not in _RECORD_TYPES or missing > _LARGEST_RECORD_BYTES:
                    missing = 0  # no record at all: OpenSSL says so
            if missing > 0:
                self._record, self.handshake_bytes = record, missing
                return False, b""
        self._record, self.handshake_bytes = b"", _HEADER_BYTES
        complete, answer = super().handshake(record)
        if complete and self._server:
            # after the client's last message a server has nothing to say but session tickets, which are the
            # first records under the application's keys
            self._records_sent = _count_records(answer)
        return complete, answer

    def hand_over(self, sock: socket.socket) -> bool:
        """Let the kernel seal and open what passes `sock` from now on; return False if it cannot.

        Raises
        ------
        TlsError
            It took one direction only: the connection cannot be used.
        """
        secrets = dict(self._secrets)
        self._secrets.clear()
        name = self._connection.get_cipher_name() or ""
        cipher = CIPHERS.get(name)
        if cipher is None or len(secrets) != len(_LABELS):
            _tell_once(f"the cipher suite {name} is not the kernel's")
            return False
        own, peer = ("server", "client") if self._server else ("client", "server")
        receiving = crypto_info(cipher, *traffic_keys(cipher, secrets[peer]))
        sending = crypto_info(cipher, *traffic_keys(cipher, secrets[own]), self._records_sent)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            sock.setsockopt(SOL_TLS, TLS_RX, receiving)
        except OSError as error:
            _tell_once(str(error.strerror))
            return False
        try:
            sock.setsockopt(SOL_TLS, TLS_TX, sending)
        except OSError as error:
            raise TlsError(
                f"the kernel opens TLS records but does not seal them: {error.strerror}"
            ) from error
        return True


_told: set[str] = set()


def _tell_once(reason: str) -> None:
    if reason not in _told:
        _told.add(reason)
        logger.info("a connection's TLS stays in user space, as others may for this reason: %s", reason)


def _count_records(sent: bytes) -> int:
    count = at = 0
    while at < len(sent):
        at += _HEADER_BYTES + int.from_bytes(sent[at + 3 : at + _HEADER_BYTES])
        count += 1
    return count


def traffic_keys(cipher: Cipher, secret: bytes) -> tuple[bytes, bytes]:
    """Return (key, 12-byte IV) of one direction from its traffic secret (RFC 8446, 7.3)."""
    iv_bytes = cipher.salt_bytes + cipher.iv_bytes
    return (
        _expand_label(cipher, secret, b"key", cipher.key_bytes),
        _expand_label(cipher, secret, b"iv", iv_bytes),
    )


def _expand_label(cipher: Cipher, secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446, 7.1)."""
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + b"\0"
    return HKDFExpand(algorithm=cipher.algorithm(), length=length, info=info).derive(secret)


def crypto_info(cipher: Cipher, key: bytes, iv: bytes, sequence: int = 0) -> bytes:
    """Return the struct tls12_crypto_info_... of one direction whose next record has this number."""
    salt, rest = iv[: cipher.salt_bytes], iv[cipher.salt_bytes :]
    return _HEAD.pack(_TLS_1_3, cipher.number) + rest + key + salt + _SEQUENCE.pack(sequence)


def records_sealed(sock: socket.socket) -> int:
    """Return the number of the next record that the kernel seals on `sock`."""
    head = sock.getsockopt(SOL_TLS, TLS_TX, _HEAD.size)
    number = _HEAD.unpack(head)[1]
    cipher = next(cipher for cipher in CIPHERS.values() if cipher.number == number)
    length = _HEAD.size + cipher.iv_bytes + cipher.key_bytes + cipher.salt_bytes + _SEQUENCE.size
    return int(_SEQUENCE.unpack(sock.getsockopt(SOL_TLS, TLS_TX, length)[-_SEQUENCE.size :])[0])


class SentRecords:
    """Knows whether TCP has got all that the kernel has sealed on a socket.

    When TCP's buffer is full the kernel keeps sealed records beside it, and does not say so. If TCP is told
    to send FIN meanwhile they are lost. What TCP must have got follows from the number of records.

    Parameters
    ----------
    sock : socket.socket
        The kernel has its keys, and has sealed nothing yet.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._written_before = written_bytes(sock)
        self._records_before = records_sealed(sock)

    def are_all_with_tcp(self, content_bytes: int) -> bool:
        """Return whether that is so, of records with so much content altogether."""
        records = records_sealed(self._socket) - self._records_before
        written = written_bytes(self._socket) - self._written_before
        return written == content_bytes + records * _OVERHEAD_BYTES


def why_no_kernel_tls() -> str:
    """Return why this kernel does no TLS, and what to do about it; empty if it does.

    Found out on a connection of its own, over loopback.
    """
    cipher = CIPHERS["TLS_AES_128_GCM_SHA256"]
    info = crypto_info(cipher, bytes(cipher.key_bytes), bytes(cipher.salt_bytes + cipher.iv_bytes))
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as sock,
        ):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            sock.setsockopt(SOL_TLS, TLS_RX, info)
            sock.setsockopt(SOL_TLS, TLS_TX, info)
    except FileNotFoundError:
        return "not loaded, or the kernel was built without it; as root, if it has it: modprobe tls"
    except OSError as error:
        return str(error.strerror or error)
    return ""
