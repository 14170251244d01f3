"""Control servers with a policy: what is refused at REQ, HELLO, UpdateTargets, and at each connecting."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.client.aio import ControlClient, reserve_side
from scistream.config import StopMode
from scistream.control import names
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.errors import ConfigurationError, PermissionDenied, SciStreamError
from support.control_servers import RelayBackend, Running, Start
from support.watching import ask, state_of, until, until_state

PEER_CERTIFICATE, _ = make_session_certificate("peer")
INTERIOR = Endpoint("10.9.9.9", 22)

Begin = Callable[..., Awaitable[Running]]


def rule(port: int | str = "*", **more: Any) -> str:
    """A rule for alice that leads to loopback."""
    lines = [f"{key} = {value!r}" for key, value in more.items()]
    head = ["[[rules]]", 'name = "lab"', 'identities = ["alice"]', f'targets = ["127.0.0.0/8:{port}"]']
    return "\n".join([*head, *lines, ""])


@pytest.fixture
def begin(start: Start, tmp_path: Path) -> Begin:
    """A function that starts a control server with a policy."""

    async def started(text: str, **changes: Any) -> Running:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return await start(**{"policy": path, "encryption": Encryption.OPTIONAL} | changes)

    return started


async def test_without_a_rule_nobody_opens_anything(begin: Begin, echo: Endpoint) -> None:
    running = await begin(rule())
    async with running.facility("bob").connect() as bob:
        for role in Role:
            with pytest.raises(PermissionDenied, match="no rule by which bob may open sessions"):
                await reserve_side(bob, "uid", role, addresses=[echo])
        assert await bob.status() == ()


async def test_a_rule_for_one_role_is_none_for_the_other(begin: Begin, echo: Endpoint) -> None:
    running = await begin(rule(roles=["PROD"]))
    async with running.facility().connect() as alice:
        await reserve_side(alice, "uid", Role.PRODUCER, addresses=[echo])
        with pytest.raises(PermissionDenied):
            await reserve_side(alice, "other", Role.CONSUMER)


async def test_what_is_allowed_streams(begin: Begin, echo: Endpoint) -> None:
    running = await begin(rule(echo.port))
    async with running.facility().connect() as alice:
        grant = await reserve_side(alice, "uid", Role.PRODUCER, addresses=[echo])
        await alice.update("uid", Role.PRODUCER)
        assert await ask(grant.listeners[0], b"hello") == b"hello"


# --- where to ----------------------------------------------------------------------------------------------


def forbidden(running: Running) -> dict[str, Endpoint]:
    """Where a rule for 0.0.0.0/0 and [::]/0 does not lead either."""
    port = running.server.address.port
    return {
        "loopback": Endpoint("127.0.0.1", 22),
        "IPv4 in IPv6": Endpoint("::ffff:127.0.0.1", 22),
        "a name": Endpoint("localhost", 22),
        "link-local": Endpoint("169.254.169.254", 80),
        "IPv6 link-local": Endpoint("fe80::1%lo", 80),
        "this host": Endpoint("0.0.0.0", 22),
        "the control port": Endpoint("127.0.0.1", port),
        "the control port by another address": Endpoint(own_address(), port),
    }


def own_address() -> str:
    """An address of this machine that is not loopback; where it has none, another of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


EVERYWHERE = """
[[rules]]
anyone = true
targets = ["0.0.0.0/0:*", "[::/0]:*"]
"""


@pytest.mark.attack("a session that leads to the gateway itself or its link")
async def test_a_rule_for_everywhere_does_not_lead_to_the_gateway_itself(begin: Begin) -> None:
    running = await begin(EVERYWHERE)
    async with running.facility().connect() as alice:
        for number, (what, target) in enumerate(forbidden(running).items()):
            uid = f"s{number}"
            with pytest.raises(PermissionDenied, match="may not be connected to"):
                await hello_within(alice, uid, target)
            await alice.release(uid)
            # one that has said hello with another address is not led there either
            await reserve_side(alice, uid, Role.PRODUCER, addresses=[Endpoint("192.0.2.1", 5000)])
            with pytest.raises(PermissionDenied, match="may not be connected to"):
                await alice.update(uid, Role.PRODUCER, [target])
            assert await state_of(alice, uid) is State.ANNOUNCED, what
    assert running.backend.servers == []


async def hello_within(client: ControlClient, uid: str, target: Endpoint) -> None:
    """Request a session, wait until it is there, and say hello for `target`."""
    there = asyncio.Event()
    request = asyncio.create_task(client.request(uid, Role.PRODUCER, on_credential=lambda _: there.set()))
    try:
        await asyncio.wait_for(there.wait(), 10)
        await client.hello(uid, Role.PRODUCER, [target])
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


