"""What the application sees of a flow: the events at its sender, the items at its receiver; and how to wait.

A flow is one receiver's ordered stream of messages from one sender. It may use several connections; the
application does not notice. Nothing here sends or receives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import zmq

RECONNECT_TIMEOUT_S = 120.0
"""How long both ends of a flow wait for connections that were lost, if not told otherwise."""

FIRST_CREDITS = 16
"""Before it is known how large the messages are."""
_MOST_CREDITS = 1024
_BUDGET_BYTES = 128 << 20


def credits_for(message_bytes: int) -> int:
    """Return how many messages of this size may be on their way: what 128 MiB hold, from 16 to 1024.

    A path of 100 ms needs a tenth of what comes in a second, and a third more, because credits return a
    quarter of them at a time.
    """
    return min(_MOST_CREDITS, max(FIRST_CREDITS, _BUDGET_BYTES // max(1, message_bytes)))


@dataclass(frozen=True, slots=True)
class Joined:
    """All connections of a flow are there: messages can be sent.

    Parameters
    ----------
    flow : str
    attributes : mapping
        What the receiver told about itself. It is the peer's word, checked for nothing but being JSON.
    """

    flow: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Left:
    """The receiver of a flow is gone; `lost` says that it did not take leave, and has not come back in time.

    Parameters
    ----------
    flow : str
    reason : str
    lost : bool
    unacknowledged : int
        Messages that were sent and that it has not acknowledged.
    """

    flow: str
    reason: str
    lost: bool
    unacknowledged: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The receiver has done with all messages up to and including `sequence`."""

    flow: str
    sequence: int


FlowEvent = Joined | Left | Acknowledged


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it was sent.

    Parameters
    ----------
    sequence : int
        Its number in the flow, from 0, without gaps.
    payload : memoryview
        Read-only.
    """

    sequence: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Notice:
    """A small message beside the stream, at the place in the stream where it was sent."""

    message: Mapping[str, Any]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The sender has finished the flow: `messages` have been received, and no more will come."""

    messages: int


class Party(Protocol):
    """An end of flows that can be waited for."""

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Sockets that become readable when there is something to do."""

    @property
    def pending(self) -> bool:
        """Something can be had without waiting."""


def wait_any(parties: list[Party], timeout_s: float) -> None:
    """Wait until one of `parties` has something to do, or the time is over.

    For programs that serve an `Inlet` and an `Outlet` in one thread: wait, then ask each with a timeout
    of 0. It may return early without a reason; ask at least once a second, for peers that fall silent.
    """
    if any(party.pending for party in parties):
        return
    poller = zmq.Poller()
    for party in parties:
        for socket in party.sockets:
            poller.register(socket, zmq.POLLIN)
    poller.poll(int(max(0.0, timeout_s) * 1000))


class Deadline:
    """A moment, and how long it is until then."""

    def __init__(self, timeout_s: float) -> None:
        self._at_s = time.monotonic() + timeout_s

    @property
    def remaining_s(self) -> float:
        """Seconds until then; 0 when it is over."""
        return max(0.0, self._at_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether that moment has come."""
        return self.remaining_s == 0.0
