"""What the journal has when somebody is told of it, and what happens while it cannot be written."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scistream.client.aio import ControlClient, reserve_side
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.errors import ResourceExhausted
from support.control_servers import Running, Start
from support.watching import ask, state_of, until, until_state

APP = Endpoint("127.0.0.1", 9)
REFUSED = "state directory cannot be written"


@pytest.fixture
async def running(start: Start, tmp_path: Path) -> Running:
    return await start(encryption=Encryption.OPTIONAL, state_dir=tmp_path / "state")


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Let nobody else write the journal."""
    blocker = sqlite3.connect(state_dir / "journal.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()


def written(state_dir: Path, uid: str) -> State:
    database = sqlite3.connect(state_dir / "journal.db")
    (state,) = database.execute(
        "SELECT json_extract(session, '$.state') FROM session WHERE uid = ?", (uid,)
    ).fetchone()
    database.close()
    return State(state)


async def connect(client: ControlClient, uid: str, target: Endpoint) -> Endpoint:
    grant = await reserve_side(client, uid, Role.PRODUCER, addresses=[target])
    await client.update(uid, Role.PRODUCER, [target])
    return grant.listeners[0]


async def test_who_was_told_something_finds_it_in_the_journal(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client:
        await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        assert written(tmp_path / "state", "uid") is State.ANNOUNCED
        await client.update("uid", Role.PRODUCER, [echo])
        assert written(tmp_path / "state", "uid") is State.CONNECTED
        await client.release("uid")
        assert written(tmp_path / "state", "uid") is State.RELEASED


async def test_while_the_journal_cannot_be_written_what_is_new_is_refused_and_old_sessions_go_on(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client:
        listener = await connect(client, "old", echo)
        with locked(tmp_path / "state"):
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.update("old", Role.PRODUCER, [APP])
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.renew("old")
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.request("new", Role.PRODUCER)
            assert running.backend.retargets == 0
            (status,) = await client.status("old")
            assert (status.state, status.targets) == (State.CONNECTED, (echo,))
            assert await ask(listener, b"hello") == b"hello"
        await client.update("old", Role.PRODUCER, [APP])
        assert (await client.status("old"))[0].targets == (APP,)
        await connect(client, "new", echo)


async def test_the_first_update_that_is_not_in_the_journal_starts_no_data_server_and_can_come_again(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        with locked(tmp_path / "state"):
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.update("uid", Role.PRODUCER, [echo])
            assert await state_of(client, "uid") is State.ANNOUNCED
            assert running.backend.servers == []
        await client.update("uid", Role.PRODUCER, [echo])
        assert await ask(grant.listeners[0], b"hello") == b"hello"


async def test_listeners_that_are_not_in_the_journal_as_granted_are_told_to_nobody(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client:
        waiting = asyncio.create_task(client.request("uid", Role.PRODUCER))
        await until_state(client, "uid", State.RESERVED)
        with locked(tmp_path / "state"):
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.hello("uid", Role.PRODUCER, [echo])
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await waiting
            await until_state(client, "uid", State.FAILED)
        await connect(client, "uid", echo)


async def test_a_granted_session_outlives_messages_that_come_twice_while_the_journal_cannot_be_written(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client:
        await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        with locked(tmp_path / "state"), pytest.raises(ResourceExhausted, match=REFUSED):
            await client.hello("uid", Role.PRODUCER, [echo])
        await client.update("uid", Role.PRODUCER, [echo])


async def test_what_could_not_be_written_is_written_when_it_can_be_though_nothing_else_happens(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client:
        await connect(client, "uid", echo)
        with locked(tmp_path / "state"):
            await client.release("uid")
            assert written(tmp_path / "state", "uid") is State.CONNECTED
    await until(lambda: written(tmp_path / "state", "uid") is State.RELEASED)


@pytest.mark.parametrize("name", ["new", "used before"])
async def test_the_request_that_is_the_first_to_meet_a_journal_that_cannot_be_written_is_refused(
    running: Running, echo: Endpoint, tmp_path: Path, name: str
) -> None:
    uid = name.replace(" ", "-")
    async with running.facility().connect() as client:
        if name == "used before":
            await connect(client, uid, echo)
            await client.release(uid)
        with locked(tmp_path / "state"):
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.request(uid, Role.PRODUCER)
            await until_state(client, uid, State.FAILED)
        assert list((tmp_path / "state" / "keys").iterdir()) == []
        await connect(client, uid, echo)


async def test_one_session_that_cannot_be_written_stops_no_other_and_lets_nobody_wait(
    running: Running, echo: Endpoint, tmp_path: Path
) -> None:
    async with running.facility().connect() as client, running.facility("bob").connect() as other:
        await connect(client, "bad", echo)
        await connect(other, "good", echo)
        running.backend.servers[0].handle_error = "a fault of the plug-in"
        async with asyncio.timeout(10):
            with pytest.raises(ResourceExhausted, match=REFUSED):
                await client.update("bad", Role.PRODUCER, [Endpoint("localhost", echo.port)])
            await other.update("good", Role.PRODUCER, [Endpoint("localhost", echo.port)])
            with pytest.raises(ResourceExhausted, match=REFUSED) as refused:
                await other.request("new", Role.PRODUCER)
            assert "session new" in str(refused.value)
            assert "bad" not in str(refused.value)
            await other.release("good")
            assert written(tmp_path / "state", "good") is State.RELEASED
            assert [one.uid for one in await client.status()] == ["bad"]
            await client.release("bad")
            assert written(tmp_path / "state", "bad") is State.RELEASED
            await connect(other, "new", echo)
