"""All TLS engines by themselves: bytes in, bytes out, against each other.

That of the kernel is one of OpenSSL, as long as nobody asks it to hand its connection over.
"""

from __future__ import annotations

import os

import pytest

from scistream.dataserver import TlsLeg
from scistream.dataserver.native.tls import ENGINES, Scratch, TlsEngine, TlsError, load_engine, make_context
from scistream.errors import ConfigurationError
from support.relays import Identity, credentials

PRODUCER, CONSUMER, STRANGER = Identity.make(), Identity.make(), Identity.make()

Pair = tuple[tuple[TlsEngine, Scratch], tuple[TlsEngine, Scratch]]


def engines(client: str, server: str, *, client_identity: Identity = CONSUMER) -> Pair:
    scratches = Scratch(), Scratch()
    target = credentials(TlsLeg.TARGET, client_identity, PRODUCER)
    listener = credentials(TlsLeg.LISTENER, PRODUCER, CONSUMER)
    return (
        (make_context(target, client).engine(scratches[0]), scratches[0]),
        (make_context(listener, server).engine(scratches[1]), scratches[1]),
    )


def shake_hands(pair: Pair) -> None:
    (client, _), (server, _) = pair
    _, hello = client.handshake(b"")
    complete, answer = tell(server, hello)
    assert not complete
    complete, proof = tell(client, answer)
    assert complete
    complete, rest = tell(server, proof)
    assert complete
    assert feed(pair[0], rest) == b"", "session tickets or nothing"


def tell(engine: TlsEngine, said: bytes) -> tuple[bool, bytes]:
    """Let it read what was said as it wants to; return whether its handshake is complete, and its answer."""
    complete, answer = False, b""
    while said:
        assert not complete
        piece, said = said[: engine.handshake_bytes], said[engine.handshake_bytes :]
        complete, more = engine.handshake(piece)
        answer += more
    return complete, answer


def transfer(sender: tuple[TlsEngine, Scratch], receiver: tuple[TlsEngine, Scratch], data: bytes) -> bytes:
    """Seal, carry and open `data` in batches."""
    received = bytearray()
    for start in range(0, len(data), len(sender[1].input)):
        batch = data[start : start + len(sender[1].input)]
        sender[1].input[: len(batch)] = batch
        sealed = bytes(sender[1].output[: sender[0].seal(len(batch))])
        received += feed(receiver, sealed)
    return bytes(received)


def feed(receiver: tuple[TlsEngine, Scratch], sealed: bytes, *, piece: int = 1 << 17) -> bytes:
    received = bytearray()
    for start in range(0, len(sealed), piece):
        part = sealed[start : start + piece]
        receiver[1].input[: len(part)] = part
        received += receiver[1].output[: receiver[0].open(len(part))]
    return bytes(received)


