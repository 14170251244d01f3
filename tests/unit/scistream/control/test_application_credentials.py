"""The credential of a session's application: good for its hello, status and release, and for no more."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.client.aio import ControlClient
from scistream.config import StopMode
from scistream.core.admission import MAX_CREDENTIALS
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.core.table import Limits
from scistream.errors import AuthenticationError, PermissionDenied, SessionNotFound, WrongState
from support.control_servers import RelayBackend, Running, Start
from support.watching import state_of

APP = Endpoint("127.0.0.1", 9)
PEER_CERTIFICATE, _ = make_session_certificate("peer")


@asynccontextmanager
async def requested(
    running: Running, uid: str, user: str = "alice"
) -> AsyncIterator[tuple[asyncio.Task[Any], str]]:
    """A REQ that waits for hello, and the credential that came with it."""
    credentials: asyncio.Queue[str] = asyncio.Queue()
    async with running.facility(user).connect() as client:
        waiting = asyncio.create_task(
            client.request(uid, Role.PRODUCER, on_credential=credentials.put_nowait)
        )
        credential = await asyncio.wait_for(credentials.get(), 10)
        assert not waiting.done()
        try:
            yield waiting, credential
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def application(running: Running, credential: str) -> ControlClient:
    return replace(running.facility(), token=credential).connect()


async def test_the_application_says_hello_with_it_and_the_request_is_answered(start: Start) -> None:
    running = await start()
    async with requested(running, "uid") as (waiting, credential), application(running, credential) as app:
        listeners = await app.hello("uid", Role.PRODUCER, [APP])
        assert (await waiting).listeners == listeners
        assert await state_of(app, "uid") is State.ANNOUNCED
        assert [one.uid for one in await app.status()] == ["uid"]
        await app.release("uid")
        assert await state_of(app, "uid") is State.RELEASED


async def test_the_owners_token_says_hello_as_well(start: Start) -> None:
    running = await start()
    async with requested(running, "uid") as (waiting, _), running.facility().connect() as alice:
        await alice.hello("uid", Role.PRODUCER, [APP])
        await waiting


@pytest.mark.attack("an application's credential for its user's calls")
async def test_what_is_its_users_is_refused_to_an_application(start: Start) -> None:
    running = await start()
    async with requested(running, "uid") as (_, credential), application(running, credential) as app:
        await app.hello("uid", Role.PRODUCER, [APP])
        for call in (
            app.update("uid", Role.PRODUCER, [APP], peer_certificate_pem=PEER_CERTIFICATE),
            app.renew("uid"),
            app.request("another", Role.PRODUCER),
            app.release("uid", principal="bob"),
            app.status_and_notices(everybody=True),
        ):
            with pytest.raises(PermissionDenied):
                await call


@pytest.mark.attack("an application's credential for another session")
async def test_another_session_of_the_same_user_is_not_there_for_it(start: Start) -> None:
    running = await start()
    async with (
        requested(running, "one") as (_, credential),
        requested(running, "two") as (waiting, _),
        application(running, credential) as app,
    ):
        for uid in ("two", "none"):
            for call in (
                app.hello(uid, Role.PRODUCER, [APP]),
                app.status(uid),
                app.release(uid),
            ):
                with pytest.raises(SessionNotFound):
                    await call
        assert [one.uid for one in await app.status()] == ["one"]
        assert not waiting.done()


@pytest.mark.attack("an application's credential after its session")
async def test_it_ends_with_its_session_and_is_of_no_use_for_the_next_of_that_name(start: Start) -> None:
    # a hello that waited for the next session of that name would wait for longer than the test
    running = await start(limits=Limits(early_hello_timeout_s=60))
    async with running.facility().connect() as alice:
        async with requested(running, "uid") as (_, first), application(running, first) as app:
            await app.hello("uid", Role.PRODUCER, [APP])
            await alice.release("uid")
            with pytest.raises(WrongState, match="released on request"):
                await app.hello("uid", Role.PRODUCER, [APP], timeout_s=10)
            assert (await app.status("uid"))[0].reason == "released on request"
        async with requested(running, "uid") as (waiting, second), application(running, first) as app:
            assert second != first
            with pytest.raises(AuthenticationError):
                await app.hello("uid", Role.PRODUCER, [APP])
            with pytest.raises(AuthenticationError):
                await app.status("uid")
            assert not waiting.done()


async def test_a_session_that_is_forgotten_takes_its_credential_along(start: Start) -> None:
    running = await start(limits=Limits(ended_sessions=1))
    async with running.facility().connect() as alice:
        async with requested(running, "old") as (_, old), application(running, old) as app:
            await app.hello("old", Role.PRODUCER, [APP])
        await alice.release("old")
        async with requested(running, "new") as (_, new), application(running, new) as app:
            await app.hello("new", Role.PRODUCER, [APP])
        await alice.release("new")
        async with application(running, old) as app:
            with pytest.raises(AuthenticationError):
                await app.status("old")


async def test_the_same_request_again_brings_another_and_only_the_newest_few_are_good(start: Start) -> None:
    running = await start()
    found: list[str] = []
    async with requested(running, "uid") as (_, first), running.facility().connect() as alice:
        async with application(running, first) as app:
            await app.hello("uid", Role.PRODUCER, [APP])
        for _ in range(MAX_CREDENTIALS):
            await alice.request("uid", Role.PRODUCER, on_credential=found.append)
    assert len({first, *found}) == MAX_CREDENTIALS + 1
    async with application(running, first) as app:
        with pytest.raises(AuthenticationError):
            await app.status("uid")
    for credential in found:
        async with application(running, credential) as app:
            assert await state_of(app, "uid") is State.ANNOUNCED


@pytest.mark.attack("a guessed application's credential")
async def test_one_that_nobody_has_made_is_unknown(start: Start) -> None:
    running = await start()
    async with requested(running, "uid") as (waiting, credential):
        for forged in (credential[:-1], credential + "x", "scistream_app.", "scistream_app." + "A" * 43):
            async with application(running, forged) as app:
                with pytest.raises(AuthenticationError, match="of no session here"):
                    await app.hello("uid", Role.PRODUCER, [APP])
        assert not waiting.done()


async def test_a_request_that_is_refused_brings_none(start: Start) -> None:
    running = await start()
    found: list[str] = []
    async with requested(running, "uid"), running.facility().connect() as alice:
        with pytest.raises(Exception, match="session uid is here already"):
            await alice.request("uid", Role.PRODUCER, num_conn=2, on_credential=found.append)
    assert found == []


@pytest.mark.attack("the journal, read by somebody else", result="a hash alone")
async def test_the_journal_has_its_hash_and_the_next_control_server_takes_it(
    start: Start, tmp_path: Path
) -> None:
    values: dict[str, Any] = {
        "state_dir": tmp_path / "state",
        "backend": RelayBackend(outlives=True),
        "encryption": Encryption.OPTIONAL,
    }
    running = await start(**values)
    async with requested(running, "uid") as (_, credential), application(running, credential) as app:
        await app.hello("uid", Role.PRODUCER, [APP])
    await running.server.stop(StopMode.KEEP)
    with sqlite3.connect(tmp_path / "state" / "journal.db") as database:
        kept = "".join(map(str, database.execute("SELECT * FROM session").fetchall()))
    database.close()
    assert "credential_hashes" in kept
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert credential.encode() not in content
            assert credential.removeprefix("scistream_app.").encode() not in content
    running = await start(**values)
    async with application(running, credential) as app:
        assert await state_of(app, "uid") is State.ANNOUNCED
        await app.hello("uid", Role.PRODUCER, [APP])
