"""Opening a session: what it promises whatever the servers do."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from scistream.client.aio import Facility, Role, Unreachable, open_session, register
from scistream.core.endpoint import Endpoint
from scistream.core.session import State
from scistream.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidArgument,
    PeerError,
    ResourceExhausted,
    SessionExists,
)
from support.control_servers import Start

APP = Endpoint("127.0.0.1", 9)


def test_a_token_is_never_shown() -> None:
    facility = Facility(endpoint=APP, token="very-secret")
    assert "very-secret" not in repr(facility)


@pytest.mark.parametrize("token", ["two\nlines", "ü", "a\x00"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Facility(endpoint=APP, token=token).connect()
    assert token not in str(refused.value)


async def test_a_session_needs_a_target() -> None:
    nobody = Facility(endpoint=APP)
    with pytest.raises(InvalidArgument, match="target"):
        await open_session(nobody, nobody, targets=[])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gw.example", "GW.example"),
        ("localhost", "127.0.0.1"),
        ("::1", "localhost"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
async def test_one_control_server_for_both_sides_is_refused_up_front(first: str, second: str) -> None:
    with pytest.raises(InvalidArgument, match="same control server"):
        await open_session(
            Facility(endpoint=Endpoint(first, 5000)), Facility(endpoint=Endpoint(second, 5000)), targets=[APP]
        )


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf])
async def test_a_timeout_that_is_no_time_is_refused(timeout_s: float) -> None:
    ours, theirs = Facility(endpoint=APP), Facility(endpoint=Endpoint("127.0.0.1", 10))
    with pytest.raises(ConfigurationError, match="timeout_s"):
        await open_session(ours, theirs, targets=[APP], timeout_s=timeout_s)
    with pytest.raises(ConfigurationError, match="timeout_s"):
        await register(ours, "uid", Role.PRODUCER, [APP], timeout_s=timeout_s)
    async with ours.connect() as client:
        with pytest.raises(ConfigurationError, match="timeout_s"):
            await client.status(timeout_s=timeout_s)


async def test_a_session_without_a_name_is_refused_and_not_taken_for_all_of_them(start: Start) -> None:
    producer, consumer = await start(), await start()
    with pytest.raises(InvalidArgument, match="uid is empty"):
        await open_session(producer.facility(), consumer.facility(), targets=[APP], uid="")


async def test_targets_beyond_the_channels_are_said_not_to_be_used(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    producer, consumer = await start(), await start()
    spare = Endpoint("127.0.0.1", 77)
    async with open_session(producer.facility(), consumer.facility(), targets=[APP, spare], num_conn=1):
        pass
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warning == "2 targets for num_conn 1: not used are 127.0.0.1:77"


# --- a name in use ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def stream(listener: Endpoint) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Open a TCP connection to an application that echoes; yield a function that checks that it lives."""
    reader, writer = await asyncio.open_connection(listener.host, listener.port)

    async def check() -> None:
        async with asyncio.timeout(10):
            writer.write(b"hi")
            assert await reader.readexactly(2) == b"hi"

    try:
        await check()
        yield check
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"targets": [Endpoint("127.0.0.1", 77)]}, SessionExists),
        ({"num_conn": 2}, SessionExists),
        ({"rate_mbps": 5}, SessionExists),
        ({"timeout_s": 0.0001}, DeadlineExceeded),
        ({"consumer": Facility(endpoint=Endpoint("127.0.0.1", 1))}, Unreachable),
        ({"producer": Facility(endpoint=Endpoint("127.0.0.1", 1))}, Unreachable),
    ],
)
async def test_what_fails_under_a_name_in_use_leaves_that_session_and_its_stream(
    start: Start, echo: Endpoint, changes: dict[str, Any], error: type[Exception]
) -> None:
    producer, consumer = await start(), await start()
    same: dict[str, Any] = {
        "producer": producer.facility(),
        "consumer": consumer.facility(),
        "targets": [echo],
        "uid": "in-use",
    }
    async with open_session(**same) as session, stream(session.listeners[0]) as check:
        with pytest.raises(error):
            await open_session(**same | changes)
        await check()
        seen = await session.status()
        assert (seen.producer.state, seen.consumer.state) == (State.CONNECTED, State.CONNECTED)
        assert seen.producer.targets == (echo,)


async def test_a_repeat_is_the_same_session_and_cancelling_one_leaves_it(
    start: Start, echo: Endpoint
) -> None:
    producer, consumer = await start(), await start()
    same: dict[str, Any] = {"targets": [echo], "uid": "in-use"}
    async with (
        open_session(producer.facility(), consumer.facility(), **same) as session,
        stream(session.listeners[0]) as check,
    ):
        again = await open_session(producer.facility(), consumer.facility(), **same)
        assert (again.uid, again.listeners) == (session.uid, session.listeners)
        await again.abandon()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            nobody = Facility(endpoint=Endpoint("127.0.0.1", silent.getsockname()[1]))
            told: asyncio.Queue[str] = asyncio.Queue()
            opening = asyncio.create_task(
                open_session(producer.facility(), nobody, **same, progress=told.put_nowait)
            )
            while await told.get() != f"waiting for ports at {nobody.endpoint}":
                pass  # the producer's side is taken over by then
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        await check()


