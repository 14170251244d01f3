"""What each connection of a soak does: how much, how fast, and how it ends. All follows from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto

HEADER_BYTES = 4
"""A client that says anything begins with its connection's number."""
LARGEST_BYTES = 100_000_000
_LARGEST_ONE_IN = 1500
_EDGES = (16 * 1024, 64 * 1024, 256 * 1024, 1 << 20)
"""What relays read, splice and seal at once: sizes next to them are the interesting ones."""


class Cut(Enum):
    """How a connection ends before its time."""

    RESET = auto()
    """One end closes with SO_LINGER 0."""
    LEAVE = auto()
    """One end has said everything, and closes without having heard everything."""


class Order(Enum):
    """When an end begins to send."""

    AT_ONCE = auto()
    """Both, whatever the other one does."""
    QUESTION_FIRST = auto()
    """The application after the end of the client's stream."""
    ANSWER_FIRST = auto()
    """The client, after its header, after the end of the application's stream."""


@dataclass(frozen=True)
class Way:
    """One direction of a connection.

    Parameters
    ----------
    length : int
        Bytes, a client's header not counted.
    stall_s : float
        How long the receiver takes nothing at first.
    write_pause_s, read_pause_s : float
        After each write or read.
    """

    length: int
    write_bytes: int
    read_bytes: int
    stall_s: float
    write_pause_s: float
    read_pause_s: float


@dataclass(frozen=True)
class Plan:
    """One connection.

    Parameters
    ----------
    silent : bool
        The client connects and closes at once, without a word.
    cut : Cut or None
        How it is cut, if it is.
    cut_by_client : bool
        Otherwise the application does it.
    cut_while_sending : bool
        The cut comes after so many bytes were sent, otherwise received.
    cut_after : int
        Bytes; with the header, where the client counts what it sends.
    """

    number: int
    there: Way
    back: Way
    order: Order
    silent: bool = False
    cut: Cut | None = None
    cut_by_client: bool = False
    cut_while_sending: bool = False
    cut_after: int = 0


def draw(seed: str, number: int, *, finishing: bool) -> Plan:
    """Return what connection `number` does.

    Parameters
    ----------
    finishing : bool
        Nobody cuts it, and nobody is silent.
    """
    chance = random.Random(f"{seed}/{number}")
    there, back = _way(chance), _way(chance)
    (order,) = chance.choices(list(Order), [4, 1, 1])
    if finishing or chance.random() < 0.5:
        return Plan(number, there, back, order)
    if chance.random() < 0.1:
        return Plan(number, there, back, order, silent=True)
    # who may not speak yet cannot have said everything
    cut = Cut.LEAVE if order is Order.AT_ONCE and chance.random() < 0.25 else Cut.RESET
    by_client = chance.random() < 0.5
    sending = cut is Cut.RESET and chance.random() < 0.5
    most = (there if by_client is sending else back).length + HEADER_BYTES * (by_client and sending)
    # the first bytes, the last one and all of them are as likely as the middle
    after = chance.choice((0, min(most, 3), most - min(most, 1), most, chance.randint(0, most)))
    return Plan(
        number,
        there,
        back,
        order,
        cut=cut,
        cut_by_client=by_client,
        cut_while_sending=sending,
        cut_after=after,
    )


def _way(chance: random.Random) -> Way:
    length = _length(chance)
    write_bytes, read_bytes = (chance.choice((1 << 10, 1 << 14, 1 << 16, 1 << 18)) for _ in range(2))
    slow_writer, slow_reader = (chance.random() < 0.1 for _ in range(2))
    return Way(
        length=length,
        write_bytes=max(write_bytes, length // 2000),
        read_bytes=max(read_bytes, length // 2000),
        stall_s=chance.random() * 2 if chance.random() < 0.1 else 0,
        write_pause_s=_pause_s(chance, length, write_bytes) if slow_writer else 0,
        read_pause_s=_pause_s(chance, length, read_bytes) if slow_reader else 0,
    )


def _length(chance: random.Random) -> int:
    if chance.randrange(_LARGEST_ONE_IN) == 0:
        return LARGEST_BYTES
    match chance.randrange(10):
        case 0:
            return 0
        case 1:
            return 1
        case 2:
            return chance.randint(2, 100)
        case 3 | 4:
            return chance.choice(_EDGES) + chance.randint(-2, 2)
        case 5 | 6 | 7:
            return chance.randint(100, 100_000)
        case _:
            return chance.randint(100_000, 4_000_000)


def _pause_s(chance: random.Random, length: int, size: int) -> float:
    """Return a pause after each piece by which all of them take three seconds at most."""
    pieces = max(1, length // size)
    return min(0.2, chance.random() * 3 / pieces)
