"""What a gateway has is given out once, and taken back in time."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from scistream.client.aio import ControlClient, open_session, opening, reserve_side
from scistream.config import ControlServerConfig, PortRange, StopMode
from scistream.control.server import ControlServer
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.core.table import Limits
from scistream.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidArgument,
    PeerError,
    ResourceExhausted,
    SessionNotFound,
)
from support.control_servers import RelayBackend, Start
from support.watching import ask, until, until_state

APP = Endpoint("127.0.0.1", 9)


async def connect(client: ControlClient, uid: str, target: Endpoint, **wishes: Any) -> Endpoint:
    """Open the producer's side of `uid` without encryption; return its listener."""
    _, grant = await asyncio.gather(
        client.hello(uid, Role.PRODUCER, [target]), client.request(uid, Role.PRODUCER, **wishes)
    )
    await client.update(uid, Role.PRODUCER, [target])
    return grant.listeners[0]


# --- capacity --------------------------------------------------------------------------------------------


async def test_rates_are_reserved_and_what_is_beyond_the_capacity_is_refused_with_numbers(
    start: Start,
) -> None:
    running = await start(capacity_mbps=1000)
    async with running.facility().connect() as client:
        await reserve_side(client, "first", Role.PRODUCER, addresses=[APP], rate_mbps=700)
        with pytest.raises(ResourceExhausted, match="rate is 400 Mb/s, 300 of 1000 Mb/s free"):
            await client.request("second", Role.PRODUCER, rate_mbps=400)
        await reserve_side(client, "third", Role.PRODUCER, addresses=[APP], rate_mbps=300)
        with pytest.raises(InvalidArgument, match="1000 Mb/s in all"):
            await client.request("fourth", Role.PRODUCER, rate_mbps=1001)
        await reserve_side(client, "without-wish", Role.PRODUCER, addresses=[APP])
        await client.release("first")
        await reserve_side(client, "second", Role.PRODUCER, addresses=[APP], rate_mbps=400)


async def test_a_request_that_queues_is_served_in_its_turn(start: Start) -> None:
    running = await start(capacity_mbps=100)
    async with running.facility().connect() as client, running.facility("bob").connect() as other:
        await reserve_side(client, "first", Role.PRODUCER, addresses=[APP], rate_mbps=80)
        waiting = asyncio.create_task(client.request("second", Role.PRODUCER, rate_mbps=90, queue=True))
        await until_state(client, "second", State.QUEUED)
        later = asyncio.create_task(other.request("third", Role.PRODUCER, rate_mbps=10, queue=True))
        await until_state(other, "third", State.QUEUED)
        await client.release("first")
        await until_state(client, "second", State.RESERVED)
        await until_state(other, "third", State.RESERVED)
        await client.hello("second", Role.PRODUCER, [APP])
        await other.hello("third", Role.PRODUCER, [APP])
        assert len((await waiting).listeners) == 1
        assert len((await later).listeners) == 1


async def test_a_request_queues_no_longer_than_its_caller_waits_and_the_gateway_allows(start: Start) -> None:
    running = await start(capacity_mbps=100, limits=Limits(queue_timeout_s=0.3))
    async with running.facility().connect() as client:
        await reserve_side(client, "first", Role.PRODUCER, addresses=[APP], rate_mbps=100)
        with pytest.raises(DeadlineExceeded, match=r"were not free within 0\.3 s"):
            await client.request("second", Role.PRODUCER, rate_mbps=10, queue=True)
        waiting = asyncio.create_task(client.request("third", Role.PRODUCER, rate_mbps=10, queue=True))
        await until_state(client, "third", State.QUEUED)
        waiting.cancel()
        await until_state(client, "third", State.RELEASED)


