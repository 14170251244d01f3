"""What an operator may tell a control server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scistream.config import ControlServerConfig, PortRange, StopMode, is_loopback
from scistream.core.endpoint import Endpoint
from scistream.core.reservation import EphemeralPool, PortPool
from scistream.core.table import Limits
from scistream.errors import ConfigurationError


def config(**changes: Any) -> ControlServerConfig:
    values: dict[str, Any] = {
        "listen": Endpoint("127.0.0.1", 5000),
        "certificate": Path("server.crt"),
        "private_key": Path("server.key"),
        "bind_host": "127.0.0.1",
        "advertise_host": "127.0.0.1",
        "ports": PortRange(first=5100, last=5200),
        "data_server": "native",
        "authenticators": {"none": {}},
    }
    return ControlServerConfig(**values | changes)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("5100-5200", 5100, 5200), ("5100", 5100, 5100), ("0", 0, 0), (" 1 - 65535 ", 1, 65535)],
)
def test_port_ranges_are_read(text: str, first: int, last: int) -> None:
    assert PortRange.parse(text) == PortRange(first=first, last=last)


@pytest.mark.parametrize("text", ["", "x", "5200-5100", "0-10", "1-65536", "-5", "1-2-3", "٥-٦"])
def test_port_ranges_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="port range"):
        PortRange.parse(text)


def test_zero_means_any_ports() -> None:
    assert isinstance(PortRange.parse("0").pool(), EphemeralPool)
    pool = PortRange.parse("5100-5101").pool()
    assert isinstance(pool, PortPool)
    assert pool.size == 2


def test_an_address_that_nobody_can_connect_to_is_not_advertised() -> None:
    for host in ("0.0.0.0", "::"):
        config(bind_host=host)
        with pytest.raises(ConfigurationError, match="--advertise"):
            config(advertise_host=host)


def test_applications_are_told_the_address_that_is_bound_for_them_unless_another_is_given() -> None:
    assert config().lan_host == "127.0.0.1"
    assert config(bind_host="0.0.0.0").lan_host == "127.0.0.1"
    assert config(bind_lan_host="10.0.1.1").lan_host == "10.0.1.1"
    assert config(bind_lan_host="0.0.0.0", advertise_lan_host="gw.lan").lan_host == "gw.lan"
    with pytest.raises(ConfigurationError, match="--advertise-lan HOST"):
        config(bind_lan_host="0.0.0.0")


@pytest.mark.parametrize(
    "changes",
    [
        {"bind_host": "a b"},
        {"advertise_host": ""},
        {"bind_lan_host": "a b"},
        {"advertise_lan_host": ""},
        {"limits": Limits(hello_timeout_s=0)},
        {"limits": Limits(update_timeout_s=float("inf"))},
        {"limits": Limits(early_hello_timeout_s=float("nan"))},
        {"drain_timeout_s": -1},
    ],
)
def test_unusable_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        config(**changes)


def test_loopback_is_recognised() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST.")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "localhost.example.org")))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"limits": Limits(idle_timeout_s=-1)}, "idle timeout"),
        ({"limits": Limits(lifetime_s=float("inf"))}, "lifetime"),
        ({"limits": Limits(queue_timeout_s=0)}, "queue timeout"),
        ({"capacity_mbps": -5}, "capacity"),
        ({"orphan_limit_s": 0}, "orphan limit"),
    ],
)
def test_leases_and_capacities_that_are_none_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        config(**changes)


def test_sessions_are_kept_only_where_there_is_a_place_for_them() -> None:
    with pytest.raises(ConfigurationError, match="--state-dir"):
        config(on_terminate=StopMode.KEEP)
    config(on_terminate=StopMode.KEEP, state_dir=Path("state"))


def test_as_many_ports_are_advertised_as_are_listened_on() -> None:
    config(advertised_ports=PortRange(first=30100, last=30200))
    with pytest.raises(ConfigurationError, match="100 ports are advertised for 101"):
        config(advertised_ports=PortRange(first=30100, last=30199))
    with pytest.raises(ConfigurationError, match="for 0 that are listened on"):
        config(ports=PortRange(first=0, last=0), advertised_ports=PortRange(first=30100, last=30199))
