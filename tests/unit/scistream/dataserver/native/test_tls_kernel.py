"""The keys that the kernel gets, and how a handshake is read so that it gets the rest."""

from __future__ import annotations

import logging
import socket

import pytest

from scistream.dataserver import TlsLeg
from scistream.dataserver.native import tls_kernel
from scistream.dataserver.native.tls import Scratch, TlsError, choose_engine, make_context
from scistream.dataserver.native.tls_kernel import (
    CIPHERS,
    KernelContext,
    KernelEngine,
    crypto_info,
    traffic_keys,
    why_no_kernel_tls,
)
from scistream.dataserver.native.tls_stdlib import StdlibContext
from scistream.errors import ConfigurationError
from support.kernel_tls import opened
from support.relays import Identity, credentials

PRODUCER, CONSUMER = Identity.make(), Identity.make()


@pytest.mark.parametrize(
    ("secret", "key", "iv"),
    [
        (
            "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
            "17422dda596ed5d9acd890e3c63f5051",
            "5b78923dee08579033e523d9",
        ),
        (
            "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
            "9f02283b6c9c07efc26bb9f2ac92e356",
            "cf782b88dd83549aadf1e984",
        ),
    ],
    ids=["client", "server"],
)
def test_keys_are_those_of_the_published_trace(secret: str, key: str, iv: str) -> None:
    """RFC 8448, section 3: the application traffic secrets of its 1-RTT handshake."""
    keys = traffic_keys(CIPHERS["TLS_AES_128_GCM_SHA256"], bytes.fromhex(secret))
    assert [part.hex() for part in keys] == [key, iv]


def _context(leg: TlsLeg, suite: str | None = None) -> KernelContext:
    own, peer = (PRODUCER, CONSUMER) if leg is TlsLeg.LISTENER else (CONSUMER, PRODUCER)
    context = KernelContext(credentials(leg, own, peer))
    if suite is not None:
        context._context.set_tls13_ciphersuites(suite.encode())
    return context


def _pair(
    suite: str | None = None, scratch: Scratch | None = None
) -> tuple[KernelEngine, KernelEngine, bytes]:
    """(client, server) after their handshake, and what the server has said after it; they share `scratch`."""
    scratch = scratch or Scratch()
    client, server = (_context(leg, suite).engine(scratch) for leg in (TlsLeg.TARGET, TlsLeg.LISTENER))
    _, said = client.handshake(b"")
    _, said, rest = _tell(server, said)
    assert not rest
    complete, said, rest = _tell(client, said)
    assert complete
    assert not rest
    complete, said, rest = _tell(server, said)
    assert complete
    assert not rest
    assert isinstance(client, KernelEngine)
    assert isinstance(server, KernelEngine)
    return client, server, said


def _tell(engine: KernelEngine, said: bytes) -> tuple[bool, bytes, bytes]:
    """Let it read as from a socket; return whether it is complete, its answer, and what it has not read."""
    complete, answer = False, b""
    while said and not complete:
        piece, said = said[: engine.handshake_bytes], said[engine.handshake_bytes :]
        complete, more = engine.handshake(piece)
        answer += more
    return complete, answer, said


@pytest.mark.parametrize("suite", CIPHERS)
@pytest.mark.parametrize("server_seals", [False, True], ids=["client", "server"])
def test_what_openssl_seals_is_opened_with_the_derived_keys(suite: str, server_seals: bool) -> None:
    scratch = Scratch()
    client, server, said = _pair(suite, scratch)
    engine = server if server_seals else client
    words = b"The records of OpenSSL are the kernel's."
    scratch.input[: len(words)] = words
    record = bytes(scratch.output[: engine.seal(len(words))])
    number = engine._records_sent
    secret = engine._secrets["server" if server_seals else "client"]
    assert opened(suite, CIPHERS[suite], secret, number, record) == (words, 23)
    assert (number > 0) == (server_seals and bool(said))


