"""What is special where the kernel opens and seals the records; `test_encryption` and others say the rest.

They run where the kernel has TLS; `tests/system/scistream/test_kernel_tls.py` brings one.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path as FilePath

import pytest

from scistream.dataserver import DataServerBackend, TlsLeg, create_backend
from scistream.dataserver.native.loop import CUT_DELIVERY_S
from scistream.dataserver.native.sockets import limit_unsent
from scistream.dataserver.native.tls import Scratch
from scistream.dataserver.native.tls_kernel import (
    CIPHERS,
    SOL_TLS,
    TCP_ULP,
    TLS_RX,
    TLS_TX,
    KernelContext,
    KernelEngine,
    SentRecords,
    crypto_info,
    why_no_kernel_tls,
)
from support.data_servers import PROGRAMS
from support.kernel_tls import sealed
from support.relays import (
    LOCALHOST,
    Background,
    LoopThread,
    Path,
    accept,
    connect,
    credentials,
    endpoint,
    random_bytes,
    receive,
    receive_all,
    receive_until_reset,
    send_in_background,
    until,
)
from support.tls_peer import Peer, tls_context

MEGABYTE = 1_000_000

pytestmark = pytest.mark.skipif(why_no_kernel_tls() != "", reason="this kernel has no TLS")

_PEERS = [
    pytest.param(("native", {"tls_engine": "openssl"}), id="native-openssl"),
    pytest.param(("native", {"tls_engine": "stdlib"}), id="native-stdlib"),
    *(pytest.param((*one.values, {}), id=one.values[0], marks=one.marks) for one in PROGRAMS),
]


def counters() -> dict[str, int]:
    """What the kernel has counted of its TLS."""
    lines = FilePath("/proc/net/tls_stat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


@pytest.fixture(scope="module", params=["native-kernel"])
def kernel_backend(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[DataServerBackend]:
    """A native data server that takes the best engine there is."""

    async def opened() -> DataServerBackend:
        backend = create_backend("native", {"workers": 1})
        await backend.open()
        return backend

    backend = thread.run(opened())
    yield backend
    thread.run(backend.close())


@pytest.fixture
def kernel_path(kernel_backend: DataServerBackend, thread: LoopThread) -> Iterator[Path]:
    path = Path(thread, kernel_backend, encrypted=True)
    yield path
    path.close()


@pytest.fixture(scope="module", params=_PEERS)
def other_backend(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[DataServerBackend]:
    name, options = request.param

    async def opened() -> DataServerBackend:
        backend = create_backend(name, options)
        await backend.open()
        return backend

    backend = thread.run(opened())
    yield backend
    thread.run(backend.close())


def test_the_kernel_is_used_where_it_can_be_by_both_sides(kernel_path: Path) -> None:
    before = counters()
    with kernel_path.joined() as (near, far):
        near.sendall(b"there")
        assert receive(far, 5) == b"there"
        during = counters()
        for way in ("TlsCurrTxSw", "TlsCurrRxSw"):
            assert during[way] - before[way] == 2, "both gateways, each in both directions"


@pytest.mark.parametrize("dials", [True, False], ids=["dials", "listens"])
def test_another_data_server_carries_every_byte_both_ways(
    kernel_path: Path, other_backend: DataServerBackend, dials: bool
) -> None:
    before = counters()
    other = Path(
        kernel_path.thread,
        other_backend,
        encrypted=True,
        producer_identity=kernel_path.producer_identity,
        consumer_identity=kernel_path.consumer_identity,
    )
    kernel_path.peer_omits_close_notify = other_backend.omits_close_notify
    producer_side, consumer_side = (other, kernel_path) if dials else (kernel_path, other)
    application = kernel_path.listening()
    try:
        producer = producer_side.producer([endpoint(application)])
        consumer = consumer_side.consumer([endpoint(producer.listeners[0])])
        there, back = random_bytes(2 * MEGABYTE), random_bytes(2 * MEGABYTE)
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            sending = send_in_background(near, there, end=False), send_in_background(far, back, end=False)
            receiving = Background(lambda: receive(near, len(back)))
            assert _sha256(receive(far, len(there))) == _sha256(there)
            assert _sha256(receiving.result()) == _sha256(back)
            for sender in sending:
                sender.result()
            near.shutdown(socket.SHUT_WR)
            assert receive_all(far) == b""
            if type(other_backend).__name__ == "NativeBackend":
                far.sendall(b"the other direction is open")
                assert receive(near, 27) == b"the other direction is open"
    finally:
        other.close()
    after = counters()
    assert [after[way] - before[way] for way in ("TlsTxSw", "TlsRxSw")] == [1, 1]


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_session_tickets_are_passed_over(kernel_path: Path) -> None:
    """A server whose first records are tickets, and whose data come in the same packet."""
    listener = kernel_path.listening()
    consumer = kernel_path.consumer([endpoint(listener)])
    context = tls_context(kernel_path.producer_identity, kernel_path.consumer_identity, server=True)
    context.num_tickets = 3
    with connect(consumer.listeners[0]) as near:
        raw = accept(listener)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(1 << 16))
        assert outgoing.pending > 500, "three tickets"
        data = random_bytes(100_000)
        tls.write(data)
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        with raw:
            raw.sendall(outgoing.read())
            assert receive_all(near) == data


@pytest.mark.parametrize("suite", CIPHERS)
def test_every_cipher_suite_is_the_kernels(kernel_path: Path, suite: str) -> None:
    application, before = kernel_path.listening(), counters()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        engine, scratch = _peer(kernel_path, raw, suite)
        words = b"sealed by OpenSSL as " + suite.encode()
        scratch.input[: len(words)] = words
        raw.sendall(scratch.output[: engine.seal(len(words))])
        with accept(application) as far:
            assert receive(far, len(words)) == words
            far.sendall(b"sealed by the kernel")
            far.shutdown(socket.SHUT_WR)
            wire = receive_all(raw)  # session tickets come first
        scratch.input[: len(wire)] = wire
        assert bytes(scratch.output[: engine.open(len(wire))]) == b"sealed by the kernel"
        assert engine.peer_has_ended
    after = counters()
    assert [after[way] - before[way] for way in ("TlsTxSw", "TlsRxSw")] == [1, 1]


def _peer(
    path: Path, raw: socket.socket, suite: str = "TLS_AES_128_GCM_SHA256"
) -> tuple[KernelEngine, Scratch]:
    """A consumer of the test's own, whose handshake is over and whose traffic secrets are known."""
    scratch = Scratch()
    context = KernelContext(credentials(TlsLeg.TARGET, path.consumer_identity, path.producer_identity))
    context._context.set_tls13_ciphersuites(suite.encode())
    engine = context.engine(scratch)
    assert isinstance(engine, KernelEngine)
    complete, answer = engine.handshake(b"")
    while not complete:
        raw.sendall(answer)
        complete, answer = engine.handshake(raw.recv(engine.handshake_bytes))
    raw.sendall(answer)
    return engine, scratch


