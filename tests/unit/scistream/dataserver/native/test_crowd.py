"""What connections may hold in a crowd."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from scistream.dataserver.native.crowd import CROWD_BYTES, Crowd, share_of
from scistream.dataserver.native.sockets import COPIED_BYTES
from scistream.dataserver.native.tls import BATCH_BYTES
from support.relays import accept, connect, listening

NOTSENT_LOWAT = 25  # linux/tcp.h


@dataclass
class TwoSockets:
    """What the crowd sees of a relay."""

    accepted: socket.socket
    target: socket.socket

    def unsent_limits(self) -> list[int]:
        return [sock.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT) for sock in (self.accepted, self.target)]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with listening() as listener, connect(listener) as near, accept(listener) as far:
        yield near, far


def test_all_together_are_bounded() -> None:
    assert share_of(0) == share_of(1) == BATCH_BYTES
    for connections in (65, 100, 1000):
        assert share_of(connections) >= COPIED_BYTES
        assert share_of(connections) * connections <= CROWD_BYTES
    assert share_of(100_000) == COPIED_BYTES


def test_those_that_were_there_before_the_crowd_are_limited_too(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    early = TwoSockets(*pair)
    crowd = Crowd(lambda: [cast(Any, early)])
    crowd.count(1)
    crowd.begin(cast(Any, early))
    unlimited = early.unsent_limits()
    for connections in range(2, 2000):
        crowd.count(connections)
    assert early.unsent_limits() == [COPIED_BYTES // 4] * 2
    for connections in range(2000, 0, -1):
        crowd.count(connections)
    assert early.unsent_limits() == unlimited


def test_one_that_comes_in_a_crowd_is_limited(pair: tuple[socket.socket, socket.socket]) -> None:
    late = TwoSockets(*pair)
    crowd = Crowd(list)
    crowd.count(5000)
    crowd.begin(cast(Any, late))
    assert late.unsent_limits() == [COPIED_BYTES // 4] * 2
