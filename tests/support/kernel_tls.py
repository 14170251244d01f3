"""TLS 1.3 records made by hand, from a connection's traffic secrets."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from scistream.dataserver.native.tls_kernel import CIPHERS, Cipher, KernelEngine, traffic_keys


def aead(suite: str) -> type[AESGCM | ChaCha20Poly1305]:
    return ChaCha20Poly1305 if "CHACHA20" in suite else AESGCM


def sealed(engine: KernelEngine, number: int, content: bytes, kind: int) -> bytes:
    """The record with this number that the engine's side would send (RFC 8446, 5.2 and 5.3)."""
    suite = engine._connection.get_cipher_name()
    key, iv = traffic_keys(CIPHERS[suite], engine._secrets["server" if engine._server else "client"])
    header = struct.pack(">BHH", 23, 0x0303, len(content) + 1 + 16)
    return header + aead(suite)(key).encrypt(_nonce(iv, number), content + bytes([kind]), header)


def opened(suite: str, cipher: Cipher, secret: bytes, number: int, record: bytes) -> tuple[bytes, int]:
    """(content, type) of the record with this number that was sealed with keys from `secret`."""
    key, iv = traffic_keys(cipher, secret)
    inner = aead(suite)(key).decrypt(_nonce(iv, number), record[5:], record[:5])
    return inner[:-1], inner[-1]


def _nonce(iv: bytes, number: int) -> bytes:
    return bytes(one ^ other for one, other in zip(iv, number.to_bytes(len(iv), "big"), strict=True))