@pytest.mark.parametrize(
    ("kind", "content"),
    [(22, b"\x18\x00\x00\x01\x00"), (22, b"\x04"), (21, b"\x02\x50"), (21, b""), (20, b"\x01")],
    ids=["key update", "half a message", "fatal alert", "empty alert", "another type"],
)
def test_what_the_kernel_cannot_serve_cuts_the_stream(kernel_path: Path, kind: int, content: bytes) -> None:
    application = kernel_path.listening()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        engine, _ = _peer(kernel_path, raw)
        raw.sendall(sealed(engine, 0, b"genuine", 23))
        with accept(application) as far:
            assert receive(far, 7) == b"genuine"
            raw.sendall(sealed(engine, 1, content, kind))
            assert receive_until_reset(far) == b""
        receive_until_reset(raw)


@pytest.mark.parametrize("long", [False, True], ids=["small", "bulk"])
def test_what_is_no_record_cuts_the_stream(kernel_path: Path, long: bool) -> None:
    application = kernel_path.listening()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        engine, _ = _peer(kernel_path, raw)
        records = [sealed(engine, number, bytes(16_000), 23) for number in range(20 if long else 1)]
        raw.sendall(b"".join(records) + b"GET / HTTP/1.1\r\n\r\n")
        with accept(application) as far:
            assert receive(far, 16_000 * len(records)) == bytes(16_000 * len(records))
            assert receive_until_reset(far) == b""


