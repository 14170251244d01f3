"""Two hundred connections at once, of every size and with every end, through real gateways for a long time.

``make soak`` runs it for ten minutes (MINISTREAM_SOAK_S), plain and encrypted. MINISTREAM_SOAK_SEED repeats
the connections of an earlier run. A short one belongs to the ordinary tests, so that it stays alive.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
import pytest

from scistream.client import aio
from scistream.dataserver.native.sockets import IDLE_PIPES
from support.footprint import Footprint, footprints, listening_ports
from support.gateways import ControlServerProcess, Gateways
from support.module_gateways import family
from support.soak import Load, check_counts

LONG_S = float(os.environ.get("MINISTREAM_SOAK_S", "600"))
SHORT_S = 3.0
CONNECTIONS = 200
CHANNELS = 2
ROUNDS = 5
"""Of a long run. Between them nothing is open: what is held after the first is all that is needed."""
PASSING_CONNECTIONS = 6
PASSING_S = 1.0
GROWTH_BYTES = 4 << 20
"""What a process may have grown by from the first round to the last. Freed memory is given back in whole
arenas only, so that it wavers by one or two MiB; 100 bytes per connection would be more in ten minutes."""
WARM_BYTES = 24 << 20
"""What the first round may add to a process: code that is loaded late, and buffers that are kept for later.
The TLS state of every second connection would be more after some seconds."""
SESSION_BYTES = 24_000
"""What a control server remembers of one that has ended, of the last thousand."""
SETTLE_S = 30.0


@dataclass
class Facilities:
    """Two gateways, and the sessions between them."""

    producer: ControlServerProcess
    consumer: ControlServerProcess
    encrypted: bool

    @property
    def control_servers(self) -> set[int]:
        return {self.producer.process.pid, self.consumer.process.pid}

    def processes(self) -> list[psutil.Process]:
        return [*family(self.producer), *family(self.consumer)]

    def held(self) -> dict[int, Footprint]:
        return footprints(self.processes())

    @asynccontextmanager
    async def session(self, load: Load) -> AsyncIterator[aio.StreamingSession]:
        async with aio.open_session(
            self.producer.facility(), self.consumer.facility(), targets=load.targets, encrypted=self.encrypted
        ) as session:
            assert session.encrypted is self.encrypted
            yield session


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.05)  # the interval of a poll


async def _all_closed(session: aio.StreamingSession) -> None:
    async def closed() -> bool:
        status = await session.status()
        sides = (status.producer, status.consumer)
        return not any(one.connections_open for side in sides for one in side.channels)

    await _until(closed, "all connections are closed at the gateways")


def _no_faults(load: Load) -> None:
    if load.faults:
        pytest.fail(f"{len(load.faults)} faults: " + "\n".join(map(str, load.faults[:5])))


async def _passing_sessions(facilities: Facilities, seed: str, stop: asyncio.Event) -> int:
    """Open sessions and release them in mid-stream, one after the other; return how many."""
    number = 0
    while not stop.is_set():
        load = Load(f"{seed}/passing-{number}", CHANNELS, may_be_cut=True)
        async with facilities.session(load) as session:
            carrying = asyncio.create_task(load.run(session.listeners, PASSING_CONNECTIONS, 10 * PASSING_S))
            await asyncio.wait([carrying], timeout=PASSING_S)
        load.stop()
        await carrying
        await load.close()
        _no_faults(load)
        number += 1
    return number


async def soak(facilities: Facilities, seed: str, seconds: float, rounds: int) -> None:
    """Do all that this module is for."""
    unused = facilities.held()
    warming = Load(f"{seed}/warming", CHANNELS)
    async with facilities.session(warming) as session:
        await warming.run(session.listeners, 20, 1)
    await warming.close()
    _no_faults(warming)
    before, listening = facilities.held(), listening_ports(facilities.processes())

    load, after_rounds, passed = Load(seed, CHANNELS), [], 0
    async with facilities.session(load) as session:
        for number in range(rounds):
            stop = asyncio.Event()
            passing = asyncio.create_task(_passing_sessions(facilities, f"{seed}/{number}", stop))
            await load.run(session.listeners, CONNECTIONS, seconds / rounds)
            stop.set()
            passed += await passing
            _no_faults(load)
            await _all_closed(session)
            after_rounds.append(facilities.held())
        status = await session.status()
        bound = listening_ports(facilities.processes()) - listening
    await load.close()
    total = sum(counts.connections for counts in load.counts)
    carried = sum(counts.received_there + counts.received_back for counts in load.counts)
    print(f"{total} connections, {carried / 1e9:.1f} GB, {passed} sessions in passing, {load.cut} cut")
    assert load.most_open == CONNECTIONS
    assert load.cut > total / 20, "the case that is tested did occur"

    sides = zip(load.counts, status.consumer.channels, status.producer.channels, strict=True)
    for channel, (counts, near, far) in enumerate(sides):
        check_counts(counts, near, far, exact=channel == 0)
    assert load.heard_nothing == load.silent

    assert len(bound) == 2 * CHANNELS

    async def as_before() -> bool:
        ports = listening_ports(facilities.processes())
        return ports == listening and _resources(facilities.held()) == _resources(before)

    await _until(as_before, f"{_resources(before)} again, last {_resources(facilities.held())}")
    for pid, held in facilities.held().items():
        # those that a worker has at first are not for splicing
        assert held.descriptors["pipe"] <= unused[pid].descriptors["pipe"] + 2 * IDLE_PIPES
        sizes = [one[pid].private_bytes for one in (before, *after_rounds)]
        print(pid, held.command[-60:], "MB:", *(f"{size / 1e6:.1f}" for size in sizes))
        assert sizes[1] - sizes[0] < WARM_BYTES, (held.command, sizes)
        remembered = passed * SESSION_BYTES if pid in facilities.control_servers else 0
        assert sizes[-1] - sizes[1] < GROWTH_BYTES + remembered, (held.command, sizes)


def _resources(held: dict[int, Footprint]) -> dict[int, tuple[str, int, list[tuple[str, int]]]]:
    """Processes, threads and descriptors; pipes, of which workers keep some for later, are counted apart."""
    return {
        pid: (
            one.command,
            one.threads,
            sorted(item for item in one.descriptors.items() if item[0] != "pipe"),
        )
        for pid, one in held.items()
    }


def _seed() -> str:
    seed = os.environ.get("MINISTREAM_SOAK_SEED") or secrets.token_hex(4)
    print(f"MINISTREAM_SOAK_SEED={seed}")
    return seed


def _facilities(gateways: Gateways, *, encrypted: bool) -> Facilities:
    option = f"--encryption={'required' if encrypted else 'none'}"
    return Facilities(gateways.start(option), gateways.start(option), encrypted)


def _lasting(seconds: float) -> list[pytest.MarkDecorator]:
    return [pytest.mark.soak, pytest.mark.timeout(3 * seconds + 300)]


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        pytest.param(SHORT_S, 1, id="short"),
        pytest.param(LONG_S, ROUNDS, id="long", marks=_lasting(LONG_S)),
    ],
)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_hundreds_of_connections_lose_no_byte_and_leave_nothing(
    gateways: Gateways, encrypted: bool, seconds: float, rounds: int
) -> None:
    await soak(_facilities(gateways, encrypted=encrypted), _seed(), seconds, rounds)