async def test_the_side_that_is_granted_first_waits_for_the_one_that_queues(
    start: Start, echo: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_RENEW_S", 0.1)
    producer = await start(limits=Limits(update_timeout_s=0.6))
    consumer = await start(capacity_mbps=100)
    loop = asyncio.get_running_loop()
    async with producer.facility().connect() as ours, consumer.facility().connect() as theirs:
        await reserve_side(theirs, "first", Role.PRODUCER, addresses=[APP], rate_mbps=60)
        waiting = asyncio.create_task(
            open_session(
                producer.facility(), consumer.facility(), targets=[echo], rate_mbps=60, queue=True, uid="uid"
            )
        )
        await until_state(ours, "uid", State.ANNOUNCED)
        granted_s = loop.time()
        await until_state(theirs, "uid", State.QUEUED)
        await until(lambda: loop.time() > granted_s + 1.2)
        await theirs.release("first")
        async with await waiting as session:
            assert await ask(session.listeners[0], b"hello") == b"hello"


# --- leases ----------------------------------------------------------------------------------------------


async def test_an_idle_session_ends_and_one_that_carries_does_not(start: Start, echo: Endpoint) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        busy = await connect(client, "busy", echo, idle_timeout_s=0.8)
        await connect(client, "idle", echo, idle_timeout_s=0.8)

        async def carry() -> None:
            while True:
                await ask(busy, b"x")
                await asyncio.sleep(0.05)

        carrying = asyncio.create_task(carry())
        await until_state(client, "idle", State.EXPIRED)
        (idle,) = await client.status("idle")
        assert idle.reason == "no byte moved for 0.8 s"
        assert idle.seconds >= 0.8
        assert (await client.status("busy"))[0].state is State.CONNECTED
        carrying.cancel()
        await until_state(client, "busy", State.EXPIRED)


async def test_a_lifetime_ends_a_session_unless_it_is_renewed(start: Start, echo: Endpoint) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        await connect(client, "renewed", echo, lifetime_s=1.0)
        await connect(client, "left", echo, lifetime_s=1.0)
        while (await client.status("left"))[0].state is not State.EXPIRED:
            await client.renew("renewed")
            await asyncio.sleep(0.02)
        (left,), (renewed,) = await client.status("left"), await client.status("renewed")
        assert "lifetime of 1 s is over" in left.reason
        assert renewed.state is State.CONNECTED
        assert renewed.lifetime_left_s is not None
        assert 0 < renewed.lifetime_left_s <= 1.0
        await until_state(client, "renewed", State.EXPIRED)


async def test_the_gateways_own_leases_are_the_longest_that_anybody_gets(start: Start) -> None:
    running = await start(limits=Limits(idle_timeout_s=60, lifetime_s=600))
    async with running.facility().connect() as client:
        for uid, asked, given in (
            ("default", {}, (60, 600)),
            ("shorter", {"idle_timeout_s": 6, "lifetime_s": 5}, (6, 5)),
            ("longer", {"idle_timeout_s": 0, "lifetime_s": 9999}, (60, 600)),
        ):
            waiting = asyncio.create_task(client.request(uid, Role.PRODUCER, **asked))
            await until_state(client, uid, State.RESERVED)
            (status,) = await client.status(uid)
            assert (status.idle_timeout_s, status.lifetime_s) == given
            await client.release(uid)
            await asyncio.wait({waiting})
            assert waiting.exception() is not None


async def test_nobody_renews_what_is_not_theirs(start: Start, echo: Endpoint) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client, running.facility("bob").connect() as other:
        await connect(client, "uid", echo, lifetime_s=60)
        with pytest.raises(SessionNotFound):
            await other.renew("uid")


# --- addresses -------------------------------------------------------------------------------------------


async def test_ports_are_advertised_as_others_reach_them(start: Start, echo: Endpoint) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = await start(
        encryption=Encryption.OPTIONAL,
        ports=PortRange(first=port, last=port),
        advertised_ports=PortRange(first=30100, last=30100),
        advertise_host="gateway.example",
    )
    async with running.facility().connect() as client:
        assert await connect(client, "uid", echo) == Endpoint("gateway.example", 30100)
        assert await ask(Endpoint("127.0.0.1", port), b"hello") == b"hello"


# --- the journal -----------------------------------------------------------------------------------------


async def test_what_ended_is_still_told_by_the_next_control_server(
    start: Start, echo: Endpoint, tmp_path: Path
) -> None:
    first = await start(encryption=Encryption.OPTIONAL, state_dir=tmp_path / "state")
    async with first.facility().connect() as client:
        await ask(await connect(client, "uid", echo), b"x" * 1000)
        await client.release("uid")
        before = await client.status("uid")
    await first.server.stop()
    second = await start(encryption=Encryption.OPTIONAL, state_dir=tmp_path / "state")
    async with second.facility().connect() as client:
        assert await client.status("uid") == before
        with pytest.raises(SessionNotFound):
            await client.status("another")
    assert second.server.recovered == 0


async def test_data_servers_that_cannot_outlive_the_control_server_are_failed_after_it_was_ended(
    start: Start, echo: Endpoint, tmp_path: Path
) -> None:
    first = await start(encryption=Encryption.OPTIONAL, state_dir=tmp_path / "state")
    async with first.facility().connect() as client:
        listener = await connect(client, "uid", echo)
    await first.server.stop(StopMode.KEEP)
    await first.backend.close()
    second = await start(encryption=Encryption.OPTIONAL, state_dir=tmp_path / "state")
    async with second.facility().connect() as client:
        await until_state(client, "uid", State.FAILED)
        (status,) = await client.status("uid")
        assert "outlive" in status.reason
        assert status.listeners == (listener,)


async def test_a_call_that_waits_is_told_to_ask_again_when_sessions_are_kept(
    start: Start, tmp_path: Path
) -> None:
    first = await start(state_dir=tmp_path / "state")
    async with first.facility().connect() as client:
        waiting = asyncio.create_task(client.request("uid", Role.PRODUCER))
        await until_state(client, "uid", State.RESERVED)
        before = (await client.status("uid"))[0]
        await first.server.stop(StopMode.KEEP)
        with pytest.raises(PeerError, match="ask again in a moment"):
            await waiting
    second = await start(state_dir=tmp_path / "state")
    async with second.facility().connect() as client:
        again = asyncio.create_task(client.request("uid", Role.PRODUCER))
        await client.hello("uid", Role.PRODUCER, [APP])
        grant = await again
        assert grant.listeners == before.listeners
        assert grant.certificate_pem


async def test_a_second_control_server_on_the_same_state_is_refused_and_harms_nothing(
    start: Start, tls_files: tuple[Path, Path], tmp_path: Path
) -> None:
    running = await start(state_dir=tmp_path / "state")
    with pytest.raises(ResourceExhausted, match="another control server runs with"):
        await start(state_dir=tmp_path / "state")
    async with running.facility().connect() as client:
        await reserve_side(client, "uid", Role.PRODUCER, addresses=[APP])


def test_sessions_cannot_be_kept_without_a_place_for_them(tls_files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigurationError, match="--state-dir"):
        ControlServer(
            ControlServerConfig(
                listen=Endpoint("127.0.0.1", 0),
                certificate=tls_files[0],
                private_key=tls_files[1],
                bind_host="127.0.0.1",
                advertise_host="127.0.0.1",
                ports=PortRange(first=0, last=0),
                data_server="relay",
                authenticators={"none": {}},
                on_terminate=StopMode.KEEP,
            ),
            backend=RelayBackend(),
        )


async def test_draining_takes_no_new_session_and_ends_when_the_last_stream_has(
    start: Start, echo: Endpoint
) -> None:
    running = await start(encryption=Encryption.OPTIONAL, drain_timeout_s=20)
    async with running.facility().connect() as client:
        listener = await connect(client, "busy", echo)
        await connect(client, "idle", echo)
        reader, writer = await asyncio.open_connection(listener.host, listener.port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        stopping = asyncio.create_task(running.server.stop(StopMode.DRAIN))
        await until_state(client, "idle", State.RELEASED)
        with pytest.raises(PeerError, match="shutting down"):
            await client.request("new", Role.PRODUCER)
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        assert not stopping.done()
        writer.close()
        await asyncio.wait_for(stopping, 10)
