"""A session's rate, kept by the kernel: each connection is paced to its share (SO_MAX_PACING_RATE).

The two directions are paced apart, each to the rate. Every `ADJUST_S` it is looked at which connections use
their shares, in all workers: these divide the rate among them, the others keep a little of it, enough to show
soon that they want more. A pacing rate limits what is sent on a socket: for one direction that is the
target's, for the other the accepted one. The kernel paces no MPTCP connection; where the peer insists on
one, that direction goes unpaced, and a line in the log says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from scistream.dataserver.native.sockets import is_multipath, pace

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Flow, Relay
    from scistream.dataserver.native.session import Session

logger = logging.getLogger(__name__)

ADJUST_S = 0.1
BUSY_PART = 0.5
"""A connection that has used so much of its share wants more."""
IDLE_PART = 0.1
"""What the others keep, of an equal share."""
LEAST_BYTES_PER_S = 125_000
"""They keep at least this, or an equal share: a packet that is sent too slowly delays the next."""
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
    (9200000, 200000)
    >>> shares(10_000_000, connections=5, busy=0)
    (2000000, 2000000)
    """
    connections = max(1, connections, busy)
    equal = bytes_per_s / connections
    if busy in {0, connections}:
        return max(1, int(equal)), max(1, int(equal))
    idle = min(equal, max(IDLE_PART * equal, LEAST_BYTES_PER_S))
    return max(1, int((bytes_per_s - idle * (connections - busy)) / busy)), max(1, int(idle))


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
        """Pace one more connection; the others give their part at the next look."""
        connections, balance, slot = self._connections(), self._session.worker.balance, self._session.slot
        for direction in self._directions:
            busy = balance.busy(slot, direction.index) + 1
            direction.begin(relay, shares(self._bytes_per_s, connections, busy)[0])
        if not self._looking:
            self._looking = True
            self._looked_at = time.monotonic()
            self._session.worker.pacing.add(self)

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


class _Direction:
    """The flows of one direction, and what each was given and has used."""

    def __init__(
        self, index: int, flow_of: Callable[[Relay], Flow], tell_of_multipath: Callable[[], None]
    ) -> None:
        self.index = index
        self._flow_of = flow_of
        self._tell_of_multipath = tell_of_multipath
        self._given: dict[Flow, int] = {}
        self._moved: dict[Flow, int] = {}
        self._busy: set[Flow] = set()

    def begin(self, relay: Relay, share: int) -> None:
        flow = self._flow_of(relay)
        self._moved[flow] = 0
        self._pace(flow, share)

    def count_busy(self, relays: Iterable[Relay], elapsed_s: float) -> int:
        """Find out which flows use their shares; forget those that are over."""
        flows = [self._flow_of(relay) for relay in relays]
        before, self._moved = self._moved, {flow: flow.moved for flow in flows}
        self._given = {flow: self._given[flow] for flow in flows}
        self._busy = {
            flow
            for flow in flows
            if flow.moved - before[flow] >= BUSY_PART * self._given[flow] * elapsed_s and not flow.done
        }
        return len(self._busy)

    def give(self, busy_share: int, idle_share: int) -> None:
        """Pace all flows anew; a connection that cannot be paced is ended, since it would keep no rate."""
        for flow in self._moved:
            if flow.relay.closed:
                continue
            try:
                self._pace(flow, busy_share if flow in self._busy else idle_share)
            except Exception:
                logger.exception("a connection is ended because it cannot be paced")
                flow.relay.abort()

    def _pace(self, flow: Flow, share: int) -> None:
        if self._given.get(flow) == share:
            return
        self._given[flow] = share
        if is_multipath(flow.sink):
            self._tell_of_multipath()
        else:
            pace(flow.sink, share)