async def test_a_side_that_is_new_is_released_and_the_one_that_was_there_stays(start: Start) -> None:
    producer, consumer, other = await start(), await start(), await start()
    same: dict[str, Any] = {"targets": [APP], "uid": "in-use"}
    async with open_session(producer.facility(), consumer.facility(), **same) as session:
        other.backend.start_error = "no descriptors left"
        with pytest.raises(PeerError, match="no descriptors left"):
            await open_session(producer.facility(), other.facility(), **same)
        assert (await session.status()).producer.state is State.CONNECTED
        async with other.facility().connect() as client:
            assert (await client.status("in-use"))[0].state.ended


async def test_a_name_whose_session_has_ended_is_free_again(start: Start) -> None:
    producer, consumer = await start(), await start()
    same: dict[str, Any] = {"uid": "used"}
    async with open_session(producer.facility(), consumer.facility(), targets=[APP], **same):
        pass
    consumer.backend.start_error = "no descriptors left"
    with pytest.raises(PeerError, match="no descriptors left"):
        await open_session(producer.facility(), consumer.facility(), targets=[APP], num_conn=2, **same)
    async with producer.facility().connect() as client:
        assert (await client.status("used"))[0].state is State.RELEASED


# --- opening and ending ----------------------------------------------------------------------------------


async def test_a_session_is_opened_by_await_by_a_task_and_as_a_block(start: Start) -> None:
    producer, consumer = await start(), await start()
    sides = producer.facility(), consumer.facility()
    async with open_session(*sides, targets=[APP]) as first:
        assert (await first.status()).producer.state is State.CONNECTED
    async with await open_session(*sides, targets=[APP]) as second:
        pass
    third = await asyncio.create_task(open_session(*sides, targets=[APP]))
    await third.release()
    async with producer.facility().connect() as client:
        ended = {one.uid: one.state for one in await client.status()}
    assert ended == dict.fromkeys([first.uid, second.uid, third.uid], State.RELEASED)


async def test_release_is_idempotent_and_detach_leaves_the_session_open(start: Start) -> None:
    producer, consumer = await start(), await start()
    session = await open_session(producer.facility(), consumer.facility(), targets=[APP])
    await session.detach()
    status = await session.status()
    assert status.producer.state is State.CONNECTED
    await session.release()
    await session.release()
    async with consumer.facility().connect() as client:
        assert (await client.status(session.uid))[0].state is State.RELEASED


async def test_connections_that_were_given_stay_open(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with producer.facility().connect() as ours, consumer.facility().connect() as theirs:
        for _ in range(2):
            async with open_session(ours, theirs, targets=[APP]) as session:
                pass
            assert (await ours.status(session.uid))[0].state is State.RELEASED


async def test_a_server_that_says_nothing_costs_the_timeout_and_the_other_side_is_released(
    start: Start,
) -> None:
    producer = await start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = Facility(endpoint=Endpoint("127.0.0.1", silent.getsockname()[1]))
        with pytest.raises(DeadlineExceeded, match=f"waiting for ports at {nobody.endpoint}$"):
            await open_session(producer.facility(), nobody, targets=[APP], timeout_s=1)
    async with producer.facility().connect() as client:
        assert [one.state for one in await client.status()] == [State.RELEASED]


async def test_cancelling_while_it_opens_releases_both_sides(start: Start) -> None:
    producer, consumer = await start(), await start()
    consumer.backend.may_start.clear()
    opening = asyncio.create_task(
        open_session(producer.facility(), consumer.facility(), targets=[APP], uid="uid")
    )
    async with consumer.facility().connect() as theirs, producer.facility().connect() as ours:
        async with asyncio.timeout(10):
            while not any(one.state is State.CONNECTING for one in await theirs.status()):
                await asyncio.sleep(0.005)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        for client in (theirs, ours):
            assert [one.state for one in await client.status("uid")] == [State.RELEASED]


async def test_an_error_in_the_block_is_not_hidden_by_one_of_the_release(start: Start) -> None:
    producer, consumer = await start(), await start()

    async def fail() -> None:
        async with open_session(producer.facility(), consumer.facility(), targets=[APP]):
            await producer.server.stop()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_what_is_waited_for_is_told(start: Start) -> None:
    producer, consumer = await start(), await start()
    told: list[str] = []
    async with open_session(producer.facility(), consumer.facility(), targets=[APP], progress=told.append):
        pass
    assert str(producer.server.address) in told[0]
    assert str(consumer.server.address) in told[0]
    assert told[-1] == "waiting for both data servers to connect"


async def test_leases_and_queueing_reach_both_servers(start: Start) -> None:
    producer, consumer = await start(), await start()
    async with open_session(
        producer.facility(), consumer.facility(), targets=[APP], idle_timeout_s=40, lifetime_s=50, queue=True
    ) as session:
        seen = await session.status()
        for side in (seen.producer, seen.consumer):
            assert (side.idle_timeout_s, side.lifetime_s) == (40, 50)
            assert side.lifetime_left_s is not None


async def test_a_queued_session_opens_when_ports_are_free_again(start: Start) -> None:
    producer, consumer = await start(capacity_mbps=100), await start()
    facilities = producer.facility(), consumer.facility()
    first = await open_session(*facilities, targets=[APP], rate_mbps=80)
    with pytest.raises(ResourceExhausted):
        await open_session(*facilities, targets=[APP], rate_mbps=80)
    waiting = asyncio.create_task(open_session(*facilities, targets=[APP], rate_mbps=80, queue=True))
    async with producer.facility().connect() as client, asyncio.timeout(10):
        while not any(one.state is State.QUEUED for one in await client.status()):
            await asyncio.sleep(0.005)
    assert not waiting.done()
    await first.release()
    async with asyncio.timeout(10), await waiting as second:
        assert (await second.status()).producer.state is State.CONNECTED
