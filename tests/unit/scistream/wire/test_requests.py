"""A caller's messages and values: there and back, byte for byte the reference's, and any bytes at all."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey
from scistream.errors import InvalidArgument
from scistream.wire import requests
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


@given(uids, st.sampled_from(Role), st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_request_there_and_back(uid: str, role: Role, num_conn: int, rate: int) -> None:
    message = pb.Request.FromString(requests.write_request(uid, role, num_conn, rate).SerializeToString())
    event = requests.read_request(message, "alice", 7)
    assert (event.key, event.call) == (SessionKey("alice", uid), 7)
    assert (event.role, event.num_conn, event.rate_mbps) == (role, num_conn, rate)


@pytest.mark.parametrize(("num_conn", "rate", "blamed"), [(1, 2**31, "rate"), (2**31, 1, "num_conn")])
def test_a_number_that_the_wire_cannot_carry_is_named_and_no_other(
    num_conn: int, rate: int, blamed: str
) -> None:
    with pytest.raises(
        InvalidArgument, match=f"^session uid: {blamed} is 2147483648; the most is 2147483647$"
    ):
        requests.write_request("uid", Role.PRODUCER, num_conn, rate)


def test_a_uid_that_the_wire_cannot_carry_is_an_error_of_ours() -> None:
    with pytest.raises(InvalidArgument, match=r"uid .* cannot be sent"):
        requests.write_request("\udc80", Role.PRODUCER, 1, 0)


@given(uids, st.sampled_from(Role), addresses)
def test_hello_there_and_back(uid: str, role: Role, named: tuple[Endpoint, ...]) -> None:
    message = pb.Hello.FromString(requests.write_hello(uid, role, named).SerializeToString())
    event = requests.read_hello(message, "alice", 7)
    assert (event.key.uid, event.role, event.addresses) == (uid, role, named)


@given(uids, st.sampled_from(Role), addresses, st.binary(max_size=100), st.text(max_size=64))
def test_update_there_and_back(
    uid: str, role: Role, targets: tuple[Endpoint, ...], certificate: bytes, data_server: str
) -> None:
    message = pb.UpdateTargets.FromString(
        requests.write_update(
            uid, role, targets, certificate, peer_data_server=data_server
        ).SerializeToString()
    )
    event = requests.read_update(message, "alice", 7)
    assert (event.role, event.targets, event.peer_certificate_pem) == (role, targets, certificate)
    assert event.peer_data_server == data_server


def test_a_data_server_of_an_endless_name_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="65 characters; 64 are the most"):
        requests.read_update(pb.UpdateTargets(uid="u", peer_data_server="x" * 65), "alice", 1)


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
        (pb.Request, requests.read_request),
        (pb.Hello, requests.read_hello),
        (pb.UpdateTargets, requests.read_update),
        (pb.Release, requests.read_release),
    ):
        with contextlib.suppress(DecodeError, InvalidArgument):
            read(kind.FromString(data), "alice", 1)  # type: ignore[operator]


@pytest.mark.parametrize("role", ["", "prod", "PRODUCER", "x" * 1000])
def test_other_roles_are_refused(role: str) -> None:
    with pytest.raises(InvalidArgument, match="neither PROD nor CONS"):
        requests.read_request(pb.Request(uid="u", role=role, num_conn=1), "alice", 1)


def test_an_update_may_leave_its_role_out() -> None:
    assert requests.read_update(pb.UpdateTargets(uid="u"), "alice", 1).role is None


@pytest.mark.parametrize("address", ["nowhere", "a:1\nlisten b:2", "a:99999", ":1", "a b:1"])
def test_addresses_that_are_none_are_the_callers_fault(address: str) -> None:
    with pytest.raises(InvalidArgument):
        requests.read_hello(pb.Hello(uid="u", role="PROD", prod_listeners=[address]), "alice", 1)


def test_localhost_is_an_address() -> None:
    event = requests.read_hello(pb.Hello(uid="u", role="PROD", prod_listeners=["localhost:5074"]), "a", 1)
    assert event.addresses == (Endpoint("localhost", 5074),)