@pytest.fixture(params=[(one, other) for one in ENGINES for other in ENGINES], ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    pair = engines(*request.param)
    shake_hands(pair)
    return pair


@pytest.mark.parametrize("length", [1, 16_384, 16_385, 262_144, 1_000_003])
def test_bytes_cross_in_both_directions(pair: Pair, length: int) -> None:
    data = os.urandom(length)
    assert transfer(pair[0], pair[1], data) == data
    assert transfer(pair[1], pair[0], data) == data


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_records_may_come_in_any_pieces(pair: Pair, piece: int) -> None:
    data = os.urandom(3000)
    pair[0][1].input[:3000] = data
    sealed = bytes(pair[0][1].output[: pair[0][0].seal(3000)])
    assert feed(pair[1], sealed, piece=piece) == data


def test_an_end_is_seen_and_the_other_direction_goes_on(pair: Pair) -> None:
    client, server = pair
    assert transfer(client, server, b"question") == b"question"
    assert feed(server, client[0].end()) == b""
    assert server[0].peer_has_ended
    assert transfer(server, client, b"answer") == b"answer"
    assert feed(client, server[0].end()) == b""
    assert client[0].peer_has_ended


def test_a_changed_bit_is_a_failure_and_what_came_before_it_is_kept(pair: Pair) -> None:
    client, server = pair
    client[1].input[:40_000] = bytes(40_000)
    sealed = bytearray(client[1].output[: client[0].seal(40_000)])
    sealed[-1] ^= 1
    assert feed(server, bytes(sealed)) == bytes(2 * 16_384)
    assert server[0].failure is not None
    assert not server[0].peer_has_ended


def test_shrinking_loses_nothing(pair: Pair) -> None:
    client, server = pair
    data = os.urandom(300_000)
    for _ in range(3):
        assert transfer(client, server, data) == data
        client[0].shrink()
        server[0].shrink()
    assert transfer(server, client, data) == data


@pytest.mark.parametrize("client", ENGINES)
@pytest.mark.parametrize("server", ENGINES)
def test_a_stranger_is_refused_by_the_listener(client: str, server: str) -> None:
    pair = engines(client, server, client_identity=STRANGER)
    with pytest.raises(TlsError, match="handshake failed"):
        shake_hands(pair)
    assert pair[1][0].pending(), "an alert says so"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_false_listener_is_refused_by_the_dialling_side(engine: str) -> None:
    scratch = Scratch()
    expecting = credentials(TlsLeg.TARGET, CONSUMER, STRANGER)
    client = make_context(expecting, engine).engine(scratch)
    (_, _), server = engines(engine, engine)
    _, hello = client.handshake(b"")
    _, answer = tell(server[0], hello)
    with pytest.raises(TlsError, match="handshake failed"):
        tell(client, answer)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_no_tls_is_refused(engine: str) -> None:
    _, (server, _) = engines(engine, engine)
    with pytest.raises(TlsError):
        tell(server, b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_that_does_not_fit_is_refused_without_being_shown(engine: str) -> None:
    mixed = credentials(TlsLeg.TARGET, Identity(CONSUMER.certificate, STRANGER.key), PRODUCER)
    with pytest.raises(ConfigurationError, match="cannot be used") as refusal:
        make_context(mixed, engine)
    assert STRANGER.key.splitlines()[1].decode() not in str(refusal.value)
    assert refusal.value.__suppress_context__


def test_an_unknown_engine_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="kernel, openssl, stdlib"):
        load_engine("gnutls")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_words_before_the_stream_are_had_one_by_one_and_nothing_after_them_is_lost(
    engine: str, piece: int
) -> None:
    pair = engines(engine, engine)
    shake_hands(pair)
    (client, scratch), (server, far_scratch) = pair
    sealed = b""
    for data in (b"W", b"G12", b"and the stream"):
        scratch.input[: len(data)] = data
        sealed += bytes(scratch.output[: client.seal(len(data))])
    heard = b""
    while len(heard) < 4:
        part, sealed = sealed[:piece], sealed[piece:]
        heard += server.preface(part, 1 - len(heard) if not heard else 4 - len(heard))
    assert heard == b"WG12"
    # what came with the last word is in the engine, what comes later is not yet
    stream = bytes(far_scratch.output[: server.open(0)])
    assert stream + feed(pair[1], sealed) == b"and the stream"
    assert server.failure is None


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_in_place_of_a_word_is_an_end(engine: str) -> None:
    pair = engines(engine, engine)
    shake_hands(pair)
    (client, _), (server, _) = pair
    assert server.preface(client.end(), 1) == b""
    assert server.peer_has_ended


@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_reverse_session_the_consumers_side_is_the_server(engine: str) -> None:
    consumer = make_context(credentials(TlsLeg.TARGET, CONSUMER, PRODUCER, reverse=True), engine)
    producer = make_context(credentials(TlsLeg.LISTENER, PRODUCER, CONSUMER, reverse=True), engine)
    near, far = Scratch(), Scratch()
    shake_hands(((producer.engine(near), near), (consumer.engine(far), far)))
