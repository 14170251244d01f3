"""Certificates: made for hosts and sessions, accepted by OpenSSL's strictest mode, refused when wrong."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from scistream.auth.certificates import (
    check_certificate,
    fingerprint,
    make_certificate,
    make_session_certificate,
    write_certificate,
)
from scistream.errors import ConfigurationError, InvalidArgument


def handshake(certificate: Path, private_key: Path, trusted: bytes, name: str) -> str:
    """Return the negotiated TLS version; raise what the client raises."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, private_key)
    client = ssl.create_default_context(cadata=trusted.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as connection:
                connection.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version() or ""
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["gateway.example.org", "127.0.0.1", "::1"])
def test_a_certificate_holds_for_its_names_and_addresses(tmp_path: Path, name: str) -> None:
    hosts = ["gateway.example.org", "127.0.0.1", "::1"]
    certificate, private_key = write_certificate(tmp_path, hosts)
    assert handshake(certificate, private_key, certificate.read_bytes(), name) == "TLSv1.3"


def test_a_certificate_holds_for_nothing_else(tmp_path: Path) -> None:
    certificate, private_key = write_certificate(tmp_path, ["127.0.0.1"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, private_key, certificate.read_bytes(), "127.0.0.2")
    other, _ = make_certificate(["127.0.0.1"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, private_key, other, "127.0.0.1")


def test_a_certificate_is_no_authority_and_signs_no_others() -> None:
    pem, _ = make_certificate(["127.0.0.1"])
    extension = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.BasicConstraints)
    assert not extension.value.ca


def test_the_key_file_is_its_owners_and_nothing_is_overwritten(tmp_path: Path) -> None:
    _, private_key = write_certificate(tmp_path / "new" / "directory", ["127.0.0.1"])
    assert stat.S_IMODE(private_key.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="exists already"):
        write_certificate(private_key.parent, ["127.0.0.1"])


@pytest.mark.parametrize("hosts", [[], ["a b"], ["300.1.2.3"], ["-x"], ["x:1"]])
def test_hosts_that_are_none_are_refused_and_leave_no_files(tmp_path: Path, hosts: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        write_certificate(tmp_path, hosts)
    assert list(tmp_path.iterdir()) == []


def test_every_session_certificate_is_another_one() -> None:
    first, second = make_session_certificate("uid"), make_session_certificate("uid")
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert fingerprint(first[0]) != fingerprint(second[0])
    certificate = x509.load_pem_x509_certificate(first[0])
    assert certificate.not_valid_before_utc < datetime.now(UTC) < certificate.not_valid_after_utc
    check_certificate(first[0])


def test_the_longest_uid_fits_into_a_certificate() -> None:
    check_certificate(make_session_certificate("u" * 64)[0])


def test_what_is_no_single_valid_certificate_is_refused() -> None:
    good, key = make_session_certificate("uid")
    expired, _ = make_session_certificate("uid", lifetime=timedelta(seconds=-1))
    for pem, why in (
        (b"", "not PEM"),
        (b"garbage", "not PEM"),
        (key, "not PEM"),
        (good + good, "2 certificates"),
        (good * 100, "bytes"),
        (expired, "clocks"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            check_certificate(pem)
    with pytest.raises(InvalidArgument):
        fingerprint(b"garbage")
