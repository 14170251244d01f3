"""Networks and ports: what a rule's text means, and what it never means by accident."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.core.destinations import Destination, parse_address, set_apart
from scistream.errors import InvalidArgument

IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)
PORTS = st.integers(1, 65535)


@st.composite
def destinations(draw: st.DrawFn) -> Destination:
    address = draw(st.ip_addresses())
    prefix = draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network((address, prefix), strict=False)
    first = draw(PORTS)
    return Destination(network=network, first_port=first, last_port=draw(st.integers(first, 65535)))


def holds(text: str, address: str, port: int = 5000) -> bool:
    return Destination.parse(text).holds(parse_address(address), port)


@given(destinations())
def test_what_is_written_is_read_back(destination: Destination) -> None:
    if str(destination).startswith("[::ffff:"):  # it has one spelling only, that of IPv4
        with pytest.raises(InvalidArgument, match="IPv4 network in IPv6"):
            Destination.parse(str(destination))
        return
    assert Destination.parse(str(destination)) == destination


@given(st.text())
def test_any_text_is_a_destination_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        Destination.parse(text)


@pytest.mark.parametrize(
    "text",
    ["host.example:5000", "10.0.0.0/8", "10.0.0.1/8:5000", "10.0.0.0/33:1", "10.0.0.0/8:0",
     "10.0.0.0/8:70000", "10.0.0.0/8:5-4", "fd00::/8:*", "[10.0.0.0/8]:*",
     "[::ffff:10.0.0.0/104]:*", "*:*", ""],
)  # fmt: skip
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Destination.parse(text)


@given(destinations(), st.ip_addresses(), PORTS)
def test_an_address_that_is_held_is_in_the_network_and_the_port_in_the_range(
    destination: Destination, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    address = parse_address(str(address))
    if destination.holds(address, port):
        assert address in destination.network
        assert destination.first_port <= port <= destination.last_port


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1", "127.0.0.0/8:*"),
        ("127.8.9.1", "127.0.0.0/8:*"),
        ("0.0.0.0", "0.0.0.0/8:*"),
        ("169.254.169.254", "169.254.169.254/32:80-65535"),
        ("224.0.0.1", "224.0.0.0/4:*"),
        ("255.255.255.255", "255.255.255.255/32:*"),
        ("::1", "[::1/128]:*"),
        ("::", "[::/128]:*"),
        ("fe80::1%eth0", "[fe80::/10]:*"),
        ("ff02::1", "[ff00::/8]:*"),
        ("::7f00:1", "[::/96]:*"),
        ("64:ff9b::7f00:1", "[64:ff9b::/96]:*"),
        ("2002:7f00:1::", "[2002::/16]:*"),
        ("2001:0:1::", "[2001::/32]:*"),
    ],
)
@pytest.mark.attack("a target on the gateway itself, its link or behind a translated address")
def test_a_network_for_everything_does_not_mean_what_is_set_apart(address: str, own: str) -> None:
    assert not holds("0.0.0.0/0:*", address)
    assert not holds("[::/0]:*", address)
    assert set_apart(parse_address(address))
    assert holds(own, address)


@given(IPV4, destinations(), PORTS)
def test_an_ipv4_address_in_an_ipv6_one_is_that_address(
    address: ipaddress.IPv4Address, destination: Destination, port: int
) -> None:
    mapped = parse_address(f"::ffff:{address}")
    assert mapped == address
    assert destination.holds(mapped, port) == destination.holds(parse_address(str(address)), port)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", ":::"])
def test_what_is_no_address_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_address(text)
