"""The event loop of one worker: edge-triggered epoll, taking turns, and limits in time.

It knows descriptors and callbacks, nothing of sessions or TLS. One thread runs it, and everything that it
calls returns at once.
"""

from __future__ import annotations

import logging
import math
import select
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from scistream.dataserver.native.sockets import PipePool
from scistream.dataserver.native.tls import Scratch

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Flow, Relay
    from scistream.dataserver.native.tls_relay import SealFlow

logger = logging.getLogger(__name__)

MAX_EVENTS = 256
ESTABLISH_LIMIT_S = 10.0
"""How long one TLS handshake, or one attempt to connect to a target's address, may take."""
STARVED_RETRY_S = 0.05
"""When a flow that got no descriptor for a pipe tries again."""
CUT_DELIVERY_S = 10.0
"""How long a cut stream's last bytes may take to reach a slow receiver before it sees the reset."""
CUT_POLL_S = 0.01
"""How often the send queue of such a receiver is looked at: nothing tells when it is empty."""

IDLE_S = 5.0
"""A TLS connection that has sealed nothing for so long gives memory back."""

T = TypeVar("T")


class Owner(Protocol):
    """Whoever watches a descriptor: what is ended if its handler has a bug."""

    def abort(self) -> None:
        """End at once."""


class Deadlines(Generic[T]):
    """Things that all have the same time from when they are added; `action` is called for each that is late.

    The oldest is always first, so that adding, discarding and looking cost the same for any number.
    """

    def __init__(self, limit_s: float, action: Callable[[T], None]) -> None:
        self._limit_s = limit_s
        self._action = action
        self._due: dict[T, float] = {}

    def add(self, item: T) -> None:
        """Begin its time anew."""
        self._due.pop(item, None)
        self._due[item] = time.monotonic() + self._limit_s

    def discard(self, item: T) -> None:
        """Forget it."""
        self._due.pop(item, None)

    def next_due(self) -> float | None:
        """Return when the first is late, on the monotonic clock."""
        return next(iter(self._due.values()), None)

    def act(self, now: float) -> None:
        """Call the action for all that are late at `now`; each is forgotten first."""
        late = []
        for item, due in self._due.items():
            if due > now:
                break
            late.append(item)
        for item in late:
            # an action may discard others, and add its own item again
            if self._due.get(item, math.inf) <= now:
                del self._due[item]
                self._action(item)


class Loop:
    """What a worker's connections share: events, turns, time limits, pipes, buffers."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._owners: dict[int, Owner] = {}
        self._turns: deque[Flow] = deque()
        self.pipes = PipePool()
        self.scratch = Scratch()
        self.stopping = False
        self.establishing: Deadlines[Any] = Deadlines(ESTABLISH_LIMIT_S, lambda item: item.too_late())
        self.cut_relays: Deadlines[Relay] = Deadlines(CUT_DELIVERY_S, lambda relay: relay.abort())
        self.cut_polls: Deadlines[Flow] = Deadlines(CUT_POLL_S, lambda flow: flow.relay.deliver_cut(flow))
        self.starved: Deadlines[Flow] = Deadlines(STARVED_RETRY_S, lambda flow: flow.run())
        self.bulky: Deadlines[SealFlow] = Deadlines(IDLE_S, lambda flow: flow.shrink_if_idle())
        self._deadlines: list[Deadlines[Any]] = [
            self.establishing,
            self.cut_relays,
            self.cut_polls,
            self.starved,
            self.bulky,
        ]

    def add_deadlines(self, deadlines: Deadlines[Any]) -> None:
        """Look after these as well."""
        self._deadlines.append(deadlines)

    def watch(self, descriptor: int, events: int, handler: Callable[[int], None], owner: Owner) -> None:
        """Call `handler` with epoll's event bits whenever `descriptor` has some of `events`."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler
        self._owners[descriptor] = owner

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching; closing is not enough where another process has the same socket."""
        if self._handlers.pop(descriptor, None) is not None:
            del self._owners[descriptor]
            self._epoll.unregister(descriptor)

    def run_again(self, flow: Flow) -> None:
        """Give `flow` another turn after everything else had one."""
        self._turns.append(flow)

    def run(self) -> None:
        """Handle events until `stopping`."""
        poll, handlers, turns = self._epoll.poll, self._handlers, self._turns
        while not self.stopping:
            timeout: float | None = 0 if turns else None
            due = [moment for moment in (deadlines.next_due() for deadlines in self._deadlines) if moment]
            if due and not turns:
                timeout = max(0.0, min(due) - time.monotonic())
            for descriptor, events in poll(timeout, MAX_EVENTS):
                handler = handlers.get(descriptor)
                if handler is None:
                    continue
                try:
                    handler(events)
                except Exception:
                    # one connection met a bug: end it, and go on for all the others
                    logger.exception("a connection is ended because its handler failed")
                    self._owners[descriptor].abort()
            for _ in range(len(turns)):
                flow = turns.popleft()
                flow.waiting = False
                try:
                    flow.run()
                except Exception:
                    logger.exception("a connection is ended because its handler failed")
                    flow.relay.abort()
            if due:
                now = time.monotonic()
                for deadlines in self._deadlines:
                    deadlines.act(now)

    def close(self) -> None:
        """Free the loop's own descriptors."""
        self._epoll.close()
        self.pipes.close()