def test_what_is_no_record_cuts_an_idle_stream_at_once(kernel_path: Path) -> None:
    application = kernel_path.listening()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        engine, _ = _peer(kernel_path, raw)
        raw.sendall(sealed(engine, 0, b"genuine", 23))
        with accept(application) as far:
            assert receive(far, 7) == b"genuine"
            began = time.monotonic()
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert receive_until_reset(far) == b""
            assert time.monotonic() - began < CUT_DELIVERY_S / 2


def test_empty_records_are_no_end(kernel_path: Path) -> None:
    application = kernel_path.listening()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        engine, _ = _peer(kernel_path, raw)
        with accept(application) as far:
            for number in range(3):
                raw.sendall(sealed(engine, number, b"", 23))
            raw.sendall(sealed(engine, 3, b"still there", 23))
            assert receive(far, 11) == b"still there"
            raw.sendall(sealed(engine, 4, b"\x01\x00", 21))
            assert receive_all(far) == b""


def test_data_after_the_end_do_not_turn_it_into_a_reset(kernel_path: Path) -> None:
    application = kernel_path.listening()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        engine, scratch = _peer(kernel_path, raw)
        records = [(b"all", 23), (b"\x01\x00", 21), (b"more", 23)]
        raw.sendall(b"".join(sealed(engine, number, *one) for number, one in enumerate(records)))
        with accept(application) as far:
            assert receive_all(far) == b"all"
            far.sendall(b"the answer")
            far.shutdown(socket.SHUT_WR)
            wire = receive_all(raw)
        scratch.input[: len(wire)] = wire
        assert bytes(scratch.output[: engine.open(len(wire))]) == b"the answer"
        assert engine.peer_has_ended


def test_an_end_behind_a_full_buffer_is_not_lost(kernel_path: Path) -> None:
    """The last records and the close_notify wait beside TCP's full buffer, and FIN must wait for them."""
    for _ in range(5):
        with kernel_path.joined() as (near, far):
            data = random_bytes(3 * MEGABYTE)
            sending = send_in_background(near, data)
            received = bytearray()
            while chunk := far.recv(5000):
                received += chunk
            sending.result()
            assert received == data


@pytest.mark.parametrize("limit", [None, 1], ids=["native-kernel-full", "native-kernel-crowded"])
def test_records_that_wait_beside_tcp_are_known(limit: int | None) -> None:
    cipher = CIPHERS["TLS_AES_128_GCM_SHA256"]
    info = crypto_info(cipher, bytes(16), bytes(12), 7)
    with socket.create_server((LOCALHOST, 0)) as listener, connect(listener) as near, accept(listener) as far:
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            sock.setsockopt(SOL_TLS, TLS_RX, info)
            sock.setsockopt(SOL_TLS, TLS_TX, info)
        if limit is not None:
            limit_unsent(near, limit)
        records = SentRecords(near)
        assert records.are_all_with_tcp(0)
        near.sendall(b"one")
        assert records.are_all_with_tcp(3)
        near.setblocking(False)
        sent = 3
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += near.send(bytes(16_384))
        assert not records.are_all_with_tcp(sent)
        assert len(receive(far, sent)) == sent
        until(lambda: records.are_all_with_tcp(sent), "TCP has got all")


def test_a_peer_that_is_not_the_kernel_is_told_the_end(kernel_path: Path) -> None:
    application = kernel_path.listening()
    producer = kernel_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        peer = Peer(raw)
        peer.handshake(tls_context(kernel_path.consumer_identity, kernel_path.producer_identity))
        with accept(application) as far:
            far.sendall(b"last words")
            far.shutdown(socket.SHUT_WR)
            peer.incoming.write(receive_all(raw))
            assert peer.tls.read(100) == b"last words"
            assert peer.tls.read(100) == b"", "close_notify"
