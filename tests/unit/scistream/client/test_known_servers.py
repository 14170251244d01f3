"""Certificates that the user trusts: fingerprints and files."""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from pathlib import Path

import pytest

from scistream.auth import certificates
from scistream.client.known_servers import (
    find_known_server,
    fingerprint,
    known_server_path,
    parse_fingerprint,
    store_known_server,
)
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError

GATEWAY = Endpoint("Gateway.example", 5000)


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def test_the_fingerprint_is_the_sha256_of_the_certificate(tls_files: tuple[Path, Path]) -> None:
    pem = tls_files[0].read_bytes()
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    assert fingerprint(pem).replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert fingerprint(b"# a comment before it\n" + pem) == fingerprint(pem) == certificates.fingerprint(pem)


@pytest.mark.parametrize("pem", [b"", b"nothing", b"\xff", b"-----BEGIN CERTIFICATE-----\n?\n"])
def test_what_is_no_certificate_has_no_fingerprint(pem: bytes) -> None:
    with pytest.raises(ConfigurationError, match="PEM"):
        fingerprint(pem)


def test_a_fingerprint_is_read_however_it_was_copied(tls_files: tuple[Path, Path]) -> None:
    shown = fingerprint(tls_files[0].read_bytes())
    digits = shown.replace(":", "")
    for text in (shown, digits, digits.lower(), f" SHA256:{shown} ", f"sha256={digits}", f"SHA-256 {shown}"):
        assert parse_fingerprint(text) == shown
    for text in ("", "abc", digits[:-1], digits + "0", "g" * 64):
        with pytest.raises(ConfigurationError, match="64 hexadecimal"):
            parse_fingerprint(text)


def test_a_trusted_certificate_is_found_again_by_its_address_alone(data_home: Path) -> None:
    assert find_known_server(GATEWAY) is None
    path = store_known_server(GATEWAY, b"pem")
    assert find_known_server(Endpoint("gateway.EXAMPLE", 5000)) == b"pem"
    assert find_known_server(Endpoint("gateway.example", 5001)) is None
    assert path.is_relative_to(data_home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    store_known_server(GATEWAY, b"another")
    assert find_known_server(GATEWAY) == b"another"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_a_certificate_that_others_can_change_is_not_trusted(mode: int) -> None:
    path = store_known_server(GATEWAY, b"pem")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="go-w"):
        find_known_server(GATEWAY)
    path.chmod(0o644)
    path.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="go-w"):
        find_known_server(GATEWAY)


def test_an_ipv6_address_with_a_zone_is_a_file_name_in_the_directory(data_home: Path) -> None:
    path = known_server_path(Endpoint("fe80::1%eth0", 1))
    assert path is not None
    assert path.parent == data_home / "scistream" / "servers"


def test_nothing_is_trusted_where_there_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", os.devnull)
    assert find_known_server(GATEWAY) is None
    with pytest.raises(ConfigurationError, match="cannot be written"):
        store_known_server(GATEWAY, b"pem")
