"""A session's rate, kept by the kernel: each connection is paced to its share (SO_MAX_PACING_RATE).

The two directions are paced apart, each to the rate. Every `ADJUST_S` it is looked at which connections want
their shares, in all workers: these divide the whole rate among them. The others may begin at any moment with
an equal share of all connections, so that together they are at most twice as fast as they should be, until
the next look. A pacing rate limits what is sent on a socket: for one direction that is the target's, for the
other the accepted one. The kernel paces no MPTCP connection; where the peer insists on one, that direction
goes unpaced, and a line in the log says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from scistream.dataserver.native.sockets import is_multipath, pace, unsent_bytes

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Flow, Relay
    from scistream.dataserver.native.session import Session

logger = logging.getLogger(__name__)

ADJUST_S = 0.1
SOON_S = 0.01
"""New connections are looked at together, at most so often."""
BUSY_PART = 0.5
"""A connection that uses so much of its share wants it."""
AVERAGE_S = 1.0
"""Over which time its use is averaged: the kernel may send several packets at once, and then pause."""
_BYTES_PER_S = 125_000
"""Of one Mb/s."""


def shares(bytes_per_s: float, connections: int, busy: int) -> tuple[int, int]:
    """Divide a rate; return the share of a connection that is busy, and of one that is not.

    Parameters
    ----------
    bytes_per_s : float
        The rate.
    connections, busy : int
        How many there are, and how many of these use their shares.

    Examples
    --------
    >>> shares(10_000_000, connections=5, busy=1)
    (10000000, 2000000)
    >>> shares(10_000_000, connections=5, busy=0)
    (2000000, 2000000)
    """
    connections = max(1, connections, busy)
    equal = max(1, int(bytes_per_s / connections))
    return (max(1, int(bytes_per_s / busy)) if busy else equal), equal


class Pacer:
    """Holds one session's connections in this worker to their shares."""

    def __init__(self, session: Session, rate_mbps: float) -> None:
        self._session = session
        self._bytes_per_s = rate_mbps * _BYTES_PER_S
        self._directions = [
            _Direction(0, lambda relay: relay.to_target, self._tell_of_multipath),
            _Direction(1, lambda relay: relay.from_target, self._tell_of_multipath),
        ]
        self._told_of_multipath = False
        self._looking = False
        self._looked_at = 0.0

    def begin(self, relay: Relay) -> None:
        """Pace one more connection; the others give their part now, or in a moment if that was just done."""
        for direction in self._directions:
            direction.begin(relay, shares(self._bytes_per_s, self._connections(), 0)[1])
        if not self._looking:
            self._looking = True
            self._looked_at = time.monotonic()
            self._session.worker.pacing.add(self)
        elif time.monotonic() - self._looked_at > SOON_S:
            self.adjust()

    def adjust(self) -> None:
        """Give every connection the share that it has now; look again later if there is any."""
        relays = [relay for channel in self._session.channels for relay in channel.open_relays]
        now = time.monotonic()
        elapsed_s, self._looked_at = now - self._looked_at, now
        connections, balance, slot = self._connections(), self._session.worker.balance, self._session.slot
        for direction in self._directions:
            balance.tell_busy(slot, direction.index, direction.count_busy(relays, elapsed_s))
            busy = balance.busy(slot, direction.index)
            direction.give(*shares(self._bytes_per_s, connections, busy))
        self._looking = bool(relays)
        if relays:
            self._session.worker.pacing.add(self)

    def end(self) -> None:
        """Look no more."""
        self._session.worker.pacing.discard(self)

    def _tell_of_multipath(self) -> None:
        if not self._told_of_multipath:
            self._told_of_multipath = True
            logger.warning(
                "session %s: a peer uses MPTCP, which the kernel cannot pace: what is sent to it is not held "
                "to the session's rate; start what connects there without MPTCP",
                self._session.uid,
            )

    def _connections(self) -> int:
        return self._session.worker.open_connections(self._session)


class _Use:
    """What one flow was given, and how much of it it has used."""

    __slots__ = ("given", "part", "sent", "waits")

    def __init__(self) -> None:
        self.given = 0
        self.sent = 0
        self.part = 1.0
        self.waits = False

    def look(self, flow: Flow, elapsed_s: float) -> bool:
        """Return whether the flow wants its share.

        If something waits to be sent it does; unless it goes so slowly that the receiver must be the reason.
        """
        if flow.done or (flow.moved == self.sent and not self.waits and not flow.parked):
            unsent, sent = 0, flow.moved
        else:
            unsent = unsent_bytes(flow.sink)
            sent = flow.moved - unsent
        waits = unsent > 0 or flow.parked > 0
        used = (sent - self.sent) / max(1.0, self.given * elapsed_s)
        self.part += (min(used, 1.0) - self.part) * min(1.0, elapsed_s / AVERAGE_S)
        if waits and not self.waits:
            self.part = 1.0
        self.sent, self.waits = sent, waits
        return self.part >= BUSY_PART and not flow.done


class _Direction:
    """The flows of one direction."""

    def __init__(
        self, index: int, flow_of: Callable[[Relay], Flow], tell_of_multipath: Callable[[], None]
    ) -> None:
        self.index = index
        self._flow_of = flow_of
        self._tell_of_multipath = tell_of_multipath
        self._uses: dict[Flow, _Use] = {}
        self._busy: set[Flow] = set()

    def begin(self, relay: Relay, share: int) -> None:
        flow = self._flow_of(relay)
        self._uses[flow] = _Use()
        self._pace(flow, share)

    def count_busy(self, relays: Iterable[Relay], elapsed_s: float) -> int:
        """Find out which flows want their shares; forget those that are over."""
        self._uses = {flow: self._uses[flow] for flow in map(self._flow_of, relays)}
        self._busy = {flow for flow, use in self._uses.items() if use.look(flow, elapsed_s)}
        return len(self._busy)

    def give(self, busy_share: int, idle_share: int) -> None:
        """Pace all flows anew; a connection that cannot be paced is ended, since it would keep no rate."""
        for flow in self._uses:
            if flow.relay.closed:
                continue
            try:
                self._pace(flow, busy_share if flow in self._busy else idle_share)
            except Exception:
                logger.exception("a connection is ended because it cannot be paced")
                flow.relay.abort()

    def _pace(self, flow: Flow, share: int) -> None:
        use = self._uses[flow]
        if use.given == share:
            return
        use.given = share
        if is_multipath(flow.sink):
            self._tell_of_multipath()
        else:
            pace(flow.sink, share)
