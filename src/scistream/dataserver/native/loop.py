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

from scistream.dataserver.native.sockets import COPIED_BYTES, PipePool
from scistream.dataserver.native.tls import BATCH_BYTES, Scratch

if TYPE_CHECKING:
    from scistream.dataserver.native.relay import Flow

logger = logging.getLogger(__name__)

MAX_EVENTS = 256
ESTABLISH_LIMIT_S = 10.0
"""How long one TLS handshake, or one attempt to connect to a target's address, may take."""
DIAL_RETRIES_S = (0.05, 0.1, 0.2, 0.4, 0.75, 1.5)
"""When a target that refuses is dialled again, each from the refusal before: within 3 s."""
STARVED_RETRY_S = 0.05
"""When a flow tries again that got no descriptor for a pipe, or waits for what the kernel does not tell."""
CUT_DELIVERY_S = 10.0
"""How long a cut stream's last bytes may take to reach a slow receiver before it sees the reset."""
CUT_POLL_S = 0.01
"""How often the send queue of such a receiver is looked at: nothing tells when it is empty."""

IDLE_S = 5.0
"""A TLS connection that has sealed nothing for so long gives memory back."""

BUG = "a connection is ended because its handler failed"

T = TypeVar("T")


class Owner(Protocol):
    """Whoever watches a descriptor: what is ended if its handler has a bug."""

    def abort(self) -> None:
        """End at once."""


class Agenda:
    """The deadlines of one loop that hold something, and when to look at them."""

    def __init__(self) -> None:
        self.running: set[Deadlines[Any]] = set()
        self.soonest = math.inf
        """Nothing is late before; by discarding it may have become too early."""

    def act(self, now: float) -> None:
        """Call the actions of all that is late at `now`."""
        for deadlines in tuple(self.running):
            deadlines.act(now)
        self.soonest = min((deadlines.next_due() for deadlines in self.running), default=math.inf)


class Deadlines(Generic[T]):
    """Things that all have the same time from when they are added; `action` is called for each that is late.

    The oldest is always first, so that adding, discarding and looking cost the same for any number.
    """

    def __init__(self, limit_s: float, action: Callable[[T], None], agenda: Agenda | None = None) -> None:
        self._limit_s = limit_s
        self._action = action
        self._due: dict[T, float] = {}
        self._agenda = agenda if agenda is not None else Agenda()

    def add(self, item: T) -> None:
        """Begin its time anew."""
        self._due.pop(item, None)
        due = self._due[item] = time.monotonic() + self._limit_s
        agenda = self._agenda
        agenda.running.add(self)
        agenda.soonest = min(agenda.soonest, due)

    def discard(self, item: T) -> None:
        """Forget it."""
        if self._due.pop(item, None) is not None and not self._due:
            self._agenda.running.discard(self)

    def next_due(self) -> float:
        """Return when the first is late, on the monotonic clock; infinity if there is none."""
        return next(iter(self._due.values()), math.inf)

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
                self.discard(item)
                self._action(item)


class Loop:
    """What a worker's connections share: events, turns, time limits, pipes, buffers."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._owners: dict[int, Owner] = {}
        self._turns: deque[Flow] = deque()
        self.pumped = 0
        """Flows that were run since events were asked for last."""
        self.pipes = PipePool()
        self.scratch = Scratch()
        self.small = self.scratch.input_view[:COPIED_BYTES]
        self.share_bytes = BATCH_BYTES
        """What a connection may park here in each direction; see `crowd`."""
        self.stopping = False
        self._agenda = Agenda()
        self.establishing = self.deadlines(ESTABLISH_LIMIT_S, lambda step: step.too_late(), end_step)
        self.dial_retries = [
            self.deadlines(wait_s, lambda dial: dial.again(), end_step) for wait_s in DIAL_RETRIES_S
        ]
        self.cut_relays = self.deadlines(CUT_DELIVERY_S, lambda relay: relay.abort())
        self.cut_polls = self.deadlines(CUT_POLL_S, lambda flow: flow.relay.deliver_cut(flow), _end_flow)
        self.starved = self.deadlines(STARVED_RETRY_S, lambda flow: flow.run(), _end_flow)
        self.bulky = self.deadlines(IDLE_S, lambda flow: flow.shrink_if_idle(), _end_flow)

    def deadlines(
        self, limit_s: float, action: Callable[[Any], None], end: Callable[[Any], None] | None = None
    ) -> Deadlines[Any]:
        """Return a time limit that this loop looks after.

        Parameters
        ----------
        limit_s : float
            When `action` is called with the item.
        end : callable, optional
            Ends the one connection that the item belongs to, after a bug in `action`; without it the bug ends
            the loop.
        """

        def act(item: Any) -> None:
            try:
                action(item)
            except Exception:
                if end is None:
                    raise
                logger.exception(BUG)
                end(item)

        return Deadlines(limit_s, act, self._agenda)

    def watch(self, descriptor: int, events: int, handler: Callable[[int], None], owner: Owner) -> None:
        """Call `handler` with epoll's event bits whenever `descriptor` has some of `events`.

        If it was watched already this takes its place. In both cases what is there already is told.
        """
        if descriptor in self._handlers:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler
        self._owners[descriptor] = owner

    def change(self, descriptor: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Stop watching, before its only descriptor is closed: the kernel does the rest then."""
        if self._handlers.pop(descriptor, None) is not None:
            del self._owners[descriptor]

    def forget_shared(self, descriptor: int) -> None:
        """Stop watching what stays open, here or in another process."""
        if descriptor in self._handlers:
            self.forget(descriptor)
            self._epoll.unregister(descriptor)

    def run_again(self, flow: Flow) -> None:
        """Give `flow` another turn after everything else had one."""
        self._turns.append(flow)

    def run(self) -> None:
        """Handle events until `stopping`."""
        poll, handlers, owners = self._epoll.poll, self._handlers, self._owners
        turns, agenda = self._turns, self._agenda
        while not self.stopping:
            timeout: float | None = None
            if turns:
                timeout = 0
            elif agenda.running:
                timeout = max(0.0, agenda.soonest - time.monotonic())
            self.pumped = 0
            for descriptor, events in poll(timeout, MAX_EVENTS):
                handler = handlers.get(descriptor)
                if handler is None:
                    continue
                owner = owners[descriptor]  # who may be watching it no more afterwards
                try:
                    handler(events)
                except Exception:
                    # one connection met a bug: end it, and go on for all the others
                    logger.exception(BUG)
                    owner.abort()
            # not all that wait: who becomes ready now would wait for each of them; and as many as were run
            # because of events, or whoever is ready again and again would keep those that wait from theirs
            for _ in range(min(len(turns), max(1, self.pumped))):
                flow = turns.popleft()
                flow.waiting = False
                try:
                    flow.run()
                except Exception:
                    logger.exception(BUG)
                    flow.relay.abort()
            if agenda.running and (now := time.monotonic()) >= agenda.soonest:
                agenda.act(now)

    def close(self) -> None:
        """Free the loop's own descriptors."""
        self._epoll.close()
        self.pipes.close()


def end_step(step: Any) -> None:
    """End the connection that a step of its setting-up belongs to."""
    step.owner.abort()


def _end_flow(flow: Flow) -> None:
    flow.relay.abort()
