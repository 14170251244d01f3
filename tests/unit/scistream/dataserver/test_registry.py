"""Data servers by name: never another one than that which was asked for."""

from __future__ import annotations

from importlib import metadata

import pytest

from scistream.dataserver import DataServerBackend, create_backend, installed
from scistream.dataserver.haproxy import HaproxyBackend, HaproxyContainerBackend
from scistream.dataserver.native import NativeBackend
from scistream.dataserver.nginx import NginxBackend, NginxContainerBackend
from scistream.dataserver.registry import omits_close_notify
from scistream.dataserver.stunnel import StunnelBackend, StunnelContainerBackend
from scistream.errors import ConfigurationError


def test_the_native_data_server_is_installed() -> None:
    assert "native" in installed()


@pytest.mark.parametrize("name", ["native", "Native", "NATIVE", " native "])
def test_names_match_whatever_their_case(name: str) -> None:
    assert isinstance(create_backend(name), NativeBackend)


def test_containers_are_asked_for_by_name() -> None:
    for name, kind in (
        ("HaproxyContainer", HaproxyContainerBackend),
        ("nginxcontainer", NginxContainerBackend),
        ("STUNNELCONTAINER", StunnelContainerBackend),
    ):
        assert isinstance(create_backend(name, {"image": "an/image"}), kind)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("Haproxy", HaproxyBackend),
        ("HaproxySubprocess", HaproxyBackend),
        ("Nginx", NginxBackend),
        ("NginxSubprocess", NginxBackend),
        ("Stunnel", StunnelBackend),
        ("StunnelSubprocess", StunnelBackend),
    ],
)
def test_the_names_of_the_reference_select_programs(name: str, backend: type[DataServerBackend]) -> None:
    assert isinstance(create_backend(name), backend)
    with pytest.raises(ConfigurationError, match="at least one"):
        create_backend(name, {"workers": 0})


@pytest.mark.parametrize("name", ["nginx", "Nginx", "NginxSubprocess", "NginxContainer", " NGINX "])
def test_of_nginx_it_is_known_that_it_omits_the_close_notify(name: str) -> None:
    assert omits_close_notify(name)


@pytest.mark.parametrize("name", ["native", "haproxy", "StunnelSubprocess", "", "somebody else's"])
def test_of_no_other_data_server_is_that_known(name: str) -> None:
    assert not omits_close_notify(name)


def test_an_unknown_name_lists_what_is_installed() -> None:
    with pytest.raises(ConfigurationError, match=r"no data server 'docker'.*native"):
        create_backend("docker")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="colour"):
        create_backend("native", {"colour": "blue"})


def test_a_value_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        create_backend("native", {"workers": 0})


@pytest.mark.parametrize("value", ["no.such.module:Backend", "scistream.errors:Nothing", "json:dumps"])
def test_a_broken_plug_in_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = metadata.EntryPoint(name="broken", value=value, group="scistream.dataservers")
    monkeypatch.setattr("scistream.dataserver.registry.metadata.entry_points", lambda **_: (point,))
    with pytest.raises(ConfigurationError, match="broken"):
        create_backend("broken")
