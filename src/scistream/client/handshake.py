"""TLS handshakes of our own with a control server: which certificate it shows, and what is wrong with it.

gRPC says of a handshake that failed little more than that it failed. Nothing is sent over these connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from scistream.client.known_servers import fingerprint
from scistream.core.endpoint import Endpoint
from scistream.errors import AuthenticationError, ConfigurationError, DeadlineExceeded, PeerError

# X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL, x509_vfy.h)
_OTHER_NAME = frozenset({62, 64})


class Untrusted(AuthenticationError):
    """The control server's certificate is not one that is trusted for it. Nothing was sent to it."""


def check_pem(pem: bytes, what: str) -> None:
    """Check that `pem` holds one or more certificates.

    Raises
    ------
    ConfigurationError
        It does not; the message says so of `what`.
    """
    try:
        _context(pem)
    except ValueError as error:  # UnicodeDecodeError among them
        raise ConfigurationError(f"{what} is no PEM certificate: {error}") from error
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{what} is no PEM certificate (-----BEGIN CERTIFICATE----- and what belongs to it): "
            f"{error.reason or error}"
        ) from error


async def ask_certificate(endpoint: Endpoint, *, timeout_s: float) -> bytes:
    """Return the certificate (PEM) that the server at `endpoint` shows; whether it is the right one is open.

    Raises
    ------
    PeerError
        It cannot be reached, or speaks no TLS.
    DeadlineExceeded
        It does not answer in time.
    """
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is what is asked for, and nothing else is sent
    der = await _shake_hands(endpoint, context, timeout_s)
    if der is None:
        raise PeerError(f"{endpoint} shows no certificate")
    return ssl.DER_cert_to_PEM_cert(der).encode()


async def check_server(endpoint: Endpoint, trusted_pem: bytes | None, *, timeout_s: float) -> None:
    """Check that the server at `endpoint` proves a certificate that is trusted for it, and names it.

    Parameters
    ----------
    trusted_pem : bytes or None
        Its certificate, or its authority's; None: any authority that this machine knows.

    Raises
    ------
    Untrusted
        It does not.
    PeerError
        It cannot be reached, or speaks no TLS.
    DeadlineExceeded
        It does not answer in time.
    """
    try:
        await _shake_hands(endpoint, _context(trusted_pem), timeout_s)
    except ssl.SSLCertVerificationError as error:
        shown = await ask_certificate(endpoint, timeout_s=timeout_s)
        raise Untrusted(_advice(endpoint, trusted_pem, shown, error)) from error


def _advice(
    endpoint: Endpoint, trusted_pem: bytes | None, shown: bytes, error: ssl.SSLCertVerificationError
) -> str:
    where, sha256 = f"control server {endpoint} shows", fingerprint(shown)
    if error.verify_code in _OTHER_NAME:
        return (
            f"{where} a certificate that is not for {endpoint.host}, but for {', '.join(_names(shown))}. "
            "Use one of these names for it, or have its operator make a certificate that names "
            f"{endpoint.host} too (s2cs cert --host NAME --host {endpoint.host})"
        )
    if trusted_pem is None:
        return (
            f"{where} a certificate that this machine does not know (SHA-256 {sha256}); get its "
            "server.crt from its operator and give it with --certificate FILE ('s2uc request': "
            "--producer-certificate, --consumer-certificate), or as 'certificate' in its profile; or "
            f"compare the fingerprint with its operator and type: s2uc trust {endpoint}"
        )
    if sha256 == fingerprint(trusted_pem):
        return (
            f"{where} the certificate that is trusted, and it cannot be used: {error.verify_message}; "
            "ask its operator for a new one"
        )
    return (
        f"{where} another certificate than the one given: SHA-256 {sha256}, and trusted is "
        f"{fingerprint(trusted_pem)}. Somebody may be in between: ask its operator. If "
        "it was changed there, give the new server.crt, or compare the new fingerprint and type: "
        f"s2uc trust {endpoint}"
    )


def _names(pem: bytes) -> list[str]:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [certificate.subject.rfc4514_string()]
    return [str(name.value) for name in names]


def _context(trusted_pem: bytes | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    # as gRPC: a server's own certificate is enough, whoever has signed it
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if trusted_pem is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=trusted_pem.decode("ascii"))
    return context


async def _shake_hands(endpoint: Endpoint, context: ssl.SSLContext, timeout_s: float) -> bytes | None:
    """Return the certificate (DER) that the server shows; `ssl.SSLCertVerificationError` is let through."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=context, server_hostname=endpoint.host
            )
            try:
                der: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError as error:
        raise DeadlineExceeded(f"{endpoint} showed no certificate within {timeout_s:g} s") from error
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError as error:
        raise PeerError(
            f"{endpoint} does not answer as a TLS server does ({error.reason or error}); if it serves "
            f"without TLS (s2cs start --ssl=False), write plaintext://{endpoint} (in Python: tls=False), and "
            "whoever is on the way can read the token"
        ) from error
    except OSError as error:
        raise PeerError(f"{endpoint} cannot be asked for its certificate: {error}") from error
    return der