@pytest.mark.attack("an inbound request into the facility's interior")
@pytest.mark.parametrize("early", [False, True], ids=["hello after request", "hello overtakes request"])
async def test_an_application_outside_the_rules_networks_is_never_connected_to(
    begin: Begin, early: bool
) -> None:
    running = await begin(rule(5000))
    async with running.facility().connect() as alice:
        if early:
            # nobody knows yet as which side: it is refused when it would be connected to
            hello = asyncio.create_task(alice.hello("uid", Role.PRODUCER, [INTERIOR]))
            early = running.server._runtime._table._greeting._early
            await until(lambda: early)
            await alice.request("uid", Role.PRODUCER)
            await hello
            with pytest.raises(PermissionDenied, match=r"10\.9\.9\.9:22"):
                await alice.update("uid", Role.PRODUCER)
        else:
            with pytest.raises(PermissionDenied, match=r"10\.9\.9\.9:22 may not be connected to"):
                await hello_within(alice, "uid", INTERIOR)
    assert running.backend.servers == []


@pytest.mark.attack("another session's listener as a target")
async def test_listeners_of_the_gateways_own_sessions_are_no_targets(begin: Begin, echo: Endpoint) -> None:
    running = await begin(rule() + rule().replace("lab", "bobs").replace("alice", "bob"))
    async with running.facility("alice").connect() as alice, running.facility("bob").connect() as bob:
        hers = await reserve_side(alice, "uid", Role.CONSUMER)
        await reserve_side(bob, "uid", Role.PRODUCER, addresses=[echo])
        with pytest.raises(PermissionDenied, match="is this gateway's own"):
            await bob.update("uid", Role.PRODUCER, [hers.listeners[0]])


