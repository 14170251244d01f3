"""Records of sessions: written, kept as JSON, read back the same; anything else is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.endpoint import Endpoint
from scistream.core.events import Hello, Role, SessionKey
from scistream.core.principal import Who
from scistream.core.record import from_record, to_record
from scistream.core.session import ENDS, Session, State
from scistream.errors import ConfigurationError

PORTS = st.integers(1, 65535)
COUNTS = st.integers(0, 2**62)
SECONDS = st.floats(0, 1e12)
TEXTS = st.text(max_size=20)
HOSTS = st.sampled_from(["10.0.0.5", "gw_1.example.org.", "localhost", "::1", "fe80::1%eth0", "2001:db8::5"])
ENDPOINTS = st.lists(st.builds(Endpoint, HOSTS, st.integers(0, 65535)), max_size=3).map(tuple)
UIDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    state = draw(st.sampled_from(State))
    outcome = state if state.freed else draw(st.sampled_from(sorted(ENDS))) if state.ended else None
    session = draw(
        st.builds(
            Session,
            key=st.builds(SessionKey, owner=TEXTS, uid=UIDS),
            role=st.sampled_from(Role),
            num_conn=st.integers(1, 1000),
            rate_mbps=SECONDS,
            reverse=st.booleans(),
            queue=st.booleans(),
            ports=st.lists(PORTS, max_size=4).map(tuple),
            held_mbps=SECONDS,
            taken_elsewhere=st.frozensets(PORTS, max_size=4),
            listeners=ENDPOINTS,
            reverse_listeners=ENDPOINTS,
            destinations=ENDPOINTS,
            targets=ENDPOINTS,
            certificate_pem=st.binary(max_size=30),
            peer_certificate_pem=st.binary(max_size=30),
            peer_data_server=TEXTS,
            generation=COUNTS,
            ready_generation=COUNTS,
            ready_targets=ENDPOINTS,
            ready_peer_certificate_pem=st.binary(max_size=30),
            ready_peer_data_server=TEXTS,
            ready_reverse_listeners=ENDPOINTS,
            restart_generation=COUNTS,
            restarts=COUNTS,
            restarts_in_a_row=COUNTS,
            notice=TEXTS,
            idle_timeout_s=SECONDS,
            lifetime_s=SECONDS,
            idle_looks=COUNTS,
            traffic=COUNTS,
            looking=st.booleans(),
            term_s=SECONDS,
            who=st.none()
            | st.builds(
                Who,
                name=TEXTS,
                authenticator=TEXTS,
                identities=st.frozensets(TEXTS),
                groups=st.frozensets(TEXTS),
            ),
            credential_hashes=st.lists(TEXTS, max_size=3).map(tuple),
            reason=TEXTS,
        )
    )
    session.state, session.outcome = state, outcome
    return session


@given(sessions())
def test_what_was_written_is_read_back(session: Session) -> None:
    assert from_record(json.loads(json.dumps(to_record(session), allow_nan=False))) == session


def test_every_field_is_in_the_record_but_the_calls_that_wait() -> None:
    calls = {"requests", "hellos", "updates", "releases"}
    assert to_record(some_session()).keys() == {one.name for one in dataclasses.fields(Session)} - calls


def test_nobody_waits_for_a_session_that_was_read() -> None:
    session = some_session()
    session.requests, session.updates, session.releases = [1], [(2, 1)], [3]
    session.hellos = [Hello(key=session.key, call=4, role=Role.CONSUMER)]
    read = from_record(to_record(session))
    assert [*read.requests, *read.updates, *read.releases, *read.hellos] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", ["alice"]),
        ("key", ["alice", "../x"]),
        ("key", None),
        ("role", "PRODUCER"),
        ("state", "connectd"),
        ("outcome", "done"),
        ("num_conn", "5"),
        ("num_conn", True),
        ("num_conn", None),
        ("queue", 1),
        ("ports", 5100),
        ("ports", ["5100"]),
        ("ports", {"5100": 1}),
        ("listeners", ["no address"]),
        ("listeners", [["gw", 5100]]),
        ("certificate_pem", "€"),
        ("certificate_pem", [1]),
        ("rate_mbps", "fast"),
        ("rate_mbps", 10**400),
        ("reason", 7),
    ],
)
def test_a_value_that_is_none_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"whose {field} cannot be read"):
        from_record(to_record(some_session()) | {field: value})


def test_missing_and_unknown_fields_are_named() -> None:
    record = to_record(some_session())
    del record["ports"]
    with pytest.raises(ConfigurationError, match=r"\(fields that differ: colour, ports\)"):
        from_record(record | {"colour": "red"})


@pytest.mark.parametrize("record", [None, [], "x", 5])
def test_what_is_no_record_at_all_is_refused(record: Any) -> None:
    with pytest.raises(ConfigurationError, match="no session of this version"):
        from_record(record)


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("connected", "failed"), ("releasing", None), ("failed", "released"), ("releasing", "connected")],
)
def test_a_state_that_contradicts_its_outcome_is_refused(state: str, outcome: str | None) -> None:
    with pytest.raises(ConfigurationError, match="outcome"):
        from_record(to_record(some_session()) | {"state": state, "outcome": outcome})


def some_session() -> Session:
    return Session(key=SessionKey("alice", "uid-1"), role=Role.PRODUCER, num_conn=2, rate_mbps=100)
