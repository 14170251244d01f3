"""How one connection's two directions end: half-close, reset, and both with data still on the way.

A `Relay` owns two sockets and two `Flow` objects, one per direction. What a flow does with the bytes
(`plain`, `tls_relay`) is not decided here; when it stops, it is:

- the source's end of stream is passed on once everything before it has been written; the other direction
  goes on. When both have ended, both sockets are closed.
- a source that was *cut* (reset; on TLS also: ended without close_notify) must never look finished. What
  arrived before is delivered if that works within `loop.CUT_DELIVERY_S`, then both sockets are reset.

The kernel reports a socket's error once. Whoever sees it (a read, a write, or the event) tells the relay by
`cut`, because after that the same socket reads as a clean end.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from scistream.dataserver.native.sockets import close_in_order, reset, shut_down_writing, unacknowledged_bytes

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Loop
    from scistream.dataserver.native.session import Channel

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
ENDING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Flow:
    """One direction: from `source` to `sink`; `back` is the other direction.

    Attributes
    ----------
    moved : int
        Application bytes written to the sink; where they are sealed or opened, those that were taken for it,
        of which at most a batch is not written yet.
    parked : int
        Bytes taken from the source that the sink has not taken yet.
    ending : bool
        The source has announced its end: read until it comes.
    cut : bool
        The source is broken: when it has nothing more, the sink gets a reset instead of an end.
    done : bool
        The source's end was passed on.
    dead : bool
        The sink is broken, or the relay is closed: nothing is moved any more.
    """

    __slots__ = (
        "back",
        "cut",
        "dead",
        "done",
        "ending",
        "moved",
        "parked",
        "relay",
        "sink",
        "source",
        "waiting",
    )

    back: Flow

    def __init__(self, relay: Relay, source: socket.socket, sink: socket.socket) -> None:
        self.relay = relay
        self.source = source
        self.sink = sink
        self.moved = 0
        self.parked = 0
        self.ending = self.cut = self.done = self.dead = False
        self.waiting = False

    def on_source_events(self, events: int) -> None:
        """Handle what epoll says of the source, which is also the sink of `back`."""
        if events & ENDING:
            self.ending = True
            if events & select.EPOLLERR:
                # an event of a descriptor's former life has no error to show
                error = self.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self.relay.cut(self)
                    return
        if events & READABLE:
            self.run()
        back = self.back
        if events & select.EPOLLOUT and back.parked:
            back.run()

    def run(self) -> None:
        """Move what can be moved now; come back later if there is more than a fair share."""
        if self.done or self.dead or self.waiting:
            return
        self.relay.loop.pumped += 1
        if self.pump():
            self.waiting = True
            self.relay.loop.run_again(self)

    def pump(self) -> bool:
        """Move bytes until one end has to be waited for; return True if only the fair share was used up."""
        raise NotImplementedError

    def release(self) -> None:
        """Give back what is held for parked bytes."""
        raise NotImplementedError

    def source_ended(self) -> None:
        """Pass on the source's end, now that everything before it was written."""
        if self.cut:
            self.relay.deliver_cut(self)
            return
        self.done = True
        if self.back.done:
            self.relay.close()
        else:
            shut_down_writing(self.sink)

    def source_failed(self) -> None:
        """Take note of an error in reading, which says also that the source holds nothing more."""
        if self.cut:
            self.relay.deliver_cut(self)
        else:
            self.relay.cut(self)


class Relay:
    """Two sockets joined by two flows; the owner of both from `begin` until `close` or `abort`."""

    __slots__ = ("accepted", "channel", "closed", "from_target", "loop", "target", "to_target")

    to_target: Flow
    from_target: Flow

    def __init__(self, loop: Loop, channel: Channel, accepted: socket.socket, target: socket.socket) -> None:
        self.loop = loop
        self.channel = channel
        self.accepted = accepted
        self.target = target
        self.closed = False

    def join(self, to_target: Flow, from_target: Flow) -> None:
        """Use these two flows."""
        self.to_target, self.from_target = to_target, from_target
        to_target.back, from_target.back = from_target, to_target

    def begin(self) -> None:
        """Begin to relay; after an error both connections have been reset."""
        try:
            self.channel.relay_begins(self)
            # epoll reports all that is there already, an end of stream included
            self.loop.watch(self.accepted.fileno(), EVENTS, self.to_target.on_source_events, self)
            self.loop.watch(self.target.fileno(), EVENTS, self.from_target.on_source_events, self)
            self.run_first()
        except Exception:  # for one: the kernel watches no more descriptors for this user
            self.abort()
            raise

    def run_first(self) -> None:
        """Move what epoll does not tell of."""

    def cut(self, flow: Flow) -> None:
        """Deliver what came before the source of `flow` broke; take nothing more for it."""
        if self.closed or flow.cut:
            return
        flow.cut = True
        flow.ending = True
        back = flow.back
        back.dead = True
        back.release()
        if back.cut:
            self.abort()
            return
        self.loop.cut_relays.add(self)
        if flow.done:
            self.deliver_cut(flow)
        else:
            flow.run()

    def deliver_cut(self, flow: Flow) -> None:
        """Everything from the cut source is written: reset the sink as soon as its peer has it."""
        if self.closed:
            return
        flow.dead = True
        if unacknowledged_bytes(flow.sink) == 0:
            self.abort()
        else:
            self.loop.cut_polls.add(flow)

    def abort(self) -> None:
        """Reset both connections."""
        if not self.closed:
            self._leave()
            reset(self.accepted)
            reset(self.target)

    def close(self) -> None:
        """Close both connections, which have ended in both directions."""
        if not self.closed:
            self._leave()
            close_in_order(self.accepted)
            close_in_order(self.target)

    def _leave(self) -> None:
        self.closed = True
        loop = self.loop
        loop.forget(self.accepted.fileno())
        loop.forget(self.target.fileno())
        loop.cut_relays.discard(self)
        for flow in (self.to_target, self.from_target):
            flow.dead = True
            flow.release()
            loop.cut_polls.discard(flow)
        self.channel.relay_ended(self)
