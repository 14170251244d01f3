"""Messages and values: there and back, byte for byte as the reference says, and any bytes at all."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.commands import Reply
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey
from scistream.core.session import State
from scistream.core.status import ChannelStatistics, SessionStatus
from scistream.errors import InvalidArgument, PeerError
from scistream.wire import convert
from scistream.wire import scistream_pb2 as pb

uids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
endpoints = st.builds(
    Endpoint,
    st.one_of(
        st.ip_addresses().map(str),
        st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9]{0,20}){0,3}", fullmatch=True),
    ),
    st.integers(1, 65535),
)
addresses = st.lists(endpoints, max_size=5).map(tuple)
counters = st.integers(0, 2**64 - 1)


@given(uids, st.sampled_from(Role), st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_request_there_and_back(uid: str, role: Role, num_conn: int, rate: int) -> None:
    message = pb.Request.FromString(convert.write_request(uid, role, num_conn, rate).SerializeToString())
    event = convert.read_request(message, "alice", 7)
    assert (event.key, event.call) == (SessionKey("alice", uid), 7)
    assert (event.role, event.num_conn, event.rate_mbps) == (role, num_conn, rate)


@given(uids, st.sampled_from(Role), addresses)
def test_hello_there_and_back(uid: str, role: Role, named: tuple[Endpoint, ...]) -> None:
    message = pb.Hello.FromString(convert.write_hello(uid, role, named).SerializeToString())
    event = convert.read_hello(message, "alice", 7)
    assert (event.key.uid, event.role, event.addresses) == (uid, role, named)


@given(uids, st.sampled_from(Role), addresses, st.binary(max_size=100))
def test_update_there_and_back(
    uid: str, role: Role, targets: tuple[Endpoint, ...], certificate: bytes
) -> None:
    message = pb.UpdateTargets.FromString(
        convert.write_update(uid, role, targets, certificate).SerializeToString()
    )
    event = convert.read_update(message, "alice", 7)
    assert (event.role, event.targets, event.peer_certificate_pem) == (role, targets, certificate)


@given(addresses, addresses, st.binary(max_size=100))
def test_response_there_and_back(
    listeners: tuple[Endpoint, ...], destinations: tuple[Endpoint, ...], certificate: bytes
) -> None:
    reply = Reply(
        key=SessionKey("alice", "uid"),
        call=1,
        listeners=listeners,
        destinations=destinations,
        certificate_pem=certificate,
    )
    grant = convert.read_response(pb.Response.FromString(convert.write_response(reply).SerializeToString()))
    assert (grant.listeners, grant.destinations, grant.certificate_pem) == (
        listeners,
        destinations,
        certificate,
    )
    assert convert.read_app_response(convert.write_app_response(reply)) == listeners


@given(
    st.lists(
        st.builds(
            SessionStatus,
            uid=uids,
            role=st.sampled_from(Role),
            state=st.sampled_from(State),
            reason=st.text(max_size=20),
            num_conn=st.integers(1, 2**31 - 1),
            rate_mbps=st.floats(0, 1e9),
            listeners=addresses,
            targets=addresses,
            principal=st.text(max_size=20),
            encrypted=st.booleans(),
            data_server=st.text(max_size=20),
            seconds=st.floats(0, 1e9),
            channels=st.lists(
                st.builds(
                    ChannelStatistics,
                    connections_open=counters,
                    connections_total=counters,
                    connections_failed=counters,
                    bytes_to_target=counters,
                    bytes_from_target=counters,
                ),
                max_size=3,
            ).map(tuple),
        ),
        max_size=3,
    ).map(tuple)
)
def test_status_there_and_back(sessions: tuple[SessionStatus, ...]) -> None:
    message = convert.write_status(sessions)
    assert convert.read_status(pb.StatusReply.FromString(message.SerializeToString())) == sessions


# What scistream-proto 1.2 puts on the wire: field numbers and types as facts.
REFERENCE: list[tuple[Any, bytes]] = [
    (pb.Request(uid="u", role="PROD", num_conn=5, rate=10000), b"\n\x01u\x12\x04PROD\x18\x05 \x90N"),
    (pb.Hello(uid="u", prod_listeners=["a:1"], role="CONS"), b"\n\x01u\x12\x03a:1\x1a\x04CONS"),
    (pb.UpdateTargets(uid="u", remote_listeners=["a:1"], role="PROD"), b"\n\x01u\x12\x03a:1\x1a\x04PROD"),
    (pb.Release(uid="u"), b"\n\x01u"),
    (pb.Response(listeners=["a:1"], prod_listeners=["b:2"]), b"\n\x03a:1\x12\x03b:2"),
    (pb.AppResponse(message="ok", listeners=["a:1"]), b"\n\x02ok\x12\x03a:1"),
]


@pytest.mark.parametrize(("message", "encoded"), REFERENCE, ids=lambda value: type(value).__name__)
def test_messages_are_encoded_as_the_reference_encodes_them(message: Any, encoded: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == encoded
    assert type(message).FromString(encoded) == message


def test_the_service_has_the_references_names() -> None:
    service = pb.DESCRIPTOR.services_by_name["Control"]
    assert service.full_name == "scistream.Control"
    assert {"req", "hello", "update", "release"} <= {method.name for method in service.methods}


@given(st.binary(max_size=200))
def test_any_bytes_give_an_event_or_an_error_of_ours(data: bytes) -> None:
    for kind, read in (
        (pb.Request, convert.read_request),
        (pb.Hello, convert.read_hello),
        (pb.UpdateTargets, convert.read_update),
        (pb.Release, convert.read_release),
    ):
        with contextlib.suppress(DecodeError, InvalidArgument):
            read(kind.FromString(data), "alice", 1)  # type: ignore[operator]
    for kind, read_answer in (
        (pb.Response, convert.read_response),
        (pb.AppResponse, convert.read_app_response),
        (pb.StatusReply, convert.read_status),
    ):
        with contextlib.suppress(DecodeError, PeerError):
            read_answer(kind.FromString(data))  # type: ignore[operator]


@pytest.mark.parametrize("role", ["", "prod", "PRODUCER", "x" * 1000])
def test_other_roles_are_refused(role: str) -> None:
    with pytest.raises(InvalidArgument, match="neither PROD nor CONS"):
        convert.read_request(pb.Request(uid="u", role=role, num_conn=1), "alice", 1)


def test_an_update_may_leave_its_role_out() -> None:
    assert convert.read_update(pb.UpdateTargets(uid="u"), "alice", 1).role is None


@pytest.mark.parametrize("address", ["nowhere", "a:1\nlisten b:2", "a:99999", ":1", "a b:1"])
def test_addresses_that_are_none_are_the_callers_fault_or_the_servers(address: str) -> None:
    with pytest.raises(InvalidArgument):
        convert.read_hello(pb.Hello(uid="u", role="PROD", prod_listeners=[address]), "alice", 1)
    with pytest.raises(PeerError):
        convert.read_response(pb.Response(listeners=[address]))


def test_localhost_is_an_address() -> None:
    event = convert.read_hello(pb.Hello(uid="u", role="PROD", prod_listeners=["localhost:5074"]), "a", 1)
    assert event.addresses == (Endpoint("localhost", 5074),)
