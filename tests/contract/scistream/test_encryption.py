"""What crosses the wide-area leg, and who may: the holder of the session's key, nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from scistream.core.endpoint import Endpoint
from support.relays import (
    Background,
    Hop,
    Identity,
    Path,
    accept,
    connect,
    descendants,
    endpoint,
    listening,
    nobody_came,
    nothing_is_said,
    random_bytes,
    receive,
    receive_all,
    send_in_background,
    until,
)
from support.tls_peer import Peer, stranger_talks, tls_context

MARKER = b"what the detector saw: "


class Wiretap:
    """Stands between two gateways, passes everything on and keeps it."""

    def __init__(self, target: Endpoint) -> None:
        self._target = target
        self.listener = listening()
        self.heard = bytearray()
        self._accepting = Background(self._listen)
        self._copying: list[Background] = []

    def _listen(self) -> None:
        near = accept(self.listener)
        far = connect(self._target)
        self._copying = [
            Background(lambda: self._copy(near, far)),
            Background(lambda: self._copy(far, near)),
        ]
        self._sockets = near, far

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1 << 16):
            self.heard += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._accepting.result()
        for copying in self._copying:
            copying.result()
        for sock in (*self._sockets, self.listener):
            sock.close()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_wiretap_hears_the_plain_leg_and_nothing_of_the_encrypted_one(
    tls_path: Path, encrypted: bool
) -> None:
    path = tls_path
    path.encrypted = encrypted
    application = path.listening()
    producer = path.producer([endpoint(application)])
    wiretap = Wiretap(endpoint(producer.listeners[0]))
    consumer = path.consumer([endpoint(wiretap.listener)])
    data = MARKER * 20_000
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        sending = send_in_background(near, data), send_in_background(far, data)
        back = Background(lambda: receive_all(near))
        assert receive_all(far) == data
        assert back.result() == data
        for sender in sending:
            sender.result()
    wiretap.close()
    assert len(wiretap.heard) > 2 * len(data) - 1
    assert (MARKER in wiretap.heard) == (not encrypted)


def _strangers(path: Path) -> dict[str, ssl.SSLContext | None]:
    known = path.producer_identity
    old = tls_context(path.consumer_identity, known)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    return {
        "plain TCP": None,
        "no certificate": tls_context(None, known),
        "another certificate of the same name": tls_context(Identity.make("session"), known),
        "the gateway's own certificate": tls_context(path.producer_identity, known),
        "TLS 1.2": old,
    }


@pytest.mark.parametrize(
    "who",
    [
        "plain TCP",
        "no certificate",
        "another certificate of the same name",
        "the gateway's own certificate",
        "TLS 1.2",
    ],
)
def test_a_stranger_reaches_nothing(tls_path: Path, who: str) -> None:
    application = tls_path.listening()
    producer = tls_path.producer([endpoint(application)])
    stranger_talks(producer.listeners[0], _strangers(tls_path)[who])
    until(lambda: producer.statistics()[0].connections_failed == 1, "the stranger is refused")
    figures = producer.statistics()[0]
    assert (figures.connections_open, figures.bytes_to_target, figures.bytes_from_target) == (0, 0, 0)
    assert nobody_came(application)
    # and the session still serves who holds its key
    _works(tls_path, producer, application)


def _works(path: Path, producer: Hop, application: socket.socket) -> None:
    consumer = path.consumer([endpoint(producer.listeners[0])])
    with connect(consumer.listeners[0]) as near, accept(application) as far:
        near.sendall(b"legitimate")
        assert receive(far, 10) == b"legitimate"


def test_another_sessions_gateway_reaches_nothing(tls_path: Path) -> None:
    application = tls_path.listening()
    producer = tls_path.producer([endpoint(application)])
    other = Path(tls_path.thread, tls_path.backend, encrypted=True)
    try:
        # it knows whom it calls, and shows the certificate of its own session
        other.producer_identity = tls_path.producer_identity
        consumer = other.consumer([endpoint(producer.listeners[0])])
        assert tls_path.turned_away(consumer.listeners[0], saying=b"let me in")
        until(lambda: producer.statistics()[0].connections_failed == 1, "refused")
        assert nobody_came(application)
    finally:
        other.close()
    _works(tls_path, producer, application)


def test_the_dialling_gateway_refuses_a_false_listener(tls_path: Path) -> None:
    application = tls_path.listening()
    producer = tls_path.producer([endpoint(application)])
    other = Path(tls_path.thread, tls_path.backend, encrypted=True)
    try:
        # the listener would let it in; but it is not the one whose certificate this session pinned
        other.consumer_identity = tls_path.consumer_identity
        consumer = other.consumer([endpoint(producer.listeners[0])])
        assert tls_path.turned_away(consumer.listeners[0], saying=b"secret")
        until(lambda: consumer.statistics()[0].connections_failed == 1, "refused")
        assert consumer.statistics()[0].bytes_to_target == 0
        assert nothing_is_said(application)
    finally:
        other.close()


def test_the_dialling_gateway_sends_nothing_to_a_plain_listener(tls_path: Path) -> None:
    trap = tls_path.listening()
    consumer = tls_path.consumer([endpoint(trap)])
    with connect(consumer.listeners[0]) as near:
        near.sendall(MARKER)
        with accept(trap) as caught:
            caught.sendall(b"hello, I am no TLS server\n")
            assert MARKER not in receive_all_or_reset(caught)
        assert tls_path.receive_until_cut(near) == b""


def receive_all_or_reset(sock: socket.socket) -> bytes:
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(1 << 16):
            data += chunk
    return bytes(data)


@pytest.fixture
def knowing(tls_path: Path) -> Iterator[tuple[Path, socket.socket, Hop, Peer, ssl.SSLContext]]:
    application = tls_path.listening()
    producer = tls_path.producer([endpoint(application)])
    with connect(producer.listeners[0]) as raw:
        context = tls_context(tls_path.consumer_identity, tls_path.producer_identity)
        yield tls_path, application, producer, Peer(raw), context


def test_data_that_come_with_the_handshakes_end_are_not_lost(knowing: Any) -> None:
    _, application, _, peer, context = knowing
    words = random_bytes(40_000)
    peer.handshake(context, last_words=words)
    with accept(application) as far:
        assert receive(far, len(words)) == words


def test_a_forged_record_cuts_the_stream(knowing: Any) -> None:
    path, application, _, peer, context = knowing
    peer.handshake(context, last_words=b"genuine")
    with accept(application) as far:
        assert receive(far, 7) == b"genuine"
        peer.tls.write(b"forged")
        record = bytearray(peer.outgoing.read())
        record[-1] ^= 1
        peer.raw.sendall(record)
        assert path.receive_until_cut(far) == b""


def test_the_application_is_dialled_only_after_the_peer_has_proved_itself(knowing: Any) -> None:
    _, application, producer, peer, context = knowing
    tls = context.wrap_bio(peer.incoming, peer.outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    peer.raw.sendall(peer.outgoing.read())
    assert peer.raw.recv(1 << 16)  # the gateway has answered, and waits for the client's certificate
    assert producer.statistics()[0].connections_total == 1
    assert nobody_came(application)


def test_a_peer_may_send_alert_and_end_in_any_pieces(knowing: Any) -> None:
    _, application, _, peer, context = knowing
    peer.handshake(context)
    words = random_bytes(50_000)
    peer.tls.write(words)
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.unwrap()
    wire = peer.outgoing.read()
    with accept(application) as far:
        received = Background(lambda: receive_all(far))
        peer.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(wire), 997):
            peer.raw.sendall(wire[start : start + 997])
        assert received.result() == words


def test_only_tls_1_3_is_spoken(knowing: Any) -> None:
    _, application, _, peer, context = knowing
    peer.handshake(context)
    assert peer.tls.version() == "TLSv1.3"
    accept(application).close()


def test_keys_are_in_no_argument_environment_or_file(tls_path: Path) -> None:
    application = tls_path.listening()
    tls_path.both(endpoint(application))
    secrets = [
        line
        for identity in (tls_path.producer_identity, tls_path.consumer_identity)
        for line in identity.key.splitlines()[1:-1]
    ]
    assert secrets
    for process in (process.pid for process in descendants()):
        for name in ("cmdline", "environ"):
            with open(f"/proc/{process}/{name}", "rb") as file:
                text = file.read()
            assert not any(secret in text for secret in secrets)
        for descriptor in os.listdir(f"/proc/{process}/fd"):
            link = os.readlink(f"/proc/{process}/fd/{descriptor}")
            assert not link.startswith(tempfile.gettempdir() + "/session")


def test_a_handshake_under_way_does_not_hold_up_others(tls_path: Path) -> None:
    application = tls_path.listening()
    producer = tls_path.producer([endpoint(application)])
    silent = [connect(producer.listeners[0]) for _ in range(40)]
    try:
        _works(tls_path, producer, application)
    finally:
        for sock in silent:
            sock.close()
    until(lambda: producer.statistics()[0].connections_failed == len(silent), "they are given up")
