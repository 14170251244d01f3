"""Messages that are lost, doubled, late, early or corrupted, over the wire, at control server processes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc
import psutil
import pytest

from scistream.auth.certificates import make_session_certificate
from scistream.wire import scistream_pb2 as pb
from support.gateways import Application, ControlServerProcess, ask, can_be_bound, until
from support.module_gateways import (
    CALL_LIMIT_S,
    Caller,
    Pair,
    SharedGateways,
    Together,
    calling,
    encrypted_pair,
    family,
    new_uid,
    refused,
)

Applications = Callable[[str], Application]

METHODS = ("req", "hello", "update", "release", "renew", "status")

pytestmark = pytest.mark.timeout(60)


def listening(server: ControlServerProcess) -> set[int]:
    return {
        connection.laddr.port
        for process in family(server)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


# --- twice ---------------------------------------------------------------------------------------------


def test_every_message_that_comes_twice_is_answered_twice_the_same_and_has_the_effect_of_one(
    pair: Pair, application: Applications
) -> None:
    app, uid = application("app"), new_uid()
    peer_certificate, _ = make_session_certificate(uid)
    with calling(pair[0]) as alice:
        before = listening(pair[0])
        requests = [alice.req(uid, num_conn=2) for _ in range(2)]
        until(lambda: [one.state for one in alice.all_sessions() if one.uid == uid] == ["reserved"])
        hellos = [alice.hello(uid, [app.address]) for _ in range(2)]
        greetings = [hello.result() for hello in hellos]
        grants = [request.result() for request in requests]
        # late ones, when the first have been answered
        greetings.append(alice.hello(uid, [app.address]).result())
        grants.append(alice.req(uid, num_conn=2).result())
        assert grants == [grants[0]] * 3
        assert greetings == [greetings[0]] * 3
        assert len(grants[0].listeners) == 2
        assert b"BEGIN CERTIFICATE" in grants[0].certificate
        assert list(greetings[0].listeners) == list(grants[0].listeners)
        assert len(listening(pair[0]) - before) == 2

        updates = Together().run([lambda: alice.update(uid, [app.address], peer_certificate)] * 2)
        updates.append(alice.update(uid, [app.address], peer_certificate))
        assert updates == [updates[0]] * 3
        # and now the messages before, once more
        assert alice.req(uid, num_conn=2).result() == grants[0]
        assert alice.hello(uid, [app.address]).result() == greetings[0]
        (session,) = (one for one in alice.all_sessions() if one.uid == uid)
        assert (session.state, session.num_conn, session.restarts) == ("connected", 2, 0)
        assert list(session.listeners) == list(grants[0].listeners)
        assert len(listening(pair[0]) - before) == 2

        Together().run([lambda: alice.release(uid)] * 2)
        alice.release(uid)
        assert alice.status(uid).state == "released"
        assert listening(pair[0]) == before
        assert all(map(can_be_bound, grants[0].listeners))


def test_a_doubled_update_disturbs_no_stream(pair: Pair, application: Applications) -> None:
    app = application("app")
    with (
        calling(pair[0]) as ours,
        calling(pair[1]) as theirs,
        encrypted_pair(ours, theirs, app.address) as session,
    ):
        listener = session.connect(app.address)
        assert ask(listener, b"once") == b"app:once"
        assert session.connect(app.address) == listener
        assert ask(listener, b"twice") == b"app:twice"
        assert ours.status(session.uid).channels[0].connections_total == 2


@pytest.mark.parametrize(
    "other", [{"num_conn": 3}, {"role": "CONS"}, {"rate": 7}], ids=["num_conn", "role", "rate"]
)
@pytest.mark.parametrize("connected", [False, True], ids=["reserved", "connected"])
def test_a_request_that_asks_for_something_else_under_a_name_in_use_already_exists(
    pair: Pair, application: Applications, other: dict[str, object], connected: bool
) -> None:
    app, uid = application("app"), new_uid()
    with calling(pair[0]) as alice:
        waiting = alice.req(uid, num_conn=2)
        until(lambda: any(one.uid == uid for one in alice.all_sessions()))
        if connected:
            alice.hello(uid, [app.address]).result()
            alice.update(uid, [app.address])
        before = listening(pair[0])
        code, details = refused(alice.req(uid, **{"num_conn": 2, **other}).result)
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert uid in details
        assert "use another uid, or release it first" in details
        # nothing has come of it
        assert listening(pair[0]) == before
        session = alice.status(uid)
        assert (session.role, session.num_conn, session.rate) == ("PROD", 2, 0)
        if not connected:
            assert not waiting.done()
            alice.hello(uid, [app.address]).result()
            alice.update(uid, [app.address])
        assert len(waiting.result().listeners) == 2
        assert ask(waiting.result().listeners[1], b"x") == b"app:x"
        alice.release(uid)
        # it is free now
        assert len(alice.reserve(uid, app.address, num_conn=3).listeners) == 3
        alice.release(uid)


# --- early and late ------------------------------------------------------------------------------------


def test_a_hello_that_overtakes_its_request_waits_for_it_as_long_as_the_operator_wants(
    own: SharedGateways, application: Applications
) -> None:
    server, app = own.start("--early-hello-timeout-s=0.5", "--encryption=optional"), application("app")
    uid = new_uid()
    with calling(server) as alice:
        begin_s = time.monotonic()
        code, details = refused(alice.hello(uid, [app.address]).result)
        took_s = time.monotonic() - begin_s
        assert code is grpc.StatusCode.NOT_FOUND
        assert uid in details
        assert 0.5 <= took_s < 3, "and not the 4 s of the default"
        assert alice.all_sessions() == []

        # within that time it is served, by the same name too
        early = alice.hello(uid, [app.address])
        grant = alice.req(uid).result()
        assert list(early.result().listeners) == list(grant.listeners)
        assert list(grant.prod_listeners) == [app.address]
        alice.update(uid, [app.address])
        assert ask(grant.listeners[0], b"x") == b"app:x"
        # the timer of the hello that was early does not end what it has led to
        time_out_s = time.monotonic() + 1
        until(lambda: time.monotonic() > time_out_s)
        assert alice.status(uid).state == "connected"
        assert ask(grant.listeners[0], b"x") == b"app:x"


# --- corrupted -----------------------------------------------------------------------------------------


def raw(caller: Caller, method: str, body: bytes) -> tuple[grpc.StatusCode, str]:
    """Send these very bytes as the message of `method`; return code and details."""
    call = caller.channel.unary_unary(
        f"/scistream.Control/{method}",
        request_serializer=lambda data: data,
        response_deserializer=lambda data: data,
    )
    try:
        call(body, timeout=CALL_LIMIT_S, metadata=caller.metadata)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def is_a_message(method: str, body: bytes) -> bool:
    """Whether the bytes can be read as the message of `method`, if perhaps as one with no sense."""
    kind = {
        "req": pb.Request,
        "hello": pb.Hello,
        "update": pb.UpdateTargets,
        "release": pb.Release,
        "renew": pb.RenewRequest,
        "status": pb.StatusRequest,
    }[method]
    try:
        kind.FromString(body)
    except Exception:  # noqa: BLE001 - protobuf's implementations have each their own
        return False
    return True


@pytest.mark.parametrize("method", METHODS)
def test_corrupted_bytes_are_refused_with_a_clear_code_and_harm_nobody(
    pair: Pair, application: Applications, method: str
) -> None:
    app, uid = application("app"), new_uid()
    chance = random.Random(f"{method} 20261121")
    with calling(pair[0]) as alice:
        listener = alice.open_plain(uid, app.address)
        known = len(alice.all_sessions())
        before = listening(pair[0])
        unreadable = 0
        for _ in range(100):
            body = chance.randbytes(chance.randint(1, 200))
            code, details = raw(alice, method, body)
            if is_a_message(method, body):
                assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK}, (body, details)
                assert code is not grpc.StatusCode.OK or method == "status", body
            else:
                unreadable += 1
                assert code is grpc.StatusCode.INVALID_ARGUMENT, (body, details)
                assert "cannot be read" in details
        assert unreadable > 50
        assert pair[0].process.poll() is None
        assert len(alice.all_sessions()) == known
        assert listening(pair[0]) == before
        assert ask(listener, b"x") == b"app:x"
        alice.release(uid)
    assert "Traceback" not in pair[0].log.read_text()


@pytest.mark.parametrize("method", METHODS)
def test_a_message_cut_or_changed_on_its_way_is_refused_or_is_another_valid_one(
    pair: Pair, application: Applications, method: str
) -> None:
    """One byte of a real message is changed, or it is cut: a message that is still read is checked as any."""
    app, uid = application("app"), new_uid()
    chance = random.Random(f"{method} 20261122")
    peer_certificate, _ = make_session_certificate(uid)
    real = {
        "req": pb.Request(uid=uid, role="PROD", num_conn=1),
        "hello": pb.Hello(uid=uid, role="PROD", prod_listeners=[app.address]),
        "update": pb.UpdateTargets(
            uid=uid, role="PROD", remote_listeners=[app.address], peer_certificate=peer_certificate
        ),
        "release": pb.Release(uid=uid),
        "renew": pb.RenewRequest(uid=uid),
        "status": pb.StatusRequest(uid=uid),
    }[method].SerializeToString()
    # a changed uid is another session, which a stranger to both does not have
    allowed = {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    with calling(pair[0], "bob") as bob:
        for _ in range(60):
            body = bytearray(real)
            if chance.random() < 0.5:
                del body[chance.randrange(len(body)) :]
            else:
                body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            if method in {"req", "hello"} and is_a_message(method, bytes(body)):
                continue  # it would wait for its other half
            code, details = raw(bob, method, bytes(body))
            if is_a_message(method, bytes(body)):
                assert code in allowed, (bytes(body), code, details)
            else:
                assert code is grpc.StatusCode.INVALID_ARGUMENT, (bytes(body), code, details)
            assert "unexpected" not in details
    assert pair[0].process.poll() is None
    assert "Traceback" not in pair[0].log.read_text()
