"""The reference implementation's released clients against our control server, byte by byte.

Its client is stood in for by `support.reference_client`, which makes the bytes itself and keeps its pauses.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from scistream.wire import scistream_pb2 as pb
from support import wire_bytes
from support.gateways import (
    Application,
    ControlServerProcess,
    ask,
    can_be_bound,
    run_program,
    until,
)
from support.module_gateways import Caller, calling, new_uid, serving
from support.reference_client import (
    ANSWER_LIMIT_S,
    DEFAULT_PORTS,
    Answer,
    Flow,
    ReferenceClient,
    granted,
    refusal,
)

Applications = Callable[[str], Application]

#: What the reference client takes with ``--mock True``.
UID = "4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ControlServerProcess]]:
    """A producer's and a consumer's control server as a facility would run them for reference clients."""
    with serving(tmp_path_factory.mktemp("gateways"), authenticated=False) as gateways:
        yield [gateways.start("--encryption=optional") for _ in range(2)]


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[ControlServerProcess]:
    """A control server with the default policy."""
    with serving(tmp_path, authenticated=False) as gateways:
        yield gateways.start("--hello-timeout-s=20", "--update-timeout-s=1")


def client_of(server: ControlServerProcess) -> ReferenceClient:
    return ReferenceClient(server.address, server.certificate.read_bytes())


def port_of(application: Application) -> int:
    return int(application.address.rpartition(":")[2])


def carries(listener: str, name: str) -> bool:
    """Whether bytes go through `listener` to the application `name` and back, unchanged."""
    message = os.urandom(300_000)
    answer = hashlib.sha256(ask(listener, message)).digest()
    return answer == hashlib.sha256(name.encode() + b":" + message).digest()


@pytest.fixture
def fixed_ports() -> Iterator[tuple[str, list[socket.socket]]]:
    """The five ports that ``appctrl mock`` registers, at a loopback address of this test alone."""
    host = f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}.7"
    listeners = [socket.create_server((host, port)) for port in DEFAULT_PORTS]
    for one in listeners:
        one.settimeout(10)
    yield host, listeners
    for one in listeners:
        one.close()


# --- the bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "golden", "ours"),
    [
        (
            wire_bytes.request(UID, "PROD", 5, 10000),
            "0a24" + UID.encode().hex() + "1204" + "50524f44" + "1805" + "20904e",
            pb.Request(uid=UID, role="PROD", num_conn=5, rate=10000),
        ),
        (
            wire_bytes.request(UID, "CONS", -1, 0),
            "0a24" + UID.encode().hex() + "1204" + "434f4e53" + "18ffffffffffffffffff01",
            pb.Request(uid=UID, role="CONS", num_conn=-1),
        ),
        (
            wire_bytes.hello(UID, "PROD", ["localhost:5074", "localhost:47000"]),
            "0a24"
            + UID.encode().hex()
            + "120e6c6f63616c686f73743a35303734"
            + "120f6c6f63616c686f73743a3437303030"
            + "1a0450524f44",
            pb.Hello(uid=UID, role="PROD", prod_listeners=["localhost:5074", "localhost:47000"]),
        ),
        (
            wire_bytes.hello(UID, "CONS"),
            "0a24" + UID.encode().hex() + "1a04434f4e53",
            pb.Hello(uid=UID, role="CONS"),
        ),
        (
            wire_bytes.update(UID, "CONS", ["127.0.0.1:5100"]),
            "0a24" + UID.encode().hex() + "120e3132372e302e302e313a35313030" + "1a04434f4e53",
            pb.UpdateTargets(uid=UID, role="CONS", remote_listeners=["127.0.0.1:5100"]),
        ),
        (wire_bytes.release(UID), "0a24" + UID.encode().hex(), pb.Release(uid=UID)),
    ],
    ids=["req", "req-negative", "hello", "hello-without-address", "update", "release"],
)
def test_each_message_has_the_reference_clients_bytes_and_our_messages_read_them(
    made: bytes, golden: str, ours: object
) -> None:
    assert made.hex() == golden
    assert type(ours).FromString(made) == ours  # type: ignore[attr-defined]
    assert ours.SerializeToString() == made  # type: ignore[attr-defined]


def test_our_answers_are_bytes_that_the_reference_client_understands(
    servers: list[ControlServerProcess],
) -> None:
    uid, (host, port) = new_uid(), ("127.0.0.1", 9)
    flow = client_of(servers[0]).inbound_request(uid, remote_ip=host, receiver_ports=[port], num_conn=2)
    answer, hello = granted(flow.req), granted(flow.hello)
    known = [number for number, _ in wire_bytes.fields(answer.raw) if number < 20]
    assert known == [1, 1, 2]  # listeners, and what hello named; what is ours has numbers from 20 on
    assert answer.prod_listeners == [f"{host}:{port}"]
    assert hello.message
    assert hello.hello_listeners == answer.listeners
    for listener in answer.listeners:
        address, _, number = listener.partition(":")
        assert (socket.inet_aton(address), int(number) in range(1, 65536)) == (b"\x7f\0\0\1", True)
    released = granted(client_of(servers[0]).release(uid))
    assert released.raw == b""


# --- the flows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("two_channels", [False, True])
def test_inbound_and_outbound_request_carry_bytes_both_ways_and_release_leaves_nothing(
    servers: list[ControlServerProcess],
    application: Applications,
    *,
    two_channels: bool,
) -> None:
    producer, consumer, app = *servers, application("detector")
    uid = new_uid()
    inbound = client_of(producer).inbound_request(
        uid, remote_ip="127.0.0.1", receiver_ports=[port_of(app)], num_conn=1, two_channels=two_channels
    )
    assert isinstance(inbound.update, Answer), inbound
    outbound = client_of(consumer).outbound_request(
        uid, ",".join(inbound.listeners), num_conn=1, two_channels=two_channels
    )
    assert isinstance(outbound.update, Answer), outbound
    assert max(inbound.waited_s + outbound.waited_s) < 1
    assert carries(outbound.listeners[0], "detector")

    listeners = inbound.listeners + outbound.listeners
    for server in servers:
        with calling(server, None) as caller:
            session = caller.status(uid)
            assert (session.state, session.encrypted) == ("connected", False)
        granted(client_of(server).release(uid))
        with calling(server, None) as caller:
            assert caller.status(uid).state == "released"
    assert all(map(can_be_bound, listeners))
    granted(client_of(producer).release(uid))  # again, as users do


def test_prod_req_and_cons_req_wait_for_appctrl_mock(
    servers: list[ControlServerProcess], fixed_ports: tuple[str, list[socket.socket]]
) -> None:
    producer, consumer = servers
    host, applications = fixed_ports
    uid = new_uid()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client_of(producer).prod_req, uid)
        tried = client_of(producer).appctrl_mock(uid, "PROD", host)
        assert [type(one) for one in tried] == [Answer]
        inbound: Flow = waiting.result(10)
        assert granted(inbound.req).prod_listeners == [f"{host}:{port}" for port in DEFAULT_PORTS]
        assert isinstance(inbound.update, Answer), inbound
        waiting = threads.submit(client_of(consumer).cons_req, uid, ",".join(inbound.listeners))
        said = granted(client_of(consumer).appctrl_mock(uid, "CONS")[-1])
        outbound: Flow = waiting.result(10)
    assert isinstance(outbound.update, Answer), outbound
    assert said.hello_listeners == outbound.listeners
    assert len(outbound.listeners) == len(DEFAULT_PORTS)
    for listener, application in zip(outbound.listeners, applications, strict=True):
        near = socket.create_connection((listener.partition(":")[0], int(listener.partition(":")[2])), 10)
        with near:
            near.sendall(b"question")
            far, _ = application.accept()
            with far:
                far.settimeout(10)
                assert far.recv(100) == b"question"
                far.sendall(b"answer")
            assert near.recv(100) == b"answer"
    for server in servers:
        granted(client_of(server).release(uid))


def test_an_application_controller_that_comes_before_the_request_needs_no_second_try(
    servers: list[ControlServerProcess], fixed_ports: tuple[str, list[socket.socket]]
) -> None:
    producer, (host, _), uid = servers[0], fixed_ports, new_uid()
    with ThreadPoolExecutor(1) as threads:
        early = threads.submit(client_of(producer).appctrl_mock, uid, "PROD", host)
        flow = client_of(producer).prod_req(uid)
        assert [type(one) for one in early.result(10)] == [Answer]
    assert isinstance(flow.update, Answer), flow
    granted(client_of(producer).release(uid))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_targets_fewer_or_more_than_channels_are_taken_in_turn(
    servers: list[ControlServerProcess], application: Applications, channels: int
) -> None:
    apps, uid = [application(f"app-{number}") for number in range(3)], new_uid()
    flow = client_of(servers[0]).inbound_request(
        uid, receiver_ports=[port_of(app) for app in apps], num_conn=channels
    )
    assert granted(flow.req).prod_listeners == [f"localhost:{port_of(app)}" for app in apps]
    assert isinstance(flow.update, Answer), flow
    answers = [ask(listener, b"x") for listener in flow.listeners]
    assert answers == [f"app-{number % 3}:x".encode() for number in range(channels)]
    granted(client_of(servers[0]).release(uid))


def test_five_channels_lead_to_the_only_target_and_localhost_is_understood(
    servers: list[ControlServerProcess], application: Applications
) -> None:
    app, uid = application("lonely"), new_uid()
    flow = client_of(servers[0]).inbound_request(uid, receiver_ports=[port_of(app)])
    assert len(set(flow.listeners)) == 5
    assert all(carries(listener, "lonely") for listener in flow.listeners)
    granted(client_of(servers[0]).release(uid))


def test_a_hello_after_a_rejected_request_is_refused_in_time_and_opens_nothing(
    servers: list[ControlServerProcess],
) -> None:
    uid = new_uid()
    flow = client_of(servers[0]).inbound_request(uid, num_conn=0)
    assert refusal(flow.req).code is grpc.StatusCode.INVALID_ARGUMENT
    hello = refusal(flow.hello)
    # an answer of the server, not the client's own deadline
    assert (hello.code, uid in hello.details) == (grpc.StatusCode.NOT_FOUND, True)
    assert flow.waited_s[0] < ANSWER_LIMIT_S
    assert flow.update is None
    again = client_of(servers[0]).inbound_request(uid, receiver_ports=[9], num_conn=1)
    assert isinstance(again.update, Answer), again
    granted(client_of(servers[0]).release(uid))


def test_two_reference_clients_at_once_are_led_to_their_own_applications(
    servers: list[ControlServerProcess], application: Applications
) -> None:
    apps = [application(f"app-{number}") for number in range(12)]
    uids = [new_uid() for _ in apps]

    def inbound(number: int) -> Flow:
        return client_of(servers[0]).inbound_request(
            uids[number], receiver_ports=[port_of(apps[number])], num_conn=1
        )

    with ThreadPoolExecutor(len(apps)) as threads:
        flows = list(threads.map(inbound, range(len(apps))))
    assert all(isinstance(flow.update, Answer) for flow in flows), flows
    answers = [ask(flow.listeners[0], b"who?") for flow in flows]
    assert answers == [f"app-{number}:who?".encode() for number in range(len(apps))]
    for uid in uids:
        granted(client_of(servers[0]).release(uid))


# --- the policy ----------------------------------------------------------------------------------------


def test_by_default_a_client_without_a_session_key_is_refused_with_the_remedy_and_nothing_stays_open(
    strict: ControlServerProcess, application: Applications
) -> None:
    app, uid = application("app"), new_uid()
    flow = client_of(strict).inbound_request(uid, receiver_ports=[port_of(app)], num_conn=1)
    refused = refusal(flow.update)
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    for word in (uid, "encrypt", "--encryption optional"):
        assert word in refused.details
    with calling(strict, None) as caller:
        # the update's own time limit ends what the client leaves behind
        until(lambda: caller.status(uid).state not in {"announced", "releasing"})
        assert caller.status(uid).state in {"expired", "failed", "released"}
        assert can_be_bound(flow.listeners[0])
    assert app.received == []


def test_where_plain_is_allowed_status_tells_plain_sessions_from_encrypted_ones(
    servers: list[ControlServerProcess], application: Applications
) -> None:
    producer, consumer, app = *servers, application("app")
    theirs = new_uid()
    plain = client_of(producer).inbound_request(theirs, receiver_ports=[port_of(app)], num_conn=1)
    assert carries(plain.listeners[0], "app")
    opened = run_program(
        "s2uc",
        "request",
        producer.address,
        consumer.address,
        f"--target={app.address}",
        f"--producer-certificate={producer.certificate}",
        f"--consumer-certificate={consumer.certificate}",
        "--json",
    )
    assert opened.code == 0, opened.err
    ours = opened.json["uid"]
    assert carries(opened.json["listeners"][0], "app")
    with calling(producer, None) as caller:
        assert {uid: caller.status(uid).encrypted for uid in (theirs, ours)} == {theirs: False, ours: True}
        release_all(caller, theirs, ours)
    with calling(consumer, None) as caller:
        release_all(caller, ours)


def test_a_token_that_says_there_is_none_is_no_token(tmp_path: Path) -> None:
    with serving(tmp_path) as gateways:
        server = gateways.start("--encryption=optional")
        flow = client_of(server).inbound_request(new_uid(), receiver_ports=[9], num_conn=1)
        for refused in map(refusal, (flow.req, flow.hello)):
            assert refused.code is grpc.StatusCode.UNAUTHENTICATED
            assert "no token" in refused.details  # rather than a wrong one
        known = ReferenceClient(
            server.address, server.certificate.read_bytes(), server.tokens["alice"].read_text().strip()
        )
        uid = new_uid()
        assert isinstance(known.inbound_request(uid, receiver_ports=[9], num_conn=1).update, Answer)
        granted(known.release(uid))


def release_all(caller: Caller, *uids: str) -> None:
    for uid in uids:
        caller.release(uid)


def test_an_unknown_call_is_unimplemented(servers: list[ControlServerProcess]) -> None:
    with client_of(servers[0]).open() as wire:
        assert refusal(wire.call("no_such_call", b"")).code is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message_are_refused_and_the_server_goes_on(
    servers: list[ControlServerProcess],
) -> None:
    with client_of(servers[0]).open() as wire:
        for method in ("req", "hello", "update", "release"):
            broken = refusal(wire.call(method, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
            assert broken.code is not grpc.StatusCode.OK
        assert isinstance(wire.call("release", wire_bytes.release(new_uid())), Answer)
    assert isinstance(servers[0].process, subprocess.Popen)
    assert servers[0].process.poll() is None
