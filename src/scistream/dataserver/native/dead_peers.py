"""Ends connections whose peer does not answer any more: its host is gone, or the way to it.

Keepalive sees to those on which nothing is on the way. Where something is, the kernel goes on for a quarter
of an hour and more. TCP_USER_TIMEOUT is no help: it also ends connections whose receiver is alive and only
stalls, and a stalled receiver may stall for hours. So each connection is looked at from time to time: one is
dead if acknowledgements have been due for so long, and none came. Keepalive begins at the first look, as most
connections that are short need none.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from scistream.dataserver.native.sockets import is_kept_alive, keep_alive
from scistream.dataserver.native.tcp_info import TcpInfo, tcp_info

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop
    from scistream.dataserver.native.relay import Relay

logger = logging.getLogger(__name__)

LOOKS = 8
"""Per time-out."""
UNANSWERED = 2
"""Probes or retransmissions; one may have been sent a moment ago, after a long silence."""


class DeadPeers:
    """Looks for them among all connections of a worker.

    Parameters
    ----------
    loop : Loop
        Whose deadlines it uses.
    timeout_s : float
        How long a peer may leave everything unanswered.
    relays : callable
        Returns the connections that are open.
    """

    def __init__(self, loop: Loop, timeout_s: float, relays: Callable[[], Iterable[Relay]]) -> None:
        self._timeout_s = timeout_s
        self._relays = relays
        self._looks = loop.deadlines(timeout_s / LOOKS, DeadPeers._look)
        self._looking = False

    def begin(self) -> None:
        """Look from now on, until no connection is open."""
        if not self._looking:
            self._looking = True
            self._looks.add(self)

    def _look(self) -> None:
        self._looking = False
        for relay in self._relays():
            self.begin()
            try:
                self._look_at(relay)
            except Exception:
                logger.exception("a connection is ended because its peer could not be looked after")
                relay.abort()

    def _look_at(self, relay: Relay) -> None:
        for flow in (relay.to_target, relay.from_target):
            if not relay.closed and not flow.cut:
                if not is_kept_alive(flow.source):
                    keep_alive(flow.source, self._timeout_s)
                info = tcp_info(flow.source)
                if info.silent_s > self._timeout_s and _unanswered(info):
                    logger.info(
                        "session %s: channel %d: a peer has not answered for %.0f s: cut",
                        relay.channel.session.uid,
                        relay.channel.index,
                        info.silent_s,
                    )
                    # after what came before, its end is read, which is that of a cut stream
                    with contextlib.suppress(OSError):  # its error has come meanwhile
                        flow.source.shutdown(socket.SHUT_RD)
                    relay.cut(flow)


def _unanswered(info: TcpInfo) -> bool:
    """Return whether answers are overdue."""
    if info.probes >= UNANSWERED:
        return True
    # who cannot take more answers each retransmission, which however come less and less often
    return info.retransmissions >= UNANSWERED and info.silent_s > 1.5 * info.retransmission_timeout_s
