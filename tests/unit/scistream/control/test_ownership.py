"""Two users at one control server, and an administrator: only the owner sees, changes or ends a session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.client.aio import ControlClient, reserve_side
from scistream.config import StopMode
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.core.table import Limits
from scistream.errors import PermissionDenied, SciStreamError, SessionNotFound
from support.control_servers import RelayBackend, Running, Start
from support.watching import state_of

PEER_CERTIFICATE, _ = make_session_certificate("peer")
HERS, NOBODYS = "hers", "nobodys"
POLICY = """
[[rules]]
name = "everybody"
anyone = true
targets = ["127.0.0.0/8:*"]

[[administrators]]
identities = ["olga"]
"""

Call = Callable[[ControlClient, str], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "status": lambda client, uid: client.status(uid),
    "hello": lambda client, uid: client.hello(uid, Role.PRODUCER, [Endpoint("127.0.0.1", 9)]),
    "update": lambda client, uid: client.update(
        uid, Role.PRODUCER, [Endpoint("127.0.0.1", 9)], peer_certificate_pem=PEER_CERTIFICATE
    ),
    "renew": lambda client, uid: client.renew(uid),
    "release": lambda client, uid: client.release(uid),
    "a cancelled request": lambda client, uid: asyncio.wait_for(client.request(uid, Role.PRODUCER), 0.3),
}


async def outcome(call: Call, client: ControlClient, uid: str) -> tuple[str, str]:
    """Return what comes of a call, without the session's own name."""
    try:
        answer = await call(client, uid)
    except (SciStreamError, TimeoutError) as error:
        return type(error).__name__, str(error).replace(uid, "UID")
    return "answer", repr(answer).replace(uid, "UID")


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """What a gateway and its successor have in common."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    return {
        "state_dir": tmp_path / "state",
        "encryption": Encryption.OPTIONAL,
        "backend": RelayBackend(outlives=True),
        "limits": Limits(early_hello_timeout_s=0.05),
        "policy": policy,
    }


async def open_one(running: Running, user: str, echo: Endpoint) -> None:
    async with running.facility(user).connect() as client:
        await reserve_side(client, HERS, Role.PRODUCER, addresses=[echo])
        await client.update(HERS, Role.PRODUCER, peer_certificate_pem=PEER_CERTIFICATE)


async def of(running: Running, user: str) -> State:
    async with running.facility(user).connect() as client:
        return await state_of(client, HERS)


@pytest.mark.attack("another user's session, by any call")
@pytest.mark.parametrize("restarted", [False, True], ids=["fresh", "after a restart"])
@pytest.mark.parametrize("owner", ["alice", "olga"])
@pytest.mark.parametrize("name", CALLS)
async def test_another_users_session_answers_as_one_that_is_not_there(
    start: Start, echo: Endpoint, values: dict[str, Any], name: str, owner: str, restarted: bool
) -> None:
    running = await start(**values)
    await open_one(running, owner, echo)
    if restarted:
        await running.server.stop(StopMode.KEEP)
        running = await start(**values)
        assert running.server.recovered == 1
    async with running.facility("bob").connect() as bob:
        theirs = await outcome(CALLS[name], bob, HERS)
        assert theirs == await outcome(CALLS[name], bob, NOBODYS)
        assert owner not in theirs[1]
        assert [one for one in await bob.status() if one.principal != "bob"] == []
    assert await of(running, owner) is State.CONNECTED


async def test_telling_anothers_session_from_none_by_time_is_not_possible(
    start: Start, echo: Endpoint, values: dict[str, Any]
) -> None:
    """The way to both answers is the same: neither is looked for among other users' sessions.

    Times on a shared machine are no proof; a factor of ten between medians would be a leak all the same.
    """
    running = await start(**values)
    await open_one(running, "alice", echo)
    took: dict[str, list[float]] = {HERS: [], NOBODYS: []}
    async with running.facility("bob").connect() as bob:
        for _ in range(50):
            for uid, seconds in took.items():
                began_s = time.perf_counter()
                with pytest.raises(SessionNotFound):
                    await bob.status(uid)
                seconds.append(time.perf_counter() - began_s)
    hers, nobodys = (sorted(seconds)[25] for seconds in took.values())
    assert 0.1 < hers / nobodys < 10


async def test_two_users_have_sessions_of_one_name_and_each_ends_its_own(
    start: Start, echo: Endpoint, values: dict[str, Any]
) -> None:
    running = await start(**values)
    for user in ("alice", "bob"):
        await open_one(running, user, echo)
    async with running.facility("bob").connect() as bob:
        await bob.release(HERS)
    assert await of(running, "bob") is State.RELEASED
    assert await of(running, "alice") is State.CONNECTED


async def test_an_administrator_sees_and_ends_everybodys_sessions_when_asked_to(
    start: Start, echo: Endpoint, values: dict[str, Any]
) -> None:
    running = await start(**values)
    for user in ("alice", "bob"):
        await open_one(running, user, echo)
    async with running.facility("olga").connect() as olga:
        assert await olga.status() == ()
        with pytest.raises(SessionNotFound):
            await olga.status(HERS)
        found, notices = await olga.status_and_notices(everybody=True)
        assert sorted((one.principal, one.uid) for one in found) == [("alice", HERS), ("bob", HERS)]
        assert "policy.toml" in notices[0]
        assert len((await olga.status_and_notices(NOBODYS, everybody=True))[0]) == 0
        await olga.release(HERS)  # her own, and there is none
        assert await of(running, "alice") is State.CONNECTED
        await olga.release(HERS, principal="alice")
    assert await of(running, "alice") is State.RELEASED
    assert await of(running, "bob") is State.CONNECTED


@pytest.mark.attack("an administrator's call by another user")
@pytest.mark.parametrize("with_policy", [True, False])
async def test_what_administrators_may_is_refused_to_others_whether_there_is_a_session_or_not(
    start: Start, echo: Endpoint, values: dict[str, Any], with_policy: bool
) -> None:
    running = await start(**(values if with_policy else values | {"policy": None}))
    await open_one(running, "alice", echo)
    async with running.facility("bob").connect() as bob:
        for uid in (HERS, NOBODYS):
            with pytest.raises(PermissionDenied, match="for administrators"):
                await bob.release(uid, principal="alice")
            with pytest.raises(PermissionDenied, match="for administrators"):
                await bob.status_and_notices(uid, everybody=True)
        with pytest.raises(PermissionDenied):
            await bob.status_and_notices(everybody=True)
    assert await of(running, "alice") is State.CONNECTED
