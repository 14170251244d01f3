"""What one connection may hold where there are many, so that all together are bounded if all stall.

The worker's own memory is divided among them (`share_of`). So is what may wait unsent in the kernel. It would
take some MB of each one, until all sockets of the machine have what they may (``net.ipv4.tcp_mem``) and every
other stream crawls.

Measured with 5,000 stalled connections through one gateway: 1.3 GB in the kernel instead of 1.6, and some
Gb/s for one more connection instead of 0.1. Receive buffers are left alone: beginning with smaller ones saved
0.4 GB more in a trial, but what that does to streams over other networks was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from scistream.dataserver.native.sockets import COPIED_BYTES, is_multipath, limit_unsent
from scistream.dataserver.native.tls import BATCH_BYTES

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Relay

CROWD_BYTES = 16 << 20
"""What all connections of a worker together may park in its memory, in each direction."""
_UNSENT_PART = 4
"""A connection's share over what may wait unsent on each of its sockets."""
_NO_LIMIT = 0
_STEP = 2
"""The limits of all connections follow when the share has changed by this factor."""


def share_of(connections: int) -> int:
    """Return what each of so many connections may park in the worker's memory, in each direction."""
    return max(COPIED_BYTES, min(BATCH_BYTES, CROWD_BYTES // max(1, connections)))


class Crowd:
    """The connections of one worker, as many as there are now.

    Parameters
    ----------
    relays : callable
        Returns all that are open.
    """

    def __init__(self, relays: Callable[[], Iterable[Relay]]) -> None:
        self._relays = relays
        self._told = BATCH_BYTES
        self.share_bytes = BATCH_BYTES

    def count(self, connections: int) -> None:
        """Take note of how many there are; those that are open already get their limits anew if need be."""
        share = self.share_bytes = share_of(connections)
        if share * _STEP <= self._told or share >= self._told * _STEP:
            self._told = share
            for relay in self._relays():
                self._limit(relay)

    def begin(self, relay: Relay) -> None:
        """Limit what a new connection may hold."""
        if self.share_bytes < BATCH_BYTES:
            self._limit(relay)

    def _limit(self, relay: Relay) -> None:
        limit = _NO_LIMIT if self.share_bytes == BATCH_BYTES else self.share_bytes // _UNSENT_PART
        for sock in (relay.accepted, relay.target):
            if not is_multipath(sock):  # older kernels know no such limit for it
                limit_unsent(sock, limit)
