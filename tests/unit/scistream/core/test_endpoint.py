"""Addresses: read, written, refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.endpoint import Endpoint
from scistream.errors import InvalidArgument

hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9_]{0,20}(\.[a-z][a-z0-9]{0,20}){0,3}", fullmatch=True),
)


@given(hosts, st.integers(0, 65535))
def test_there_and_back(host: str, port: int) -> None:
    endpoint = Endpoint(host, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(st.text(max_size=60))
def test_any_text_gives_an_address_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        endpoint = Endpoint.parse(text)
        assert "\n" not in str(endpoint)
        assert " " not in str(endpoint)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:5000", "localhost", 5000),
        ("[::1]:5000", "::1", 5000),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        (" 10.0.0.1:1 ", "10.0.0.1", 1),
        ("my_container:80", "my_container", 80),
    ],
)
def test_usual_spellings(text: str, host: str, port: int) -> None:
    assert Endpoint.parse(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "::1:5",
        "[::1]",
        "[host]:1",
        "300.1.2.3:1",
        "a b:1",
        "a\nb:1",
        "-a:1",
        "a-:1",
        "host:-1",
        "host:٣",
        "a..b:1",
        "[fe80::1%a b]:1",
        "x" * 300 + ":1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Endpoint.parse(text)


def test_a_default_port_stands_in() -> None:
    assert Endpoint.parse("host", default_port=5000) == Endpoint("host", 5000)
    assert Endpoint.parse("[::1]", default_port=5000) == Endpoint("::1", 5000)


@pytest.mark.parametrize("port", [True, 1.0, "1", -1])
def test_a_port_is_a_number(port: object) -> None:
    with pytest.raises(InvalidArgument):
        Endpoint("host", port)  # type: ignore[arg-type]
