"""An open session: led elsewhere, renewed, and ended on both sides when one ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scistream.client.aio import Unreachable, open_session
from scistream.client.aio.ending import release_after_failure
from scistream.client.aio.opening import Opening
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State
from scistream.errors import DeadlineExceeded, InvalidArgument, PeerError, SciStreamError
from support.control_servers import Running, Start

APP = Endpoint("127.0.0.1", 9)
OTHER = Endpoint("127.0.0.1", 10)


def opened(producer: Running, consumer: Running, **more: Any) -> Opening:
    return open_session(producer.facility(), consumer.facility(), targets=[APP], **more)


async def states(uid: str, *servers: Running) -> list[State]:
    found = []
    for server in servers:
        async with server.facility().connect() as client:
            found.append((await client.status(uid))[0].state)
    return found


async def test_retarget_leads_new_connections_elsewhere_and_stays_encrypted(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with opened(producer, consumer) as session:
        await session.retarget([OTHER])
        seen = await session.status()
        assert seen.producer.targets == (OTHER,)
        assert (seen.producer.encrypted, seen.consumer.encrypted) == (True, True)
        assert seen.consumer.targets == seen.producer.listeners


async def test_a_target_that_is_none_leaves_the_session_as_it_was(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with opened(producer, consumer) as session:
        with pytest.raises(InvalidArgument):
            await session.retarget([])
        with pytest.raises(InvalidArgument, match="port 0"):
            await session.retarget([Endpoint("127.0.0.1", 0)])
        seen = await session.status()
        assert (seen.producer.state, seen.consumer.state) == (State.CONNECTED, State.CONNECTED)
        assert seen.producer.targets == (APP,)


async def test_a_retarget_of_a_session_that_has_ended_releases_the_other_side(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await opened(producer, consumer)
    async with producer.facility().connect() as client:
        await client.release(session.uid)
    with pytest.raises(SciStreamError, match=session.uid):
        await session.retarget([OTHER])
    assert await states(session.uid, producer, consumer) == [State.RELEASED, State.RELEASED]


async def test_a_retarget_that_does_not_reach_the_control_server_leaves_the_session(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await opened(producer, consumer)
    await producer.server.stop()
    with pytest.raises(Unreachable):
        await session.retarget([OTHER])
    assert await states(session.uid, consumer) == [State.CONNECTED]
    await session.detach()


async def test_a_retarget_that_is_refused_leaves_the_session(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with opened(producer, consumer) as session:
        producer.backend.retarget_error = "no descriptors left"
        with pytest.raises(PeerError, match="no descriptors left"):
            await session.retarget([OTHER])
        seen = await session.status()
        assert (seen.producer.state, seen.consumer.state) == (State.CONNECTED, State.CONNECTED)
        assert seen.producer.targets == (APP,)


async def test_renewing_starts_the_lifetime_anew_on_both_sides(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with opened(producer, consumer, lifetime_s=60) as session:
        async with asyncio.timeout(10):
            while True:  # until some of it is over
                seen = await session.status()
                if max(seen.producer.lifetime_left_s or 0, seen.consumer.lifetime_left_s or 0) < 59.9:
                    break
                await asyncio.sleep(0.01)
        await session.renew()
        after = await session.status()
        for old, new in ((seen.producer, after.producer), (seen.consumer, after.consumer)):
            assert old.lifetime_left_s is not None
            assert new.lifetime_left_s is not None
            assert new.lifetime_left_s > old.lifetime_left_s


@pytest.mark.parametrize("role", list(Role))
async def test_when_one_side_ends_wait_says_why_and_the_other_side_is_released(
    start: Start, role: Role
) -> None:
    servers = {Role.PRODUCER: await start(), Role.CONSUMER: await start()}
    session = await opened(*servers.values())
    waiting = asyncio.create_task(session.wait(interval_s=0.01))
    async with servers[role].facility().connect() as client:
        await client.release(session.uid)
    async with asyncio.timeout(10):
        end = await waiting
    assert (end.side, end.state, end.reason) == (role, State.RELEASED, "released on request")
    assert await states(session.uid, *servers.values()) == [State.RELEASED, State.RELEASED]
    await session.release()


async def test_the_end_of_a_lease_ends_both_sides(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await opened(producer, consumer, lifetime_s=0.3)
    async with asyncio.timeout(10):
        end = await session.wait(interval_s=0.01)
    assert end.state is State.EXPIRED
    assert "lifetime" in str(end)
    assert all(state.freed for state in await states(session.uid, producer, consumer))


async def test_a_control_server_that_stays_away_ends_the_other_side_after_a_while(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await opened(producer, consumer)
    await producer.server.stop()
    with pytest.raises(DeadlineExceeded, match=str(producer.server.address)):
        await session.wait(interval_s=0.02, patience_s=0.3)
    assert await states(session.uid, consumer) == [State.RELEASED]


async def test_cancelling_the_wait_leaves_the_session_open(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with opened(producer, consumer) as session:
        waiting = asyncio.create_task(session.wait(interval_s=0.01))
        async with asyncio.timeout(10):
            while min(server.backend.servers[0].looks for server in (producer, consumer)) < 3:
                await asyncio.sleep(0.01)  # until both have been asked several times
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await states(session.uid, producer, consumer) == [State.CONNECTED, State.CONNECTED]


async def test_a_server_that_is_not_there_is_told_from_one_that_fails(start: Start) -> None:
    producer = await start()
    await producer.server.stop()
    async with producer.facility().connect() as client:
        with pytest.raises(Unreachable):
            await client.status("x")


async def test_a_release_after_a_failure_is_carried_out_even_if_who_waits_is_cancelled(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await opened(producer, consumer)
    async with producer.facility().connect() as ours, consumer.facility().connect() as theirs:
        releasing = asyncio.create_task(release_after_failure(session.uid, ours, theirs))
        await asyncio.sleep(0)  # it has begun, and nothing has been sent
        releasing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await releasing
    assert await states(session.uid, producer, consumer) == [State.RELEASED, State.RELEASED]
    await session.detach()


async def test_the_end_of_the_block_is_carried_out_even_if_it_is_cancelled(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await opened(producer, consumer)
    ending = asyncio.create_task(session.__aexit__(None, None, None))
    await asyncio.sleep(0)  # it has begun, and nothing has been sent
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert await states(session.uid, producer, consumer) == [State.RELEASED, State.RELEASED]
