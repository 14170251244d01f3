"""Control servers whose certificate the user has compared and trusts: one file for each address.

Nothing is trusted here by itself: who stores a certificate has had its fingerprint confirmed. The files lie
in the user's data directory (XDG), where only the user may write::

    ~/.local/share/scistream/servers/gateway.aps.example:5000.crt
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import tempfile
from pathlib import Path

from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError
from scistream.user_folders import UserFolder

_FINGERPRINT = re.compile(r"[0-9A-F]{64}", re.ASCII)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# A chain of RSA certificates is well below this.
_MAX_BYTES = 1 << 16


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 fingerprint of the (first) certificate `pem`, as ``openssl x509`` shows it.

    Raises
    ------
    ConfigurationError
        It is not a certificate.
    """
    try:
        match = _CERTIFICATE.search(pem.decode("ascii"))
        der = ssl.PEM_cert_to_DER_cert(match[0]) if match else b""
    except ValueError as error:
        raise ConfigurationError(f"the certificate is not PEM: {error}") from error
    if not der:
        raise ConfigurationError("the certificate is not PEM: no BEGIN CERTIFICATE in it")
    return _colons(hashlib.sha256(der).digest())


def parse_fingerprint(text: str) -> str:
    """Return the fingerprint `text` as `fingerprint` writes it; colons, case and a ``SHA256:`` do not matter.

    Raises
    ------
    ConfigurationError
        It is no SHA-256.
    """
    digits = re.sub(r"(?i)^\s*(sha-?256[:=\s])?|[:\s]", "", text).upper()
    if _FINGERPRINT.fullmatch(digits) is None:
        raise ConfigurationError(
            f"{text[:120]!r} is no SHA-256 fingerprint of 64 hexadecimal digits; "
            "the operator has it from: openssl x509 -in server.crt -noout -fingerprint -sha256"
        )
    return _colons(bytes.fromhex(digits))


def find_known_server(endpoint: Endpoint) -> bytes | None:
    """Return the certificate (PEM) that the user trusts for `endpoint`; None if there is none.

    Raises
    ------
    ConfigurationError
        It cannot be read, or others could have changed it.
    """
    path = known_server_path(endpoint)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            for status, what in ((os.fstat(file.fileno()), path), (path.parent.stat(), path.parent)):
                if status.st_mode & 0o022:
                    raise ConfigurationError(
                        f"{what} can be changed by other users; look whether the certificates in it are the "
                        f"ones you trusted, then type: chmod go-w {what}"
                    )
            return file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def store_known_server(endpoint: Endpoint, pem: bytes) -> Path:
    """Trust the certificate `pem` for `endpoint` from now on; return the file that says so.

    Raises
    ------
    ConfigurationError
        There is no home directory, or the file cannot be written.
    """
    path = known_server_path(endpoint)
    if path is None:
        raise ConfigurationError("there is no home directory to keep the certificate in; set XDG_DATA_HOME")
    temporary: Path | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            os.fchmod(file.fileno(), 0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return path


def known_server_path(endpoint: Endpoint) -> Path | None:
    """Return where the certificate for `endpoint` is kept; None without a home directory."""
    directory = UserFolder.DATA.path()
    if directory is None:
        return None
    # an Endpoint's host holds letters, digits, '.', '-', '_', ':' and '%' only
    return directory / "servers" / f"{str(endpoint).lower()}.crt"


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()
