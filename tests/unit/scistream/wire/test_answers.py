"""A control server's answers and values: there and back, and any bytes at all."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.commands import Reply
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey
from scistream.core.session import State
from scistream.core.status import ChannelStatistics, SessionStatus
from scistream.errors import PeerError
from scistream.wire import answers
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


@given(addresses, addresses, st.binary(max_size=100), st.text(max_size=20))
def test_response_there_and_back(
    listeners: tuple[Endpoint, ...], destinations: tuple[Endpoint, ...], certificate: bytes, data_server: str
) -> None:
    reply = Reply(
        key=SessionKey("alice", "uid"),
        call=1,
        listeners=listeners,
        destinations=destinations,
        certificate_pem=certificate,
    )
    message = answers.write_response(reply, data_server)
    grant = answers.read_response(pb.Response.FromString(message.SerializeToString()))
    assert grant.data_server == data_server
    assert (grant.listeners, grant.destinations, grant.certificate_pem) == (
        listeners,
        destinations,
        certificate,
    )
    assert answers.read_app_response(answers.write_app_response(reply)) == listeners


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
                    connections_ready=counters,
                ),
                max_size=3,
            ).map(tuple),
        ),
        max_size=3,
    ).map(tuple)
)
def test_status_there_and_back(sessions: tuple[SessionStatus, ...]) -> None:
    message = answers.write_status(sessions)
    assert answers.read_status(pb.StatusReply.FromString(message.SerializeToString())) == sessions


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer_or_an_error_of_ours(data: bytes) -> None:
    for kind, read in (
        (pb.Response, answers.read_response),
        (pb.AppResponse, answers.read_app_response),
        (pb.StatusReply, answers.read_status),
    ):
        with contextlib.suppress(DecodeError, PeerError):
            read(kind.FromString(data))  # type: ignore[operator]


@pytest.mark.parametrize("address", ["nowhere", "a:1\nlisten b:2", "a:99999", ":1", "a b:1"])
def test_addresses_that_are_none_are_the_servers_fault(address: str) -> None:
    with pytest.raises(PeerError):
        answers.read_response(pb.Response(listeners=[address]))
