"""From the options for addresses to addresses, and what is said where they leave something open."""

from __future__ import annotations

import ipaddress
import socket

import psutil
import pytest

from scistream.cli.s2cs_addresses import find_addresses, own_addresses

ONE = ("192.0.2.7",)
TWO = ("192.0.2.7", "10.0.1.1")


def test_without_options_the_only_address_of_the_machine_is_advertised() -> None:
    found = find_addresses(own=ONE)
    assert (str(found.listen), found.bind, found.advertise) == ("0.0.0.0:5000", "0.0.0.0", "192.0.2.7")
    assert (found.bind_lan, found.advertise_lan) == ("127.0.0.1", "127.0.0.1")
    assert not found.problems


def test_of_several_addresses_none_is_chosen_and_all_are_named() -> None:
    (problem,) = find_addresses(port=5011, own=TWO).problems
    assert "--listen 0.0.0.0:5011, the default" in problem
    assert "--advertise HOST: it could be 192.0.2.7 or 10.0.1.1" in problem
    (problem,) = find_addresses(own=()).problems
    assert "none but loopback" in problem
    assert not find_addresses(advertise="gw.example", own=TWO).problems


def test_listener_ip_is_the_address_of_everything() -> None:
    found = find_addresses(listener_ip="127.0.0.1", port=5011, own=TWO)
    assert str(found.listen) == "127.0.0.1:5011"
    assert {found.bind, found.advertise, found.bind_lan, found.advertise_lan} == {"127.0.0.1"}
    assert not found.problems


def test_each_option_wins_over_listener_ip() -> None:
    found = find_addresses(
        listener_ip="127.0.0.1",
        listen="0.0.0.0:7",
        bind="127.0.0.2",
        advertise="gw.example",
        bind_lan="127.0.0.3",
        advertise_lan="gw.inside",
        own=TWO,
    )
    assert (str(found.listen), found.bind, found.advertise) == ("0.0.0.0:7", "127.0.0.2", "gw.example")
    assert (found.bind_lan, found.advertise_lan) == ("127.0.0.3", "gw.inside")
    assert not found.problems


def test_the_wildcard_by_listener_ip_leaves_two_addresses_open() -> None:
    problems = find_addresses(listener_ip="0.0.0.0", own=TWO).problems
    assert [problem.count("(--listener-ip 0.0.0.0)") for problem in problems] == [1, 1]
    assert ["--advertise HOST" in one for one in problems] == [True, False]
    assert "--advertise-lan HOST" in problems[1]
    found = find_addresses(listener_ip="0.0.0.0", own=ONE)
    assert (found.advertise, found.advertise_lan, list(found.problems)) == ("192.0.2.7", "192.0.2.7", [])


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"listener_ip": "203.0.113.9"}, "--listener-ip 203.0.113.9 is no address of this machine"),
        ({"bind": "203.0.113.9"}, "outer one with --advertise 203.0.113.9"),
        ({"bind_lan": "no.invalid"}, "--bind-lan no.invalid cannot be resolved"),
        ({"listen": "203.0.113.9:5", "bind": "127.0.0.1"}, "--listen 203.0.113.9:5 is no address"),
    ],
)
def test_what_is_not_this_machines_is_refused_by_the_option_that_it_came_from(
    given: dict[str, str], complaint: str
) -> None:
    (problem,) = find_addresses(**given, own=ONE).problems
    assert complaint in problem


def test_the_machines_addresses_are_those_that_the_system_shows() -> None:
    shown = {
        (address.family, str(ipaddress.ip_address(address.address.partition("%")[0])))
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in {socket.AF_INET, socket.AF_INET6}
    }
    useful = {
        (family, one)
        for family, one in shown
        if not ipaddress.ip_address(one).is_loopback and not ipaddress.ip_address(one).is_link_local
    }
    assert set(own_addresses("0.0.0.0")) == {one for family, one in useful if family is socket.AF_INET}
    assert set(own_addresses("::")) == {one for _, one in useful}
