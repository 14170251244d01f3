"""How a rate is divided among connections that use it and connections that do not."""

from __future__ import annotations

import logging
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.dataserver.native.pacing import Pacer, shares


@given(st.floats(1e3, 1e10), st.integers(1, 5000), st.integers(0, 5000))
def test_the_busy_ones_have_the_rate_and_all_at_once_never_more_than_twice(
    bytes_per_s: float, connections: int, busy: int
) -> None:
    busy = min(busy, connections)
    busy_share, idle_share = shares(bytes_per_s, connections, busy)
    assert busy_share >= idle_share >= 1
    if bytes_per_s > 1000 * connections:
        assert 0.99 * bytes_per_s <= busy_share * (busy or connections) <= bytes_per_s
        assert busy_share * busy + idle_share * (connections - busy) <= 2 * bytes_per_s


def test_more_busy_ones_than_are_known_share_the_rate() -> None:
    assert shares(1000.0, connections=1, busy=4) == (250, 250)


class PacedFlow:
    """What is asked of a flow."""

    moved, parked, done = 0, 0, False

    def __init__(self, relay: Paced, sink: socket.socket) -> None:
        self.relay, self.sink = relay, sink


class Paced:
    """What is asked of a relay, and whether it was ended."""

    closed = False

    def __init__(self, accepted: socket.socket, target: socket.socket) -> None:
        self.to_target, self.from_target = PacedFlow(self, target), PacedFlow(self, accepted)

    def abort(self) -> None:
        self.closed = True


def test_a_connection_that_cannot_be_paced_is_ended_alone(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as one, socket.socket() as other:
        gone = socket.socket()
        relays = [Paced(gone, one), Paced(one, other)]
        balance = SimpleNamespace(busy=lambda *_: 0, tell_busy=lambda *_: None)
        pacing = SimpleNamespace(add=lambda _: None)
        worker = SimpleNamespace(balance=balance, pacing=pacing, open_connections=lambda _: len(relays))
        channel = SimpleNamespace(open_relays=relays)
        session: Any = SimpleNamespace(worker=worker, slot=0, uid="session", channels=[channel])
        pacer = Pacer(session, 100.0)
        for relay in relays:
            pacer.begin(relay)
        worker.open_connections = lambda _: 10
        gone.close()
        with caplog.at_level(logging.ERROR):
            pacer.adjust()
        assert [relay.closed for relay in relays] == [True, False]
        assert caplog.text.count("cannot be paced") == 1