def test_the_records_that_a_server_has_sent_are_counted() -> None:
    client, server, said = _pair()
    assert said, "this OpenSSL sends session tickets, else the count is not tested"
    secret = server._secrets["server"]
    kinds, at = [], 0
    while at < len(said):
        end = at + 5 + int.from_bytes(said[at + 3 : at + 5])
        cipher = CIPHERS["TLS_AES_128_GCM_SHA256"]
        kinds.append(opened("TLS_AES_128_GCM_SHA256", cipher, secret, len(kinds), said[at:end])[1])
        at = end
    assert kinds == [22] * server._records_sent
    assert client._records_sent == 0


def test_nothing_behind_the_handshake_is_read() -> None:
    client = _context(TlsLeg.TARGET).engine(Scratch())
    scratch = Scratch()
    server = StdlibContext(credentials(TlsLeg.LISTENER, PRODUCER, CONSUMER)).engine(scratch)
    _, hello = client.handshake(b"")
    _, answer = server.handshake(hello)
    assert isinstance(client, KernelEngine)
    behind = b"\x17\x03\x03\x00\x20" + bytes(32)
    complete, proof, rest = _tell(client, answer + behind)
    assert complete
    assert rest == behind
    assert server.handshake(proof)[0]


def test_reading_too_much_is_an_error() -> None:
    client, server = (_context(leg).engine(Scratch()) for leg in (TlsLeg.TARGET, TlsLeg.LISTENER))
    _, hello = client.handshake(b"")
    with pytest.raises(ValueError, match="not 5"):
        server.handshake(hello)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\xff\xff", b"\x00" * 5])
def test_what_is_no_record_is_refused_at_once(garbage: bytes) -> None:
    server = make_context(credentials(TlsLeg.LISTENER, PRODUCER, CONSUMER), "kernel").engine(Scratch())
    with pytest.raises(TlsError, match="handshake failed"):
        server.handshake(garbage[: server.handshake_bytes])


def test_a_socket_that_the_kernel_does_not_take_stays_with_openssl(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(tls_kernel, "_told", set())
    for _ in range(2):
        scratch = Scratch()
        client, server, tickets = _pair(scratch=scratch)
        secrets = [one.hex() for one in client._secrets.values()]
        assert len(secrets) == 2
        one, other = socket.socketpair()
        with one, other:
            assert not client.hand_over(one)
        assert not client._secrets
        for sender, receiver, before in ((client, server, b""), (server, client, tickets)):
            scratch.input[:7] = b"goes on"
            wire = before + bytes(scratch.output[: sender.seal(7)])
            scratch.input[: len(wire)] = wire
            assert bytes(scratch.output[: receiver.open(len(wire))]) == b"goes on"
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "stays in user space" in line]) == 1, "it is said once"
    assert not any(secret in line for secret in secrets for line in lines)


@pytest.mark.parametrize(("suite", "size"), list(zip(CIPHERS, (40, 56, 56), strict=True)))
def test_the_kernels_structures_have_their_sizes(suite: str, size: int) -> None:
    """Those of struct tls12_crypto_info_aes_gcm_128, ..._256 and ..._chacha20_poly1305 in linux/tls.h."""
    cipher = CIPHERS[suite]
    key, iv = bytes(range(cipher.key_bytes)), bytes(range(100, 112))
    info = crypto_info(cipher, key, iv, 3)
    assert len(info) == size
    assert info[:4] == b"\x04\x03" + bytes([cipher.number, 0])
    assert info[-8:] == bytes([0, 0, 0, 0, 0, 0, 0, 3])
    assert info[4:-8] == iv[cipher.salt_bytes :] + key + iv[: cipher.salt_bytes]


@pytest.mark.skipif(why_no_kernel_tls() == "", reason="this kernel has TLS")
def test_a_kernel_without_tls_is_said_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert choose_engine(None) == "openssl"
    assert "TLS of the kernel is not used" in caplog.text
    assert "modprobe tls" in caplog.text
    with pytest.raises(ConfigurationError, match="modprobe tls"):
        choose_engine("kernel")
