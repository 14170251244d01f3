"""Self-signed certificates: one for a control server, and one for each session and side.

Keys are elliptic, P-256: quick to make and verify, and known to every TLS library. A certificate that is not
signed by anybody is trusted by being known: the control server's is given to its users, a session's is
carried to the other side by the user client.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scistream.auth.secret_files import create_secret_file
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, InvalidArgument

# Clocks of two facilities may differ by this much.
_CLOCK_SKEW = timedelta(minutes=10)

#: The longest session: new connections of a session are refused after that.
SESSION_LIFETIME = timedelta(days=30)

#: A certificate of ours has 600 bytes; a chain of RSA ones below this.
MAX_CERTIFICATE_BYTES = 16_384


def make_certificate(
    hosts: Sequence[str], *, lifetime: timedelta = timedelta(days=730)
) -> tuple[bytes, bytes]:
    """Return certificate and private key (PEM) of a server that answers to the names and addresses `hosts`.

    Raises
    ------
    ConfigurationError
        There is no host, or one is neither a name nor an address.
    """
    if not hosts:
        raise ConfigurationError("a certificate needs at least one host name or address (--host)")
    try:
        names = [_general_name(host) for host in dict.fromkeys(hosts)]
    except InvalidArgument as error:
        raise ConfigurationError(str(error)) from error
    return _self_signed(hosts[0][:64], names, lifetime)


def make_session_certificate(uid: str, *, lifetime: timedelta = SESSION_LIFETIME) -> tuple[bytes, bytes]:
    """Return a certificate and private key (PEM) that one side of the session `uid` proves itself with."""
    return _self_signed(uid, [x509.UniformResourceIdentifier(f"scistream:session:{uid}")], lifetime)


def write_certificate(directory: Path, hosts: Sequence[str]) -> tuple[Path, Path]:
    """Make a server's certificate and key as ``server.crt`` and ``server.key`` (mode 0600) in `directory`.

    Raises
    ------
    ConfigurationError
        A host is none, or a file exists already or cannot be written.
    """
    certificate, private_key = directory / "server.crt", directory / "server.key"
    certificate_pem, private_key_pem = make_certificate(hosts)
    if certificate.exists():
        raise ConfigurationError(f"{certificate} exists already; move it away or choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        create_secret_file(private_key, private_key_pem)
        certificate.write_bytes(certificate_pem)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or directory} cannot be written: {error.strerror}"
        ) from error
    return certificate, private_key


def check_certificate(pem: bytes) -> None:
    """Check that `pem` is exactly one certificate, which is valid today.

    Raises
    ------
    InvalidArgument
        It is not.
    """
    if len(pem) > MAX_CERTIFICATE_BYTES:
        raise InvalidArgument(f"a certificate of {len(pem)} bytes; {MAX_CERTIFICATE_BYTES} are the most")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidArgument(f"the certificate is not PEM: {error}") from error
    if len(certificates) != 1:
        raise InvalidArgument(f"{len(certificates)} certificates; a session has one")
    now = datetime.now(UTC)
    begin, end = certificates[0].not_valid_before_utc, certificates[0].not_valid_after_utc
    if not begin <= now <= end:
        raise InvalidArgument(
            f"the certificate is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and here "
            f"it is {now:%Y-%m-%d %H:%M} UTC; check both gateways' clocks"
        )


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 fingerprint of the certificate `pem`, as ``openssl x509 -fingerprint`` shows it.

    Raises
    ------
    InvalidArgument
        It is not a certificate.
    """
    try:
        digest = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    except ValueError as error:
        raise InvalidArgument(f"the certificate is not PEM: {error}") from error
    return digest.hex(":").upper()


def _general_name(host: str) -> x509.GeneralName:
    Endpoint(host, 0)  # says what is wrong with it
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _self_signed(
    common_name: str, names: Sequence[x509.GeneralName], lifetime: timedelta
) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    both_ends = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        # No authority, so that who steals one cannot make others. And no key usage: with one that lacks
        # "certificate signing" OpenSSL does not take a self-signed certificate for its own issuer.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(both_ends, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
