"""Which targets are dialled again, and that a bug in setting up one connection ends that one only."""

from __future__ import annotations

import logging
import select
import socket
from typing import Any

import pytest

from scistream.dataserver.native.establish import Dial, Establishment
from scistream.dataserver.native.loop import Loop
from scistream.dataserver.native.relay import Relay
from scistream.dataserver.native.sockets import stream_socket
from support.relays import LOCALHOST, accept, cut, free_port, listening


class Nobody:
    """An owner that is not needed."""

    def abort(self) -> None:
        raise AssertionError


def _dial(loop: Loop, address: tuple[str, int], open_socket: Any) -> list[str]:
    """Dial until it is decided; return the reason of the failure, or nothing."""
    reasons: list[str] = []

    def connected(sock: socket.socket) -> None:
        sock.close()
        loop.stopping = True

    def failed(reason: str) -> None:
        reasons.append(reason)
        loop.stopping = True

    dial = Dial(
        loop,
        Nobody(),
        ((socket.AF_INET, address),),
        open_socket,
        wanted=lambda: True,
        connected=connected,
        failed=failed,
    )
    dial.begin()
    loop.run()
    return reasons


def test_a_target_that_accepts_and_cuts_at_once_is_not_dialled_again() -> None:
    loop, attempts = Loop(), []
    with listening() as listener:

        class CutAtOnce(socket.socket):
            """One whose peer has cut it before anybody looks whether it is connected."""

            asked = False

            def connect_ex(self, address: Any) -> int:
                code = super().connect_ex(address)
                if not self.asked:
                    self.asked = True
                    cut(accept(listener))
                    broken = select.poll()
                    broken.register(self, 0)  # errors are always told
                    assert broken.poll(10_000)
                return code

        def open_socket(family: int) -> socket.socket:
            attempts.append(family)
            return CutAtOnce(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

        (reason,) = _dial(loop, listener.getsockname(), open_socket)
        assert "reset" in reason
        assert len(attempts) == 1
    loop.close()


def test_a_target_that_refuses_is_dialled_again_until_the_limit() -> None:
    loop, attempts = Loop(), []
    loop.dial_retries = loop.dial_retries[:3]

    def open_socket(family: int) -> socket.socket:
        attempts.append(family)
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    (reason,) = _dial(loop, (LOCALHOST, free_port()), open_socket)
    assert "refused" in reason
    assert len(attempts) == 1 + 3
    loop.close()


class FaultySession:
    """A session that cannot fit a connection to its path."""

    tls = None
    tls_leg = None
    reverse = False

    def target_socket(self, family: int) -> socket.socket:
        return stream_socket(family)

    def established(self, *_arguments: object) -> None:
        raise OSError(92, "Protocol not available")


class FaultyChannel:
    """Its only channel."""

    room = None

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


class WellSession(FaultySession):
    """A session that has nothing to say against a connection."""

    def established(self, *_arguments: object) -> None:
        pass


class FullChannel(FaultyChannel):
    """A channel whose relays cannot begin."""

    def __init__(self, loop: Loop, target: socket.socket) -> None:
        super().__init__(loop, target)
        self.session = WellSession()
        self.ended: list[Relay] = []

    def relay_begins(self, _relay: Relay) -> None:
        raise OSError(28, "No space left on device")

    def relay_ended(self, relay: Relay) -> None:
        self.ended.append(relay)


def test_a_relay_that_cannot_begin_resets_both_ends_and_is_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    with socket.create_server((LOCALHOST, 0)) as listener, socket.create_server((LOCALHOST, 0)) as target:
        application = socket.create_connection(listener.getsockname(), timeout=10)
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        channel: Any = FullChannel(loop, target)
        establishment = Establishment(loop, channel, accepted)
        loop.watch(accepted.fileno(), 4, lambda _events: establishment.begin(), establishment)
        with caplog.at_level(logging.ERROR):
            loop.run()
        assert "No space left" in caplog.text
        assert channel.outcomes == [False]  # it was handed over, and ended as a relay
        assert len(channel.ended) == 1
        dialled = accept(target)
        for end in (application, dialled):
            with end, pytest.raises(ConnectionResetError):
                end.recv(1)
    loop.close()