@pytest.mark.attack("a name that is answered otherwise later (DNS rebinding)")
async def test_a_data_server_gets_the_addresses_that_were_judged_and_each_start_judges_again(
    begin: Begin, echo: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["127.0.0.1"]

    async def look_up(host: str, uid: str, timeout_s: float = 3) -> tuple[str, ...]:
        return tuple(answers) if host == "rebound.example" else (host,)

    monkeypatch.setattr("scistream.control.authorisation.addresses_of", look_up)
    running = await begin(rule(echo.port))
    name = Endpoint("rebound.example", echo.port)
    async with running.facility().connect() as alice:
        grant = await reserve_side(alice, "uid", Role.PRODUCER, addresses=[name])
        await alice.update("uid", Role.PRODUCER)
        assert (await alice.status("uid"))[0].targets == (name,)
        assert running.backend.servers[0].targets == (echo,)
        assert await ask(grant.listeners[0], b"hello") == b"hello"
        answers[:] = ["10.9.9.9"]
        assert await ask(grant.listeners[0], b"as before") == b"as before"
        running.backend.servers[0].die("killed")
        await until_state(alice, "uid", State.FAILED)
        assert "may not be connected to" in (await alice.status("uid"))[0].reason
    assert all(echo in server.targets for server in running.backend.servers if server.targets)


async def test_of_a_name_the_first_address_that_is_allowed_is_taken(
    begin: Begin, echo: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(host: str, uid: str, timeout_s: float = 3) -> tuple[str, ...]:
        return ("10.9.9.9", "::1", "127.0.0.1", "127.0.0.2")

    monkeypatch.setattr("scistream.control.authorisation.addresses_of", look_up)
    running = await begin(rule(echo.port))
    async with running.facility().connect() as alice:
        await reserve_side(alice, "uid", Role.PRODUCER, addresses=[Endpoint("app.example", echo.port)])
        await alice.update("uid", Role.PRODUCER)
    assert running.backend.servers[0].targets == (echo,)


async def test_a_name_without_address_is_refused_as_without_a_policy(begin: Begin) -> None:
    running = await begin(rule())
    async with running.facility().connect() as alice:
        with pytest.raises(SciStreamError, match=r"host no-such-host\.invalid"):
            await hello_within(alice, "uid", Endpoint("no-such-host.invalid", 5000))


async def test_the_order_of_a_names_addresses_is_that_of_the_system() -> None:
    assert await names.addresses_of("192.0.2.1", "uid") == ("192.0.2.1",)
    assert set(await names.addresses_of("localhost", "uid")) <= {"127.0.0.1", "::1"}


# --- how much ----------------------------------------------------------------------------------------------


async def test_sessions_and_channels_are_counted_for_each_user_and_freed_ones_do_not_count(
    begin: Begin, echo: Endpoint
) -> None:
    running = await begin(rule(max_sessions=2, max_channels=3))
    async with running.facility().connect() as alice:
        await reserve_side(alice, "one", Role.PRODUCER, addresses=[echo], num_conn=2)
        with pytest.raises(PermissionDenied, match="3 channels, and these would be 4"):
            await reserve_side(alice, "two", Role.PRODUCER, addresses=[echo], num_conn=2)
        await reserve_side(alice, "two", Role.PRODUCER, addresses=[echo])
        # the same again is no further one
        await alice.request("two", Role.PRODUCER)
        with pytest.raises(PermissionDenied, match="2 sessions, and these would be 3"):
            await reserve_side(alice, "three", Role.PRODUCER, addresses=[echo])
        await alice.release("one")
        await reserve_side(alice, "three", Role.PRODUCER, addresses=[echo])


async def test_a_session_gets_no_higher_rate_than_the_rule_has(begin: Begin, echo: Endpoint) -> None:
    running = await begin(rule(max_rate_mbps=500))
    async with running.facility().connect() as alice:
        for uid, asked in (("none", 0), ("less", 100), ("reference", 10_000)):
            await reserve_side(alice, uid, Role.PRODUCER, addresses=[echo], rate_mbps=asked)
            await alice.request(uid, Role.PRODUCER, rate_mbps=asked)  # joins it
        rates = {one.uid: one.rate_mbps for one in await alice.status()}
    assert rates == {"none": 500, "less": 100, "reference": 500}


async def test_a_session_ends_when_the_policy_says_so_whether_it_is_renewed_or_not(
    begin: Begin, echo: Endpoint, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"state_dir": tmp_path / "state", "backend": RelayBackend(outlives=True)}
    running = await begin(rule(max_lifetime_s=3.0), **values)
    async with running.facility().connect() as alice:
        await reserve_side(alice, "uid", Role.PRODUCER, addresses=[echo], lifetime_s=60)
        await alice.update("uid", Role.PRODUCER)
        await alice.renew("uid")
        (status,) = await alice.status("uid")
        assert status.term_left_s is not None
        assert 0 < status.term_left_s < 3
        assert status.lifetime_left_s is not None
        assert status.lifetime_left_s > 50
    await running.server.stop(StopMode.KEEP)
    running = await begin(rule(), **values)  # the term is that of the session's beginning
    async with running.facility().connect() as alice:
        await alice.renew("uid")
        await until_state(alice, "uid", State.EXPIRED)
        assert "policy lets it live 3 s" in (await alice.status("uid"))[0].reason


# --- reading it again --------------------------------------------------------------------------------------


async def test_a_policy_is_read_again_and_a_bad_one_changes_nothing(
    begin: Begin, echo: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    olga = '[[administrators]]\nidentities = ["olga"]\n'
    running = await begin(rule() + olga)
    path = tmp_path / "policy.toml"
    async with running.facility().connect() as alice, running.facility("olga").connect() as admin:
        await reserve_side(alice, "one", Role.PRODUCER, addresses=[echo])
        path.write_text(rule().replace("alice", "nobody") + olga)
        running.server.reload()
        with pytest.raises(PermissionDenied):
            await reserve_side(alice, "two", Role.PRODUCER, addresses=[echo])
        # what is here is judged by the policy of now, too
        with pytest.raises(PermissionDenied):
            await alice.update("one", Role.PRODUCER)
        path.write_text(rule() + "max_sessions = 'many'\n" + olga)
        with caplog.at_level(logging.ERROR):
            running.server.reload()
        assert "line 5: max_sessions has to be a whole number above 0" in caplog.text
        with pytest.raises(PermissionDenied):
            await reserve_side(alice, "two", Role.PRODUCER, addresses=[echo])
        _, notices = await admin.status_and_notices(everybody=True)
        assert "the one before goes on" in notices[1]
        assert "line 5" in notices[1]
        path.write_text(rule() + olga)
        running.server.reload()
        await reserve_side(alice, "two", Role.PRODUCER, addresses=[echo])
        assert len((await admin.status_and_notices(everybody=True))[1]) == 1


async def test_a_policy_that_cannot_be_used_is_no_start(begin: Begin, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 1: x is not known"):
        await begin("x = 1")
    del tmp_path


async def test_a_session_of_a_control_server_before_is_judged_by_the_policy_of_now(
    begin: Begin, echo: Endpoint, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"state_dir": tmp_path / "state", "backend": RelayBackend(outlives=True)}
    running = await begin(rule(), **values)
    async with running.facility().connect() as alice:
        await reserve_side(alice, "waits", Role.PRODUCER, addresses=[echo])
        grant = await reserve_side(alice, "streams", Role.PRODUCER, addresses=[echo])
        await alice.update("streams", Role.PRODUCER)
    await running.server.stop(StopMode.KEEP)
    running = await begin(rule().replace("alice", "nobody"), **values)
    async with running.facility().connect() as alice:
        with pytest.raises(PermissionDenied):
            await alice.update("waits", Role.PRODUCER)
        with pytest.raises(PermissionDenied):
            await alice.update("streams", Role.PRODUCER, [INTERIOR])
        # streams that were allowed are not cut by a new policy: an administrator can end them
        assert await ask(grant.listeners[0], b"hello") == b"hello"
        await until(lambda: running.server.recovered == 2)
