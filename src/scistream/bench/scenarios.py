"""What is measured of relays: how long, and in which scenarios."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from scistream.bench.chain import DIRECT, Chain
from scistream.bench.crowd import crowd
from scistream.bench.figures import Figures
from scistream.bench.load import bulk, idle, ping_pong, set_ups
from scistream.bench.peers import OURS
from scistream.bench.processes import most_connections
from scistream.bench.sink import Sink

_CROWDED = {OURS, "haproxy", "nginx"}
"""As they come; one of each is enough, and stunnel needs a thread per connection."""


class Part(StrEnum):
    """One kind of measurement."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    SET_UP = "set-up"
    MEMORY = "memory"
    CROWD = "crowd"


class Place(StrEnum):
    """Which relays, and where."""

    PLAIN_1 = "plain, 1 hop"
    PLAIN_2 = "plain, 2 hops"
    TLS = "TLS, 2 hops"
    TLS_ALL_CORES = "TLS, 2 hops, all cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured, and for how long.

    Parameters
    ----------
    rounds : int
        Each figure is the median of so many.
    bulk_s : float
        Of each throughput.
    pings, set_ups : int
        For each latency, for each rate of new connections.
    plain, tls, tls_all_cores : tuple of int
        Numbers of connections of each throughput; the last one with relays and load on all cores.
    idle, crowd : int
        Connections for the memory of one, and of the stalled crowd; 0: neither is measured.
    brief : bool
        Leave out variants that teach least.
    """

    rounds: int
    bulk_s: float
    pings: int
    set_ups: int
    plain: tuple[int, ...]
    tls: tuple[int, ...]
    tls_all_cores: tuple[int, ...]
    idle: int
    crowd: int
    brief: bool


QUICK = Effort(
    rounds=3,
    bulk_s=0.25,
    pings=600,
    set_ups=60,
    plain=(1, 8),
    tls=(1, 8),
    tls_all_cores=(),
    idle=0,
    crowd=0,
    brief=True,
)
FULL = Effort(
    rounds=5,
    bulk_s=1.5,
    pings=4000,
    set_ups=400,
    plain=(1, 64, 512),
    tls=(1, 8),
    tls_all_cores=(1, 8),
    idle=1000,
    crowd=5000,
    brief=False,
)
BRIEFLY_LEFT_OUT = {"ours-stdlib", "nginx-256k"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One table: what is measured on which chains.

    Parameters
    ----------
    contestants : collection of str or None
        Only these; None: all of the place.
    once : bool
        Not in rounds.
    """

    name: str
    place: Place
    part: Part
    measure: Callable[[Sink, Chain], Figures]
    contestants: Collection[str] | None = None
    direct: bool = True
    once: bool = False

    def takes(self, chain: Chain) -> bool:
        """Whether `chain` is measured in it."""
        if chain.name == DIRECT:
            return self.direct
        return self.contestants is None or chain.name in self.contestants


def streams_name(place: Place, count: int) -> str:
    """Return the name of the throughput by so many connections."""
    return f"{place}, {count} stream{'' if count == 1 else 's'}"


def ping_name(place: Place) -> str:
    """Return the name of the round trips of small messages."""
    return f"{place}, 64 B ping-pong"


def set_up_name(place: Place) -> str:
    """Return the name of the rate of new connections."""
    return f"{place}, new connections"


def idle_name(place: Place) -> str:
    """Return the name of the memory of connections that are idle."""
    return f"{place}, idle connection"


def scenarios(effort: Effort, parts: Collection[Part]) -> list[Scenario]:
    """Return what is to be measured, in order: memory while the relays are fresh."""
    return [one for one in _all(effort) if one.part in parts]


def _all(effort: Effort) -> Iterator[Scenario]:
    def streams(place: Place, count: int) -> Scenario:
        def measure(sink: Sink, chain: Chain) -> Figures:
            return bulk(sink, chain.port, count, effort.bulk_s, chain.pids)

        return Scenario(name=streams_name(place, count), place=place, part=Part.THROUGHPUT, measure=measure)

    if effort.idle:
        count = most_connections(effort.idle)
        for place in (Place.PLAIN_1, Place.TLS):
            yield Scenario(
                name=idle_name(place),
                place=place,
                part=Part.MEMORY,
                measure=lambda _, chain: idle(chain.port, count, chain.pids),
                direct=False,
                once=True,
            )
    for place, counts in (
        (Place.PLAIN_1, effort.plain),
        (Place.TLS, effort.tls),
        (Place.TLS_ALL_CORES, effort.tls_all_cores),
        (Place.PLAIN_2, () if effort.brief else effort.plain[:1]),
    ):
        for number in counts:
            yield streams(place, number)
    for place in (Place.PLAIN_2, Place.TLS):
        yield Scenario(
            name=ping_name(place),
            place=place,
            part=Part.LATENCY,
            measure=lambda _, chain: ping_pong(chain.port, effort.pings),
        )
    for place in (Place.PLAIN_1, Place.TLS):
        yield Scenario(
            name=set_up_name(place),
            place=place,
            part=Part.SET_UP,
            measure=lambda _, chain: set_ups(chain.port, effort.set_ups),
        )
    if effort.crowd:
        stalled = most_connections(effort.crowd)
        for place in (Place.PLAIN_1, Place.TLS):
            yield Scenario(
                name=f"{place}, {stalled} stalled connections",
                place=place,
                part=Part.CROWD,
                measure=lambda sink, chain: crowd(sink, chain, stalled),
                contestants=_CROWDED,
                direct=False,
                once=True,
            )
