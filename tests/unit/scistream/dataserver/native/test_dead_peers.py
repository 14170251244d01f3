"""A connection that cannot be looked after is ended, and the others are looked after still."""

from __future__ import annotations

import logging
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from scistream.dataserver.native.dead_peers import LOOKS, DeadPeers
from scistream.dataserver.native.loop import Loop
from scistream.dataserver.native.sockets import is_kept_alive
from support.relays import accept, connect, listening


class Looked:
    """What is asked of a relay, and whether it was ended."""

    closed = False

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.to_target = SimpleNamespace(source=source, cut=False)
        self.from_target = SimpleNamespace(source=sink, cut=False)
        self.aborted = False

    def abort(self) -> None:
        self.aborted = self.closed = True


def test_a_connection_that_cannot_be_looked_after_is_ended_alone(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    with listening() as listener, connect(listener) as near, accept(listener) as far:
        gone = socket.socket()
        gone.close()
        relays = [Looked(gone, far), Looked(near, far)]
        dead_peers = DeadPeers(loop, 0.01 * LOOKS, lambda: _looked(loop, relays))
        dead_peers.begin()
        with caplog.at_level(logging.ERROR):
            loop.run()
        assert [relay.aborted for relay in relays] == [True, False]
        assert is_kept_alive(near)
        assert "could not be looked after" in caplog.text
    loop.close()


def _looked(loop: Loop, relays: list[Looked]) -> Any:
    loop.stopping = True
    return relays
