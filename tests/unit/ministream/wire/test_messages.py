"""Headers of the flow protocol: round trips, and bytes that are none."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import ProtocolError
from ministream.wire import messages

COUNT = st.integers(0, 2**53 - 1)
TEXT = st.text(max_size=30)
JSON = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT), max_size=4)

HEADERS = st.one_of(
    st.builds(
        messages.Join,
        protocol=COUNT,
        flow=st.text(min_size=1, max_size=30),
        receiver=st.text(min_size=1, max_size=30),
        connection=st.just(0),
        connections=st.integers(1, 64),
        credits=st.integers(1, 65536),
        next_sequence=COUNT,
        next_notice=COUNT,
        arrived=COUNT,
        attributes=JSON,
    ),
    st.builds(
        messages.Welcome,
        protocol=COUNT,
        sender=TEXT,
        next_sequence=COUNT,
        next_notice=COUNT,
        description=JSON,
    ),
    st.builds(messages.Refuse, reason=TEXT, cause=st.sampled_from(messages.REFUSAL_CAUSES)),
    st.builds(messages.Data, sequence=COUNT),
    st.builds(messages.Notice, notice=COUNT, before_sequence=COUNT, message=JSON),
    st.builds(
        messages.Acknowledge,
        next_sequence=COUNT,
        next_notice=COUNT,
        received=st.lists(COUNT, max_size=4).map(tuple),
        credits=st.integers(1, 65536),
        ended=st.booleans(),
    ),
    st.builds(messages.End, next_sequence=COUNT, next_notice=COUNT),
    st.builds(messages.Leave, next_sequence=COUNT, reason=TEXT),
    st.builds(messages.Probe),
)


@given(HEADERS)
def test_a_header_survives_the_round_trip(header: messages.Header) -> None:
    assert messages.parse(messages.encode(header)) == header


@given(st.binary(max_size=100))
def test_any_bytes_give_a_header_or_our_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        messages.parse(data)


@given(HEADERS, st.data())
def test_a_header_with_any_other_value_gives_a_header_or_our_error(
    header: messages.Header, data: st.DataObject
) -> None:
    content = json.loads(messages.encode(header))
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(TEXT))
    with contextlib.suppress(ProtocolError):
        messages.parse(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "unknown kind"),
        (b'{"kind":"data"}', "sequence"),
        (b'{"kind":"data","sequence":true}', "sequence"),
        (b'{"kind":"data","sequence":-1}', "sequence"),
        (b'{"kind":"data","sequence":NaN}', "not JSON"),
        (b'{"kind":["data"]}', "unknown kind"),
        (b"[" * 100_000, "not JSON"),
        (b" " * (2 << 20), "limit"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        messages.parse(data)


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert messages.parse(b'{"kind":"data","sequence":3,"colour":"blue"}') == messages.Data(sequence=3)


@pytest.mark.parametrize(
    "changes", [{"connection": 2}, {"connections": 65}, {"credits": 0}, {"credits": 1 << 17}, {"flow": ""}]
)
def test_an_impossible_join_is_refused(changes: dict[str, object]) -> None:
    content = {
        "kind": "join",
        "protocol": 1,
        "flow": "f",
        "receiver": "r",
        "connection": 0,
        "connections": 2,
        "credits": 4,
        "next_sequence": 0,
        "next_notice": 0,
        "arrived": 0,
        "attributes": {},
    }
    assert isinstance(messages.parse(json.dumps(content).encode()), messages.Join)
    with pytest.raises(ProtocolError):
        messages.parse(json.dumps({**content, **changes}).encode())
