"""A target that refuses is dialled again; one that accepts and cuts at once has said what it had to say."""

from __future__ import annotations

import select
import socket
from typing import Any

from scistream.dataserver.native.establish import Dial
from scistream.dataserver.native.loop import Loop
from support.relays import LOCALHOST, accept, cut, free_port, listening


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
