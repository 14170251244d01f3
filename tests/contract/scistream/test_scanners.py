"""Strangers who connect and say nothing, or little: they cannot use a session's channels up."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from support.relays import Path, accept, connect, endpoint, nobody_came, receive, until

SILENT = 500
#: Until the proper gateway is through, whatever stands before it; a handshake may take 10 s, twice at most.
THROUGH_S = 20.0
#: Nothing, the beginning of a TLS record, and something else than TLS.
WORDS = (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n")
GIVEN_UP_S = 30.0


@pytest.mark.attack(
    "scanners and slow handshakes at a session's listeners", result="given up, and others get through"
)
def test_the_other_gateway_gets_through_500_strangers_and_they_are_given_up(tls_path: Path) -> None:
    application = tls_path.listening()
    producer = tls_path.producer([endpoint(application)])
    consumer = tls_path.consumer([endpoint(producer.listeners[0])])
    strangers: list[socket.socket] = []
    began_s = time.monotonic()
    try:
        for number in range(SILENT):
            strangers.append(connect(producer.listeners[0]))
            with contextlib.suppress(OSError):  # refused already
                strangers[-1].sendall(WORDS[number % len(WORDS)])
        opened_s = time.monotonic()
        with connect(consumer.listeners[0]) as near, accept(application) as far:
            near.sendall(b"proper")
            assert receive(far, 6) == b"proper"
            far.sendall(b"answer")
            assert receive(near, 6) == b"answer"
            assert time.monotonic() - opened_s < THROUGH_S
            # nobody waits for them to go by themselves
            until(
                lambda: producer.statistics()[0].connections_failed == SILENT,
                "all strangers are given up",
            )
            assert time.monotonic() - began_s < GIVEN_UP_S
            near.sendall(b"still")
            assert receive(far, 5) == b"still"
        assert nobody_came(application)
    finally:
        for sock in strangers:
            sock.close()
