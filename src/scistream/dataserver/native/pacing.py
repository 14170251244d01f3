"""A session's rate, kept by the kernel: each connection is paced to its share (SO_MAX_PACING_RATE).

The share is the rate divided by the session's connections in all workers, and by its channels while fewer
are open; it is looked at every `ADJUST_S`. A pacing rate limits what is sent on a socket: for one direction
that is the target's, for the other the accepted one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scistream.dataserver.native.sockets import pace

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Relay
    from scistream.dataserver.native.session import Session

ADJUST_S = 0.1
_BYTES_PER_S = 125_000
"""Of one Mb/s."""


class Pacer:
    """Holds one session's connections in this worker to their share."""

    def __init__(self, session: Session, rate_mbps: float) -> None:
        self._session = session
        self._bytes_per_s = rate_mbps * _BYTES_PER_S
        self._share = 0
        self._looking = False

    def begin(self, relay: Relay) -> None:
        """Pace one more connection; the others give their part at the next look."""
        _pace(relay, self._share_now())
        self._share = 0
        if not self._looking:
            self._looking = True
            self._session.worker.pacing.add(self)

    def adjust(self) -> None:
        """Give every connection the share that it has now; look again later if there is any."""
        relays = [relay for channel in self._session.channels for relay in channel.open_relays]
        self._looking = bool(relays)
        if not relays:
            return
        self._session.worker.pacing.add(self)
        share = self._share_now()
        if share != self._share:
            self._share = share
            for relay in relays:
                _pace(relay, share)

    def end(self) -> None:
        """Look no more."""
        self._session.worker.pacing.discard(self)

    def _share_now(self) -> int:
        session = self._session
        connections = max(len(session.channels), session.worker.open_connections(session))
        return max(1, int(self._bytes_per_s / connections))


def _pace(relay: Relay, bytes_per_s: int) -> None:
    pace(relay.accepted, bytes_per_s)
    pace(relay.target, bytes_per_s)
