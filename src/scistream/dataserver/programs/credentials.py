"""Session credentials as files for a program: looked at before, so that no program can misunderstand them.

The programs trust whatever the pinned certificate signs. That it has signed nothing but itself is only
certain if it is no authority: one that is, is refused here.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from scistream.dataserver.base import TlsCredentials
from scistream.errors import DataServerError

OWN, PEER = "own.pem", "peer.pem"


def check_credentials(tls: TlsCredentials) -> None:
    """Check that key and certificate belong together, and that the peer is one certificate, no authority.

    Raises
    ------
    DataServerError
        They do not; the message says what, and shows nothing of them.
    """
    own = _certificate(tls.certificate_pem, "this side's")
    peer = _certificate(tls.peer_certificate_pem, "the other side's")
    try:
        key = load_pem_private_key(tls.private_key_pem, password=None)
    except (ValueError, TypeError):
        # without "from": errors of parsers may quote what they parse
        raise DataServerError("this side's private key cannot be read") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise DataServerError("this side's private key does not belong to its certificate")
    try:
        constraints = peer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or constraints.ca:
        raise DataServerError(
            "the other side's certificate may vouch for others (no basicConstraints CA:FALSE), so it cannot "
            "be pinned by this program; use one made for a session, or the native data server"
        )


def peer_name(tls: TlsCredentials) -> str:
    """Return the common name of the other side's certificate."""
    subject = _certificate(tls.peer_certificate_pem, "the other side's").subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise DataServerError(f"the other side's certificate has {len(names)} common names; one is needed")
    return str(names[0].value)


def credential_files(tls: TlsCredentials | None) -> dict[str, bytes]:
    """Return the files by name: this side's certificate with its key, and the other side's certificate."""
    if tls is None:
        return {}
    return {
        OWN: tls.certificate_pem.rstrip() + b"\n" + tls.private_key_pem.rstrip() + b"\n",
        PEER: tls.peer_certificate_pem.rstrip() + b"\n",
    }


def _certificate(pem: bytes, whose: str) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise DataServerError(f"{whose} certificate cannot be read") from None
    if len(certificates) != 1:
        raise DataServerError(f"{whose} certificate is {len(certificates)} certificates; a session has one")
    return certificates[0]
