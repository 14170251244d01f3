"""What a sender remembers of one flow: what is to be sent, what is on its way, and what has arrived.

Everything that is not acknowledged is kept. Each item (a message, a notice, the end) is either waiting to be
sent, or on its way on one connection; what was on its way on a connection that is lost waits again. No
sockets here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from ministream.wire import messages
from ministream.wire.timage import Buffer


class Kind(IntEnum):
    """In the order in which they are sent again: notices need no credit, and the end comes last."""

    NOTICE = 0
    MESSAGE = 1
    END = 2


class Item(NamedTuple):
    """One thing to be sent; `number` is that of the message or notice."""

    kind: Kind
    number: int


@dataclass(slots=True)
class Connection:
    """One connection of a flow, from its `Join` until it is lost.

    Parameters
    ----------
    identity : bytes
        The ROUTER's name for it.
    confirmed : int
        How much the receiver says to have got on it, since the receiver began.
    """

    identity: bytes
    confirmed: int
    sent: int = 0
    on_their_way: deque[Item] = field(default_factory=deque)
    gone: bool = False

    def confirm(self, received: int) -> None:
        """Take note that so much has arrived; what is said late says less, and changes nothing."""
        news = min(received - self.confirmed, len(self.on_their_way))
        for _ in range(news):
            self.on_their_way.popleft()
        self.confirmed = max(self.confirmed, received)


@dataclass(slots=True)
class Flow:
    """The sender's state of one flow.

    Parameters
    ----------
    name, receiver : str
    size : int
        Connections that the receiver wants to have.
    credits : int
    attributes : mapping

    Attributes
    ----------
    joined : bool
        All connections have been there once.
    lost_at_s : float or None
        When the last connection was lost, by the monotonic clock.
    ended : bool
        The receiver has said that it has everything, and knows that it is all.
    retransmitted : int
        Messages that were sent a second time.
    """

    name: str
    receiver: str
    size: int
    credits: int
    attributes: Mapping[str, Any]
    connections: dict[int, Connection] = field(default_factory=dict)
    next_sequence: int = 0
    acknowledged: int = 0
    next_notice: int = 0
    notices_acknowledged: int = 0
    joined: bool = False
    finished: bool = False
    ended: bool = False
    lost_at_s: float | None = None
    retransmitted: int = 0
    _arrived: int = 0
    _sent: int = 0
    _kept: deque[Buffer] = field(default_factory=deque)
    _notices: deque[tuple[messages.Notice, bytes]] = field(default_factory=deque)
    _waiting: deque[Item] = field(default_factory=deque)

    @property
    def complete(self) -> bool:
        """Whether every connection is there."""
        return len(self.connections) == self.size

    @property
    def has_credit(self) -> bool:
        """Whether another message may be sent, now or when the receiver is back."""
        return self.joined and self.next_sequence < self.acknowledged + self.credits

    @property
    def outstanding(self) -> int:
        """Messages that are not acknowledged."""
        return self.next_sequence - self.acknowledged

    def fastest(self) -> Connection | None:
        """Return the connection with the least on its way, ties in turn; None if there is no connection."""
        return min(
            (connection for connection in self.connections.values() if not connection.gone),
            key=lambda connection: (len(connection.on_their_way), connection.sent),
            default=None,
        )

    # ------------------------------------------------------------------ what is to be sent

    def add_message(self, payload: Buffer) -> int:
        """Take in a message, and return its number."""
        self._kept.append(payload)
        self._waiting.append(Item(Kind.MESSAGE, self.next_sequence))
        self.next_sequence += 1
        return self.next_sequence - 1

    def add_notice(self, message: Mapping[str, Any], payload: bytes) -> None:
        """Take in a notice; its place is before whatever message is added next."""
        header = messages.Notice(
            notice=self.next_notice, before_sequence=self.next_sequence, message=dict(message)
        )
        self._notices.append((header, payload))
        self._waiting.append(Item(Kind.NOTICE, self.next_notice))
        self.next_notice += 1

    def finish(self) -> None:
        """Add the end."""
        self.finished = True
        self._waiting.append(Item(Kind.END, 0))

    def next_item(self) -> Item | None:
        """Return what is to be sent next; None if there is nothing, or no credit for it."""
        while self._waiting:
            item = self._waiting[0]
            if not self._has_arrived(item):
                # a receiver that takes another one's place may have fewer credits
                short = item.kind is Kind.MESSAGE and item.number >= self.acknowledged + self.credits
                return None if short else item
            self._waiting.popleft()
        return None

    def content(self, item: Item) -> tuple[messages.Header, Buffer | None]:
        """Return header and payload of `item`."""
        match item.kind:
            case Kind.MESSAGE:
                return messages.Data(sequence=item.number), self._kept[item.number - self.acknowledged]
            case Kind.NOTICE:
                return self._notices[item.number - self.notices_acknowledged]
            case Kind.END:
                end = messages.End(next_sequence=self.next_sequence, next_notice=self.next_notice)
                return end, None

    def note_sent(self, item: Item, connection: Connection) -> None:
        """Take note that `item`, the next one, is on its way."""
        self._waiting.popleft()
        connection.on_their_way.append(item)
        connection.sent += 1
        if item.kind is Kind.MESSAGE:
            self.retransmitted += item.number < self._sent
            self._sent = max(self._sent, item.number + 1)

    # ------------------------------------------------------------------ what has arrived

    def note_arrived(self, next_sequence: int, next_notice: int) -> None:
        """Take note of how far the receiver has got; not every message of it is acknowledged."""
        self._arrived = max(self._arrived, next_sequence)
        self._forget_notices(next_notice)

    def acknowledge(self, next_sequence: int, next_notice: int) -> bool:
        """Forget what is below; return whether a message was among it."""
        self._forget_notices(next_notice)
        news = next_sequence - self.acknowledged
        for _ in range(news):
            self._kept.popleft()
        self.acknowledged = max(self.acknowledged, next_sequence)
        return news > 0

    def lose(self, connection: Connection) -> None:
        """Take back what was on its way on a connection that is gone."""
        self._waiting = deque(sorted({*self._waiting, *connection.on_their_way}))
        self.connections = {
            index: other for index, other in self.connections.items() if other is not connection
        }

    def hand_over(self, join: messages.Join) -> None:
        """Begin again with another receiver, from the first message that is not acknowledged."""
        self.receiver, self.size = join.receiver, join.connections
        self.credits, self.attributes = join.credits, join.attributes
        self.connections = {}
        self.ended = False
        self._arrived = self.acknowledged
        again = [Item(Kind.NOTICE, number) for number in range(self.notices_acknowledged, self.next_notice)]
        again += [Item(Kind.MESSAGE, number) for number in range(self.acknowledged, self.next_sequence)]
        self._waiting = deque([*again, Item(Kind.END, 0)] if self.finished else again)

    def _forget_notices(self, next_notice: int) -> None:
        for _ in range(next_notice - self.notices_acknowledged):
            self._notices.popleft()
        self.notices_acknowledged = max(self.notices_acknowledged, next_notice)

    def _has_arrived(self, item: Item) -> bool:
        match item.kind:
            case Kind.MESSAGE:
                return item.number < max(self.acknowledged, self._arrived)
            case Kind.NOTICE:
                return item.number < self.notices_acknowledged
            case Kind.END:
                return self.ended
