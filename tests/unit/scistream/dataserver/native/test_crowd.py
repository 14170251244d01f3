"""What connections may hold in a crowd."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from scistream.dataserver.native.crowd import CROWD_BYTES, Crowd, share_of
from scistream.dataserver.native.sockets import COPIED_BYTES, SO_BUF_LOCK, begin_small
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

    def receive_buffers(self) -> list[int]:
        return [sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in (self.accepted, self.target)]


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


def test_one_that_comes_in_a_crowd_begins_small(pair: tuple[socket.socket, socket.socket]) -> None:
    late = TwoSockets(*pair)
    before = late.receive_buffers()
    crowd = Crowd(list)
    crowd.count(100)
    crowd.begin(cast(Any, late))
    assert late.receive_buffers() == before  # it is no more than this crowd may have
    crowd.count(5000)
    crowd.begin(cast(Any, late))
    assert late.receive_buffers() == [4 * COPIED_BYTES] * 2
    assert late.unsent_limits() == [COPIED_BYTES // 4] * 2


def test_a_buffer_that_begins_small_grows_with_its_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    begin_small(far, 32 * 1024)
    first = far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert first == 64 * 1024
    near.setblocking(False)
    far.settimeout(20)
    left = 200_000_000
    while left and far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == first:
        try:
            left -= near.send(bytes(min(left, 1 << 20)))
        except BlockingIOError:
            far.recv(1 << 20)
    assert far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > first


def test_a_buffer_that_was_set_for_a_long_path_stays(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    set_to = near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    begin_small(near, 16 * 1024)
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == set_to
    assert near.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) != 0
