"""The next control server: what it makes of what it finds, and of a start that fails on the way."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.client.aio import ControlClient, reserve_side
from scistream.config import PortRange, StopMode
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.errors import ConfigurationError, PeerError, ResourceExhausted, SciStreamError
from support.control_servers import RelayBackend, Start
from support.watching import ask, can_be_bound, until, until_state

APP = Endpoint("127.0.0.1", 9)


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """What one gateway has in common with its successor; its data servers outlive it."""
    return {
        "state_dir": tmp_path / "state",
        "encryption": Encryption.OPTIONAL,
        "backend": RelayBackend(outlives=True),
    }


async def connect(client: ControlClient, uid: str, target: Endpoint, **wishes: Any) -> Endpoint:
    grant = await reserve_side(client, uid, Role.PRODUCER, addresses=[target], **wishes)
    await client.update(uid, Role.PRODUCER, [target])
    return grant.listeners[0]


def boot_again(state_dir: Path) -> None:
    """Let the journal look as if it had been written before the machine was started anew."""
    with sqlite3.connect(state_dir / "journal.db") as database:
        database.execute("UPDATE gateway SET value = 'another' WHERE name = 'boot_id'")
    database.close()


async def test_a_data_server_that_outlives_its_control_server_is_found_again(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "uid", echo)
    await first.server.stop(StopMode.KEEP)
    assert await ask(listener, b"alone") == b"alone"
    second = await start(**values)
    assert second.server.recovered == 1
    async with second.facility().connect() as client:
        (status,) = await client.status("uid")
        assert (status.state, status.bytes_forwarded) == (State.CONNECTED, 10)
        await client.release("uid")
        assert can_be_bound(listener)


async def test_how_the_peers_streams_end_is_known_to_the_data_server_and_to_the_next_control_server(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    peer, _ = make_session_certificate("uid")
    first = await start(**values)
    async with first.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        assert grant.data_server == "relay"
        tls = {"peer_certificate_pem": peer, "peer_data_server": "Nginx"}
        await client.update("uid", Role.PRODUCER, [echo], **tls)
    (server,) = values["backend"].servers
    assert server.tls.peer_omits_close_notify
    server.tls = None
    await first.server.stop(StopMode.KEEP)
    second = await start(**values)
    assert server.tls.peer_omits_close_notify  # it has been retargeted
    async with second.facility().connect() as client:
        await client.update("uid", Role.PRODUCER, [APP], peer_certificate_pem=peer, peer_data_server="native")
        assert not server.tls.peer_omits_close_notify


# --- a machine that was started anew ---------------------------------------------------------------------


async def test_after_a_reboot_every_session_has_failed_and_its_times_are_no_nonsense(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        await connect(client, "connected", echo, lifetime_s=3600)
        await connect(client, "released", echo)
        await client.release("released")
        await reserve_side(client, "announced", Role.PRODUCER, addresses=[APP])
        (released,) = await client.status("released")
    await first.server.stop(StopMode.KEEP)
    with sqlite3.connect(values["state_dir"] / "journal.db") as database:
        # the other boot had lasted for long
        database.execute(
            "UPDATE session SET history = json_set(history, '$.begin_s', 1e9, '$.deadlines_s.lifetime', 2e9) "
            "WHERE uid != 'released'"
        )
    database.close()
    boot_again(values["state_dir"])
    second = await start(**values)
    assert second.server.recovered == 0
    async with second.facility().connect() as client:
        for uid in ("connected", "announced"):
            await until_state(client, uid, State.FAILED)
            (status,) = await client.status(uid)
            assert status.reason == "the gateway's machine was started anew"
            assert status.seconds == 0
            assert status.lifetime_left_s is None
        assert (await client.status("released"))[0] == released
        assert (await connect(client, "next", echo)).port
        assert len(list((values["state_dir"] / "keys").iterdir())) == 1


async def test_a_reboot_is_not_forgotten_by_a_first_start_that_fails(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        await connect(client, "uid", echo)
    await first.server.stop(StopMode.KEEP)
    boot_again(values["state_dir"])
    other = await start()
    with pytest.raises(ResourceExhausted, match="another program"):
        await start(**values, listen=other.server.address)
    third = await start(**values)
    async with third.facility().connect() as client:
        await until_state(client, "uid", State.FAILED)
        assert (await client.status("uid"))[0].reason == "the gateway's machine was started anew"


# --- what had no listeners, or was ending ----------------------------------------------------------------


async def test_a_session_that_ends_with_its_control_server_has_lived_until_the_next_one_came(
    start: Start, values: dict[str, Any]
) -> None:
    first = await start(**values, capacity_mbps=100)
    async with first.facility().connect() as client:
        await reserve_side(client, "first", Role.PRODUCER, addresses=[APP], rate_mbps=100)
        waiting = asyncio.create_task(client.request("queued", Role.PRODUCER, rate_mbps=1, queue=True))
        await until_state(client, "queued", State.QUEUED)
        await first.server.stop(StopMode.KEEP)
        with pytest.raises(PeerError):
            await waiting
    second = await start(**values, capacity_mbps=100)
    async with second.facility().connect() as client:
        (status,) = await client.status("queued")
        assert status.state is State.FAILED
        (later,) = await client.status("queued")
        assert later.seconds == status.seconds > 0


async def test_what_was_being_freed_when_sessions_were_kept_is_freed_to_its_end(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "uid", echo)
        first.backend.may_stop.clear()
        releasing = asyncio.create_task(client.release("uid"))
        await until_state(client, "uid", State.RELEASING)
        stopping = asyncio.create_task(first.server.stop(StopMode.KEEP))
        with pytest.raises(PeerError, match="ask again in a moment"):
            await releasing
        # the stop would be over by then, if it did not wait for what is being freed
        asyncio.get_running_loop().call_later(0.5, first.backend.may_stop.set)
        await stopping
    assert tasks_of_sessions() == []
    assert first.backend.servers[0].ended.done()
    assert can_be_bound(listener)
    second = await start(**values)
    async with second.facility().connect() as client:
        await until_state(client, "uid", State.RELEASED)
        await client.release("uid")


async def test_a_session_that_is_served_while_sessions_are_being_kept_is_kept_too(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values, capacity_mbps=100)
    async with first.facility().connect() as client:
        await connect(client, "stream", echo)
        await reserve_side(client, "first", Role.PRODUCER, addresses=[APP], rate_mbps=100)
        waiting = asyncio.create_task(client.request("next", Role.PRODUCER, rate_mbps=1, queue=True))
        await until_state(client, "next", State.QUEUED)
        first.backend.may_answer.clear()
        stopping = asyncio.create_task(first.server.stop(StopMode.KEEP))
        await until(lambda: first.backend.servers[0].looks)
        await client.release("first")
        await until_state(client, "next", State.RESERVED)
        (before,) = await client.status("next")
        first.backend.may_answer.set()
        await stopping
        with pytest.raises(PeerError):
            await waiting
    second = await start(**values, capacity_mbps=100)
    async with second.facility().connect() as client:
        (after,) = await client.status("next")
        assert (after.state, after.listeners) == (State.RESERVED, before.listeners)


async def test_a_data_server_that_answers_with_an_error_nobody_thought_of_does_not_stop_the_end(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        await connect(client, "uid", echo)
        first.backend.servers[0].statistics_error = "a fault of the plug-in"
        assert (await client.status("uid"))[0].state is State.CONNECTED
    await first.server.stop(StopMode.KEEP)
    first.backend.servers[0].statistics_error = ""
    second = await start(**values)
    assert second.server.recovered == 1


# --- updates ---------------------------------------------------------------------------------------------


async def test_an_update_that_the_found_data_server_cannot_take_over_leaves_its_streams_alone(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "uid", echo)
        first.backend.may_retarget.clear()
        update = asyncio.create_task(client.update("uid", Role.PRODUCER, [APP]))
        await until(lambda: first.backend.retargets)
        await first.server.stop(StopMode.KEEP)
        with pytest.raises(PeerError):
            await update
    values["backend"].retarget_error = "no descriptors left"
    second = await start(**values)
    async with second.facility().connect() as client:
        (status,) = await client.status("uid")
        assert (status.state, status.targets) == (State.CONNECTED, (echo,))
        assert await ask(listener, b"hello") == b"hello"


async def test_a_data_server_that_forwards_elsewhere_than_the_journal_says_is_led_back(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "uid", APP)
    await first.server.stop(StopMode.KEEP)
    with sqlite3.connect(values["state_dir"] / "journal.db") as database:
        database.execute(
            "UPDATE session SET session = json_set(session, '$.targets[0]', ?, '$.ready_targets[0]', ?)",
            (str(echo), str(echo)),
        )
    database.close()
    second = await start(**values)
    async with second.facility().connect() as client:
        assert (await client.status("uid"))[0].targets == (echo,)
        assert await ask(listener, b"hello") == b"hello"


# --- a journal that is not the data servers' -------------------------------------------------------------


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM session",
        "UPDATE session SET session = json_set(session, '$.state', 'announced', '$.generation', 0)",
    ],
    ids=["emptied", "older"],
)
async def test_data_servers_that_the_journal_does_not_know_are_not_ended_and_the_start_is_refused(
    start: Start, values: dict[str, Any], echo: Endpoint, tmp_path: Path, lost: str
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "forwarded", echo)
    await first.server.stop(StopMode.KEEP)
    journal = values["state_dir"] / "journal.db"
    shutil.copy(journal, tmp_path / "backup")
    with sqlite3.connect(journal) as database:
        database.execute(lost)
    database.close()
    with pytest.raises(ConfigurationError) as refused:
        await start(**values)
    for said in ("data servers of 1 sessions", "forwarded", str(journal), f"kill {os.getpid()}"):
        assert said in str(refused.value)
    assert await ask(listener, b"alone") == b"alone"
    assert len(list((values["state_dir"] / "keys").iterdir())) == 1
    shutil.copy(tmp_path / "backup", journal)
    third = await start(**values)
    assert third.server.recovered == 1


async def test_a_data_server_whose_session_has_ended_is_ended_without_a_question(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "uid", echo)
    await first.server.stop(StopMode.KEEP)
    with sqlite3.connect(values["state_dir"] / "journal.db") as database:
        database.execute(
            "UPDATE session SET session = json_set(session, '$.state', 'releasing', '$.outcome', 'released')"
        )
    database.close()
    second = await start(**values)
    async with second.facility().connect() as client:
        await until_state(client, "uid", State.RELEASED)
        assert can_be_bound(listener)


# --- a start that fails ----------------------------------------------------------------------------------


def tasks_of_sessions() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("session ", "watching ", "freeing ", "traffic "))]


async def test_a_start_that_fails_after_the_recovery_leaves_nothing_behind_and_the_sessions_alone(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        listener = await connect(client, "connected", echo)
        reserved = (await reserve_side(client, "reserved", Role.PRODUCER, addresses=[APP])).listeners[0]
    await first.server.stop(StopMode.KEEP)
    obstacle = values["state_dir"] / "keys" / "a directory"
    obstacle.mkdir()
    with pytest.raises((SciStreamError, OSError)):
        await start(**values)
    assert tasks_of_sessions() == []
    assert can_be_bound(reserved)
    assert await ask(listener, b"alone") == b"alone"
    obstacle.rmdir()
    third = await start(**values)
    async with third.facility().connect() as client:
        states = {one.uid: one.state for one in await client.status()}
        assert states == {"connected": State.CONNECTED, "reserved": State.ANNOUNCED}
        assert await ask(listener, b"hello") == b"hello"


async def test_a_session_that_cannot_be_taken_over_is_still_in_the_journal(
    start: Start, values: dict[str, Any], echo: Endpoint
) -> None:
    first = await start(**values)
    async with first.facility().connect() as client:
        await connect(client, "one", echo)
        await connect(client, "two", echo)
    await first.server.stop(StopMode.KEEP)

    database = sqlite3.connect(values["state_dir"] / "journal.db", isolation_level=None)
    ports = [port for (port,) in database.execute("SELECT json_extract(session, '$.ports[0]') FROM session")]
    change = "UPDATE session SET session = json_set(session, '$.ports[0]', ?) WHERE uid = 'two'"
    database.execute(change, (ports[0],))
    journal = re.escape(str(values["state_dir"] / "journal.db"))
    with pytest.raises(ConfigurationError, match=f"{journal} .*session two: port .* held already.*move it"):
        # a range of ports knows them one by one
        await start(**values, ports=PortRange(first=ports[0], last=ports[0]))
    database.execute(change, (ports[1],))
    database.close()
    third = await start(**values)
    assert third.server.recovered == 2
