"""The authenticator ``mtls``: client certificates from authorities that the facility names.

The TLS handshake has verified the certificate's chain, purpose and key before anything comes here. What is
left: that it is valid now (a connection may be older than that), that its authority has not withdrawn it, and
whose it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from scistream.auth.base import Authenticator, Credentials, Principal, not_known
from scistream.auth.settings import check_names, required
from scistream.errors import AuthenticationError, ConfigurationError

logger = logging.getLogger(__name__)

_MAX_CRL_BYTES = 16 << 20


class ClientCertificates(Authenticator):
    """Knows the holders of certificates by their names.

    Parameters
    ----------
    authorities_pem : bytes
        Certificates of the authorities that issue them.
    crl : RevocationList or None
        Those that are withdrawn.
    """

    def __init__(self, authorities_pem: bytes, crl: RevocationList | None = None) -> None:
        self.client_authorities = authorities_pem
        self._crl = crl

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> ClientCertificates:
        """Return an authenticator for the authorities in the file that the setting ``ca`` names.

        Raises
        ------
        ConfigurationError
            There is no such setting, another one, or a file cannot be used.
        """
        check_names("mtls", settings, {"ca", "crl"})
        path = Path(required("mtls", settings, "ca", "--client-ca FILE"))
        pem = _read(path)
        try:
            authorities = x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise ConfigurationError(f"{path} holds no PEM certificates: {error}") from error
        crl = RevocationList(Path(settings["crl"]), authorities) if settings.get("crl") else None
        return cls(pem, crl)

    def recognises(self, credentials: Credentials) -> bool:
        """Return whether a certificate has been proven."""
        return credentials.certificate is not None

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return whose certificate it is.

        Raises
        ------
        AuthenticationError
            There is none, it is out of date or withdrawn, or it names nobody.
        """
        if credentials.certificate is None:
            raise AuthenticationError(f"no client certificate came with the call from {credentials.peer}")
        try:
            certificate = x509.load_pem_x509_certificate(credentials.certificate)
            subject = certificate.subject.rfc4514_string()
            names = _names(certificate)
        except ValueError as error:
            raise not_known(credentials) from error
        now = datetime.now(UTC)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise AuthenticationError(
                f"the client certificate of the call from {credentials.peer} is valid until "
                f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; ask its issuer for a new one"
            )
        if self._crl is not None and self._crl.holds(certificate, now):
            raise AuthenticationError(
                f"the client certificate of the call from {credentials.peer} is withdrawn; ask its issuer"
            )
        if not subject.isprintable() or not (subject or names):
            raise not_known(credentials)
        return Principal(
            name=f"mtls:{subject or sorted(names)[0]}",
            authenticator="mtls",
            username=_username(certificate, names) or subject,
            identities=frozenset(names | ({subject} if subject else set())),
            expires_at=certificate.not_valid_after_utc.timestamp(),
        )


class RevocationList:
    """The certificates that their authorities have withdrawn, read again when the file changes.

    Parameters
    ----------
    path : Path
        One list (PEM or DER), or several (PEM).
    authorities : list of Certificate
        Whose signatures count.

    Raises
    ------
    ConfigurationError
        The file cannot be used, or nobody of these has signed it.
    """

    def __init__(self, path: Path, authorities: list[x509.Certificate]) -> None:
        self._path = path
        self._authorities = authorities
        self._state: tuple[int, int, int] | None = None
        self._lists: list[x509.CertificateRevocationList] = []
        self._load()

    def holds(self, certificate: x509.Certificate, now: datetime) -> bool:
        """Return whether `certificate` is withdrawn.

        Raises
        ------
        AuthenticationError
            The list of its authority is out of date or cannot be read any more: nobody is let in by guess.
        """
        try:
            self._load()
        except ConfigurationError as error:
            logger.warning("%s; nobody is let in by certificate", error)
            raise AuthenticationError(_UNUSABLE) from error
        for one in self._lists:
            if one.issuer != certificate.issuer:
                continue
            if one.next_update_utc is not None and one.next_update_utc < now:
                logger.warning("%s is out of date; nobody is let in by certificate", self._path)
                raise AuthenticationError(_UNUSABLE)
            if one.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                return True
        return False

    def _load(self) -> None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error.strerror}") from error
        state = (status.st_mtime_ns, status.st_ino, status.st_size)
        if state == self._state:
            return
        content = _read(self._path)
        try:
            if b"-----BEGIN" in content:
                end = b"-----END X509 CRL-----"
                parts = [part + end for part in content.split(end) if b"-----BEGIN X509 CRL-----" in part]
                lists = [x509.load_pem_x509_crl(part) for part in parts]
            else:
                lists = [x509.load_der_x509_crl(content)]
        except ValueError as error:
            raise ConfigurationError(f"{self._path} holds no revocation list: {error}") from error
        if not lists:
            raise ConfigurationError(f"{self._path} holds no revocation list")
        for one in lists:
            if not any(_has_signed(authority, one) for authority in self._authorities):
                raise ConfigurationError(
                    f"{self._path}: the list of {one.issuer.rfc4514_string()} is signed by none of the "
                    "authorities in --client-ca"
                )
        self._lists, self._state = lists, state


_UNUSABLE = "this gateway cannot tell which certificates are withdrawn; its operator has to renew the list"


def _has_signed(authority: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    if authority.subject != crl.issuer:
        return False
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, InvalidSignature):
        return False


def _names(certificate: x509.Certificate) -> set[str]:
    """Return the alternative names that stand for people and services."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    kinds = (x509.RFC822Name, x509.DNSName, x509.UniformResourceIdentifier)
    return {
        str(name)
        for kind in kinds
        for name in alternative.get_values_for_type(kind)
        if str(name).isprintable()
    }


def _username(certificate: x509.Certificate, names: set[str]) -> str:
    common = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    emails = sorted(name for name in names if "@" in name and "://" not in name)
    return next((one for one in (*emails, *common, *sorted(names)) if one.isprintable()), "")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CRL_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_CRL_BYTES:
        raise ConfigurationError(f"{path} is too long")
    return content
