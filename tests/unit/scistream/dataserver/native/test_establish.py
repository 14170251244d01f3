"""A connection whose setting-up meets a bug is ended, and nothing else."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from scistream.dataserver.native.establish import Establishment
from scistream.dataserver.native.loop import Loop
from scistream.dataserver.native.sockets import stream_socket


class FaultySession:
    """A session that cannot fit a connection to its path."""

    tls = None
    tls_leg = None

    def target_socket(self, family: int) -> socket.socket:
        return stream_socket(family)

    def established(self, *_arguments: object) -> None:
        raise OSError(92, "Protocol not available")


class FaultyChannel:
    """Its only channel."""

    def __init__(self, loop: Loop, target: socket.socket) -> None:
        self.session = FaultySession()
        self.addresses = ((socket.AF_INET, target.getsockname()),)
        self.outcomes: list[bool] = []
        self._loop = loop

    def establishment_ended(self, _establishment: Establishment, *, failed: bool) -> None:
        self.outcomes.append(failed)
        self._loop.stopping = True


def test_a_bug_after_the_target_has_answered_resets_both_ends(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as target:
        application = socket.create_connection(listener.getsockname(), timeout=10)
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        channel: Any = FaultyChannel(loop, target)
        establishment = Establishment(loop, channel, accepted)
        loop.watch(accepted.fileno(), 4, lambda _events: establishment.begin(), establishment)
        application.sendall(b"?")
        with caplog.at_level(logging.ERROR):
            loop.run()
        assert "Protocol not available" in caplog.text
        assert channel.outcomes == [True]
        with application, pytest.raises(ConnectionResetError):
            application.recv(1)
        dialled, _ = target.accept()
        with dialled, pytest.raises(ConnectionResetError):
            dialled.recv(1)
    loop.close()
