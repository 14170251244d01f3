"""Control servers over real gRPC and TLS: sessions from request to release, and what goes wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Any

import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.client.aio import ControlClient, Facility, open_session, register, reserve_side
from scistream.config import PortRange
from scistream.control.server import check_exposure
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import Encryption, State
from scistream.core.table import Limits
from scistream.dataserver.base import TlsLeg
from scistream.errors import (
    AuthenticationError,
    ConfigurationError,
    DeadlineExceeded,
    InvalidArgument,
    PeerError,
    ResourceExhausted,
    SciStreamError,
    SessionExists,
    SessionNotFound,
    WrongState,
)
from support.control_servers import Start
from support.watching import ask, can_be_bound, state_of, until, until_state

APP = Endpoint("127.0.0.1", 9)
PEER_CERTIFICATE, _ = make_session_certificate("peer")


# --- the whole of it -------------------------------------------------------------------------------------


async def test_a_session_through_two_servers_carries_bytes_and_leaves_nothing(
    start: Start, echo: Endpoint
) -> None:
    producer, consumer = await start(), await start()
    async with await open_session(producer.facility(), consumer.facility(), targets=[echo]) as session:
        assert session.encrypted
        assert await ask(session.listeners[0], b"x" * 100_000) == b"x" * 100_000
        status = await session.status()
        assert (status.producer.state, status.consumer.state) == (State.CONNECTED, State.CONNECTED)
        assert status.consumer.bytes_forwarded >= 200_000
        assert status.producer.targets == (echo,)
        assert status.consumer.targets == status.producer.listeners
        listeners = (*session.listeners, *status.producer.listeners)
        assert not any(map(can_be_bound, listeners))
    assert all(map(can_be_bound, listeners))
    ours, theirs = producer.backend.servers[0], consumer.backend.servers[0]
    assert ours.tls is not None
    assert theirs.tls is not None
    assert (ours.tls.leg, theirs.tls.leg) == (TlsLeg.LISTENER, TlsLeg.TARGET)
    assert ours.tls.peer_certificate_pem == theirs.tls.certificate_pem
    assert theirs.tls.peer_certificate_pem == ours.tls.certificate_pem
    assert ours.tls.certificate_pem != theirs.tls.certificate_pem


async def test_an_ended_session_is_shown_with_what_it_has_carried(start: Start, echo: Endpoint) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        await client.update("uid", Role.PRODUCER, [echo])
        await ask(grant.listeners[0], b"x" * 1000)
        await client.release("uid")
        (status,) = await client.status("uid")
        assert (status.state, status.bytes_forwarded) == (State.RELEASED, 2000)
        assert status.channels[0].connections_open == 0


@pytest.mark.parametrize("dead_answer", [True, False])
async def test_a_data_server_that_dies_is_started_again_and_the_session_says_so(
    start: Start, echo: Endpoint, dead_answer: bool
) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    running.backend.dead_answer = dead_answer
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        await client.update("uid", Role.PRODUCER, [echo])
        await ask(grant.listeners[0], b"x" * 1000)
        assert (await client.status("uid"))[0].bytes_forwarded == 2000
        await ask(grant.listeners[0], b"x" * 500)
        running.backend.servers[0].die("out of memory")
        await until(lambda: len(running.backend.servers) == 2)
        await until_state(client, "uid", State.CONNECTED)
        (status,) = await client.status("uid")
        assert (status.restarts, status.notice) == (1, "the data server ended: out of memory")
        assert status.listeners == grant.listeners
        # what it had carried is known as far as the dead one can be asked
        before = 3000 if dead_answer else 2000
        assert status.bytes_forwarded == before
        assert await ask(grant.listeners[0], b"again") == b"again"
        await client.release("uid")
        (status,) = await client.status("uid")
        assert (status.state, status.bytes_forwarded) == (State.RELEASED, before + 10)


async def test_an_update_that_meets_a_dead_data_server_is_served_by_the_next_one(
    start: Start, echo: Endpoint
) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        await client.update("uid", Role.PRODUCER, [APP])
        running.backend.retarget_kills = True
        await client.update("uid", Role.PRODUCER, [echo])
        assert await ask(grant.listeners[0], b"hello") == b"hello"
        (status,) = await client.status("uid")
        assert (status.state, status.restarts) == (State.CONNECTED, 1)


async def test_an_update_that_the_data_server_cannot_take_over_is_refused_and_the_streams_go_on(
    start: Start, echo: Endpoint
) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        await client.update("uid", Role.PRODUCER, [echo])
        reader, writer = await asyncio.open_connection(grant.listeners[0].host, grant.listeners[0].port)
        running.backend.retarget_error = "no descriptors left"
        with pytest.raises(PeerError, match="no descriptors left; it forwards as before"):
            await client.update("uid", Role.PRODUCER, [APP])
        writer.write(b"stream")
        assert await asyncio.wait_for(reader.readexactly(6), 10) == b"stream"
        writer.close()
        (status,) = await client.status("uid")
        assert (status.state, status.targets, status.restarts) == (State.CONNECTED, (echo,), 0)
        assert await ask(grant.listeners[0], b"new") == b"new"
        running.backend.retarget_error = ""
        await client.update("uid", Role.PRODUCER, [Endpoint("localhost", echo.port)])


async def test_all_sessions_are_asked_for_their_status_at_once(start: Start, echo: Endpoint) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        for uid in ("one", "two", "three"):
            await reserve_side(client, uid, Role.PRODUCER, addresses=[echo])
            await client.update(uid, Role.PRODUCER, [echo])
        running.backend.may_answer.clear()
        asking = asyncio.create_task(client.status())
        await until(lambda: all(server.looks for server in running.backend.servers))
        running.backend.may_answer.set()
        assert len(await asking) == 3


async def test_a_data_server_that_dies_and_cannot_be_started_again_is_shown_with_what_was_last_known(
    start: Start, echo: Endpoint
) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        await client.update("uid", Role.PRODUCER, [echo])
        await ask(grant.listeners[0], b"x" * 1000)
        assert (await client.status("uid"))[0].bytes_forwarded == 2000
        running.backend.start_error = "no memory left"
        running.backend.servers[0].die("out of memory")
        await until_state(client, "uid", State.FAILED)
        (status,) = await client.status("uid")
        assert (status.bytes_forwarded, status.reason) == (2000, "no memory left")


async def test_another_gateway_and_the_applications_connect_to_different_addresses(
    start: Start, echo: Endpoint
) -> None:
    running = await start(
        bind_host="127.0.0.2",
        advertise_host="127.0.0.2",
        bind_lan_host="127.0.0.3",
        encryption=Encryption.OPTIONAL,
    )
    async with running.facility().connect() as client:
        for role, host, other in (
            (Role.PRODUCER, "127.0.0.2", "127.0.0.3"),
            (Role.CONSUMER, "127.0.0.3", "127.0.0.2"),
        ):
            grant = await reserve_side(client, role.value, role, addresses=[echo])
            await client.update(role.value, role, [echo])
            (listener,) = grant.listeners
            assert listener.host == host
            assert await ask(listener, b"there") == b"there"
            assert can_be_bound(Endpoint(other, listener.port))


async def test_the_applications_side_is_on_loopback_unless_the_operator_says_otherwise(start: Start) -> None:
    running = await start(bind_host="127.0.0.2", advertise_host="gateway.example")
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.CONSUMER, addresses=[APP])
        (listener,) = grant.listeners
        assert listener.host == "127.0.0.1"
        assert not can_be_bound(listener)
        assert can_be_bound(Endpoint("127.0.0.2", listener.port))


async def test_simultaneous_sessions_are_not_cross_wired(start: Start) -> None:
    producer, consumer = await start(), await start()
    applications = [Endpoint("127.0.0.1", 20_000 + number) for number in range(20)]
    sessions = await asyncio.gather(
        *(
            open_session(producer.facility(), consumer.facility(), targets=[application])
            for application in applications
        )
    )
    seen = [await session.status() for session in sessions]
    assert [one.producer.targets for one in seen] == [(application,) for application in applications]
    assert [one.consumer.targets for one in seen] == [one.producer.listeners for one in seen]
    assert len({one.producer.listeners for one in seen}) == len(applications)
    await asyncio.gather(*(session.release() for session in sessions))


async def test_hundreds_of_requests_wait_for_hello_at_once_and_all_are_answered(start: Start) -> None:
    running = await start()
    async with running.facility().connect() as user, running.facility().connect() as application:
        waiting = [asyncio.create_task(user.request(f"uid-{number}", Role.PRODUCER)) for number in range(300)]
        async with asyncio.timeout(20):
            while len(await user.status()) < len(waiting):
                await asyncio.sleep(0.01)
        for number in range(300):
            await application.hello(f"uid-{number}", Role.PRODUCER, [Endpoint("h", 1000 + number)])
        grants = await asyncio.gather(*waiting)
    assert [grant.destinations[0].port for grant in grants] == list(range(1000, 1300))


async def test_one_side_at_a_time_with_certificates_carried_by_hand(start: Start, echo: Endpoint) -> None:
    producer, consumer = await start(), await start()
    async with producer.facility().connect() as ours, consumer.facility().connect() as theirs:
        first = await reserve_side(ours, "by-hand", Role.PRODUCER, addresses=[echo])
        second = await reserve_side(theirs, "by-hand", Role.CONSUMER, addresses=first.listeners)
        await theirs.update(
            "by-hand", Role.CONSUMER, first.listeners, peer_certificate_pem=first.certificate_pem
        )
        await ours.update("by-hand", Role.PRODUCER, peer_certificate_pem=second.certificate_pem)
        assert await ask(second.listeners[0], b"hello") == b"hello"


async def test_a_second_update_leads_new_connections_elsewhere(start: Start, echo: Endpoint) -> None:
    running = await start(encryption=Encryption.OPTIONAL)
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[APP])
        await client.update("uid", Role.PRODUCER, [APP])
        await client.update("uid", Role.PRODUCER, [echo])
        assert await ask(grant.listeners[0], b"there") == b"there"
        assert (await client.status("uid"))[0].targets == (echo,)
    assert len(running.backend.servers) == 1


# --- who asks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "INVALID_TOKEN", "wrong"])
async def test_a_stranger_is_refused_before_anything_is_looked_at(start: Start, token: str | None) -> None:
    running = await start()
    facility = Facility(
        endpoint=running.server.address, server_certificate_pem=running.certificate_pem, token=token
    )
    async with facility.connect() as stranger:
        for call in (
            stranger.release("never-seen"),
            stranger.status(),
            stranger.request("../../x", Role.PRODUCER, num_conn=-1),
            stranger.hello("uid", Role.PRODUCER, [APP]),
            stranger.update("uid", Role.PRODUCER),
        ):
            with pytest.raises(AuthenticationError):
                await call


async def test_another_user_cannot_see_touch_or_guess_a_session(start: Start, echo: Endpoint) -> None:
    running = await start(limits=Limits(early_hello_timeout_s=0.05))
    async with running.facility("alice").connect() as alice, running.facility("bob").connect() as bob:
        await reserve_side(alice, "uid", Role.PRODUCER, addresses=[echo])
        await alice.update("uid", Role.PRODUCER, peer_certificate_pem=PEER_CERTIFICATE)
        assert await bob.status() == ()
        for call in (
            bob.status("uid"),
            bob.update("uid", Role.PRODUCER, [APP], peer_certificate_pem=PEER_CERTIFICATE),
            bob.hello("uid", Role.PRODUCER, [APP]),
        ):
            with pytest.raises(SessionNotFound) as refused:
                await call
            assert str(refused.value) == str(refused.value).replace("alice", "")
        await bob.release("uid")
        assert await state_of(alice, "uid") is State.CONNECTED
        # bob can have a session of that name himself
        await reserve_side(bob, "uid", Role.PRODUCER, addresses=[APP])
        assert [(one.uid, one.principal) for one in await bob.status()] == [("uid", "bob")]
        assert (await alice.status())[0].targets == (echo,)


async def test_a_server_with_another_certificate_is_not_talked_to(start: Start) -> None:
    running = await start()
    other, _ = make_session_certificate("other")
    async with ControlClient(running.server.address, server_certificate_pem=other) as client:
        with pytest.raises(AuthenticationError, match="another certificate"):
            await client.status()


async def test_without_authentication_only_loopback_is_served(start: Start) -> None:
    running = await start(authenticators={"none": {}})
    async with running.facility("nobody").connect() as client:
        assert await client.status() == ()
    config = running.server._config
    check_exposure(config, insecure=False)
    exposed = dataclasses.replace(config, listen=Endpoint("0.0.0.0", 0))
    with pytest.raises(ConfigurationError, match="--insecure"):
        check_exposure(exposed, insecure=False)
    check_exposure(exposed, insecure=True)


# --- what cannot be served -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"num_conn": 0}, InvalidArgument),
        ({"num_conn": -1}, InvalidArgument),
        ({"num_conn": 3}, InvalidArgument),
        ({"rate_mbps": -1}, InvalidArgument),
        ({"uid": "../../x"}, InvalidArgument),
        ({"num_conn": 2**40}, InvalidArgument),
    ],
)
async def test_requests_that_can_never_be_served_are_invalid(
    start: Start, values: dict[str, Any], error: type[SciStreamError]
) -> None:
    running = await start(ports=free_range(2))
    call: dict[str, Any] = {"uid": "uid", "role": Role.PRODUCER, "num_conn": 1} | values
    async with running.facility().connect() as client:
        with pytest.raises(error):
            await client.request(**call, timeout_s=5)
        assert await client.status() == ()


async def test_an_empty_pool_is_exhausted_and_serves_again_after_a_release(start: Start) -> None:
    running = await start(ports=free_range(1))
    async with running.facility().connect() as client:
        first = await reserve_side(client, "first", Role.PRODUCER, addresses=[APP])
        with pytest.raises(ResourceExhausted, match="0 of 1 free"):
            await reserve_side(client, "second", Role.PRODUCER, addresses=[APP])
        await client.release("first")
        second = await reserve_side(client, "second", Role.PRODUCER, addresses=[APP])
    assert first.listeners == second.listeners


async def test_a_port_that_another_program_holds_is_skipped(start: Start) -> None:
    ports = free_range(2)
    running = await start(ports=ports)
    with socket.create_server(("127.0.0.1", ports.first)):
        async with running.facility().connect() as client:
            grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[APP])
            assert [listener.port for listener in grant.listeners] == [ports.last]
            with pytest.raises(ResourceExhausted, match="held by other programs"):
                await reserve_side(client, "next", Role.PRODUCER, addresses=[APP], num_conn=1)


async def test_the_same_uid_with_other_parameters_exists_already(start: Start) -> None:
    running = await start()
    async with running.facility().connect() as client:
        await reserve_side(client, "uid", Role.PRODUCER, addresses=[APP])
        with pytest.raises(SessionExists):
            await client.request("uid", Role.CONSUMER)


async def test_without_a_peer_certificate_the_default_policy_refuses_and_optional_serves(
    start: Start, echo: Endpoint
) -> None:
    strict, lenient = await start(), await start(encryption=Encryption.OPTIONAL)
    async with strict.facility().connect() as client:
        await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        with pytest.raises(WrongState, match="encrypted sessions only"):
            await client.update("uid", Role.PRODUCER)
        with pytest.raises(InvalidArgument, match="not PEM"):
            await client.update("uid", Role.PRODUCER, peer_certificate_pem=b"no certificate")
        assert await state_of(client, "uid") is State.ANNOUNCED
    assert strict.backend.servers == []
    async with lenient.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[echo])
        await client.update("uid", Role.PRODUCER)
        assert not (await client.status("uid"))[0].encrypted
        assert await ask(grant.listeners[0], b"plain") == b"plain"


async def test_a_side_that_does_not_encrypt_fails_the_session_unless_plain_is_accepted(
    start: Start, echo: Endpoint
) -> None:
    producer, consumer = await start(encryption=Encryption.OPTIONAL), await start(encryption=Encryption.NONE)
    with pytest.raises(PeerError, match="does not encrypt"):
        await open_session(producer.facility(), consumer.facility(), targets=[echo])
    async with await open_session(
        producer.facility(), consumer.facility(), targets=[echo], encrypted=False
    ) as session:
        assert not session.encrypted
        assert await ask(session.listeners[0], b"plain") == b"plain"


async def test_an_unknown_session_is_not_found(start: Start) -> None:
    running = await start(limits=Limits(early_hello_timeout_s=0.05))
    async with running.facility().connect() as client:
        for call in (
            client.status("unknown"),
            client.update("unknown", Role.PRODUCER, [APP]),
            client.update("unknown", Role.PRODUCER, [Endpoint("no-such-host.invalid", 9)]),
            client.hello("unknown", Role.PRODUCER, [APP]),
        ):
            with pytest.raises(SessionNotFound):
                await call
        await client.release("unknown")


# --- who does not come, or goes --------------------------------------------------------------------------


async def test_without_hello_the_request_ends_in_time_and_everything_is_free(start: Start) -> None:
    running = await start(ports=free_range(1), limits=Limits(hello_timeout_s=0.1))
    async with running.facility().connect() as client:
        with pytest.raises(DeadlineExceeded, match=r"no hello came within 0\.1 s"):
            await client.request("uid", Role.PRODUCER)
        await until(lambda: can_be_bound(Endpoint("127.0.0.1", running.server._config.ports.first)))
        assert await state_of(client, "uid") is State.EXPIRED


async def test_without_update_the_lease_ends_and_everything_is_free(start: Start) -> None:
    running = await start(limits=Limits(update_timeout_s=0.1))
    async with running.facility().connect() as client:
        grant = await reserve_side(client, "uid", Role.PRODUCER, addresses=[APP])
        await until_state(client, "uid", State.EXPIRED)
        await until(lambda: can_be_bound(grant.listeners[0]))


async def test_a_request_whose_client_goes_away_frees_its_session(start: Start) -> None:
    running = await start()
    async with running.facility().connect() as watcher:
        async with running.facility().connect() as client:
            waiting = asyncio.create_task(client.request("uid", Role.PRODUCER))
            await until_state(watcher, "uid", State.RESERVED)
            address = (await watcher.status("uid"))[0].listeners[0]
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await until(lambda: can_be_bound(address))
        assert (await watcher.status("uid"))[0].reason.startswith("the client went away")


async def test_releasing_ends_the_request_that_waits(start: Start) -> None:
    running = await start()
    async with running.facility().connect() as client:
        waiting = asyncio.create_task(client.request("uid", Role.PRODUCER))
        await until_state(client, "uid", State.RESERVED)
        await client.release("uid")
        with pytest.raises(WrongState, match="released on request"):
            await waiting


async def test_an_application_that_comes_before_its_user_waits(start: Start) -> None:
    running = await start(limits=Limits(early_hello_timeout_s=0.05))
    async with running.facility().connect() as client:
        application = asyncio.create_task(
            register(running.facility(), "uid", Role.PRODUCER, [APP], timeout_s=10)
        )
        grant = await client.request("uid", Role.PRODUCER)
        assert await application == grant.listeners
        assert grant.destinations == (APP,)


async def test_an_application_whose_user_never_comes_is_told_so(start: Start) -> None:
    running = await start(limits=Limits(early_hello_timeout_s=0.02))
    with pytest.raises(DeadlineExceeded, match="not requested"):
        await register(running.facility(), "uid", Role.PRODUCER, [APP], timeout_s=0.3)


# --- what breaks -----------------------------------------------------------------------------------------


async def test_a_data_server_that_does_not_start_fails_the_session_and_both_sides_are_free(
    start: Start, echo: Endpoint
) -> None:
    producer, consumer = await start(), await start()
    consumer.backend.start_error = "no such program"
    with pytest.raises(PeerError, match="no such program"):
        await open_session(producer.facility(), consumer.facility(), targets=[echo], uid="uid")
    for running in (producer, consumer):
        async with running.facility().connect() as client:
            status = (await client.status("uid"))[0]
            assert status.state in {State.RELEASED, State.FAILED}
            assert all(map(can_be_bound, status.listeners))


async def test_a_data_server_that_dies_for_good_fails_its_session_alone(start: Start, echo: Endpoint) -> None:
    producer, consumer = await start(), await start()
    first = await open_session(producer.facility(), consumer.facility(), targets=[echo])
    second = await open_session(producer.facility(), consumer.facility(), targets=[echo])
    producer.backend.start_error = "no such program any more"
    producer.backend.servers[0].die("killed by signal 9")
    async with producer.facility().connect() as client:
        await until_state(client, first.uid, State.FAILED)
    status = await first.status()
    assert "no such program any more" in status.producer.reason
    assert "killed by signal 9" in status.producer.notice
    await until(lambda: can_be_bound(status.producer.listeners[0]))
    assert await ask(second.listeners[0], b"alive") == b"alive"
    await first.release()
    await second.release()


async def test_releasing_while_the_data_server_starts_does_not_wait_for_it(start: Start) -> None:
    running = await start()
    running.backend.may_start.clear()
    async with running.facility().connect() as client:
        await reserve_side(client, "uid", Role.PRODUCER, addresses=[APP])
        update = asyncio.create_task(
            client.update("uid", Role.PRODUCER, peer_certificate_pem=PEER_CERTIFICATE)
        )
        await until_state(client, "uid", State.CONNECTING)
        await client.release("uid", timeout_s=5)
        with pytest.raises(WrongState, match="released on request"):
            await update


async def test_one_side_that_refuses_leaves_nothing_at_the_other(start: Start) -> None:
    producer = await start()
    consumer = await start(ports=free_range(1))
    with pytest.raises(InvalidArgument, match="1 ports in all"):
        await open_session(producer.facility(), consumer.facility(), targets=[APP], num_conn=2, uid="uid")
    async with producer.facility().connect() as client:
        assert all(one.state.ended for one in await client.status())


async def test_a_server_that_cannot_be_reached_is_a_peer_error_and_nothing_is_left(start: Start) -> None:
    producer = await start()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = Facility(endpoint=Endpoint("127.0.0.1", closed.getsockname()[1]))
        with pytest.raises(PeerError, match="cannot be reached"):
            await open_session(producer.facility(), nobody, targets=[APP], timeout_s=10)
    async with producer.facility().connect() as client:
        assert all(one.state.ended for one in await client.status())


# --- beginning and end -----------------------------------------------------------------------------------


async def test_a_second_server_on_the_same_port_is_refused(start: Start) -> None:
    running = await start()
    with pytest.raises(ResourceExhausted, match="another program"):
        await start(listen=running.server.address)


async def test_the_end_releases_sessions_answers_who_waits_and_closes_the_backend(
    start: Start, echo: Endpoint
) -> None:
    running = await start()
    async with running.facility().connect() as client:
        await reserve_side(client, "open", Role.PRODUCER, addresses=[echo])
        await client.update("open", Role.PRODUCER, peer_certificate_pem=PEER_CERTIFICATE)
        listener = (await client.status("open"))[0].listeners[0]
        waiting = asyncio.create_task(client.request("waiting", Role.PRODUCER))
        await until_state(client, "waiting", State.RESERVED)
        await running.server.stop()
        with pytest.raises(PeerError, match="this control server is shutting down"):
            await waiting
    assert can_be_bound(listener)
    assert can_be_bound(running.server.address)
    assert not running.backend.is_open
    await running.server.stop()


def free_range(count: int) -> PortRange:
    """Return `count` neighbouring ports that are free now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            first = probe.getsockname()[1]
        if first + count < 65536 and all(
            can_be_bound(Endpoint("127.0.0.1", port)) for port in range(first, first + count)
        ):
            return PortRange(first=first, last=first + count - 1)
