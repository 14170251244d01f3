"""What an address is."""

from __future__ import annotations

import pytest

from ministream.errors import InputError
from ministream.transport.sockets import checked_address


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://[::1]:5000", "tcp://host.example.org:65535"])
def test_an_address_has_scheme_host_and_port(address: str) -> None:
    assert checked_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:5000",
        "tcp://host",
        "tcp://:5000",
        "tcp://host:99999",
        "tcp://host:port",
        "udp://host:5000",
        "tcp://host:5000/path",
        "tcp://user@host:5000",
        "tcp://[::1:5000",
    ],
)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="tcp://HOST:PORT"):
        checked_address(address)
