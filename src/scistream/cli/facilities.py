"""From what the user types to a facility: an address, or the name of a profile in the configuration file.

The file is the one given with ``--config``, or the user's own. A profile::

    [facilities.aps]
    address = "gateway.aps.example:5000"
    certificate = "aps.crt"       # relative to the configuration file
    token_file = "aps.token"      # mode 0600

Instead of the certificate its ``fingerprint`` (SHA-256) can stand there. ``authenticator`` names the kind of
login that the facility asks for: with ``globus`` or ``oidc`` and what these need, the token of ``s2uc login``
takes the place of ``token_file``; with ``mtls``, ``client_certificate`` and ``client_key`` do. A server of
which nothing is said is known if the user has trusted it (``s2uc trust``).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scistream.cli.config_file import config_path, config_table, user_config_path
from scistream.core.endpoint import Endpoint
from scistream.errors import AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    from scistream.client.aio import Facility
    from scistream.client.login import LoginSettings

logger = logging.getLogger(__name__)

#: Where a control server is looked for if nothing else is said.
LOCAL_SERVER = "localhost:5000"

#: What the reference client takes for the control server's certificate, if it is there.
REFERENCE_CERTIFICATE = Path("server.crt")

#: Before the address of a control server that serves without TLS (``s2cs start --ssl=False``).
PLAINTEXT = "plaintext://"

_LOGIN_KEYS = {"client_id", "issuer", "issuer_ca", "resource", "scope"}
_KEYS = {
    "address",
    "authenticator",
    "certificate",
    "client_certificate",
    "client_key",
    "fingerprint",
    "token_file",
    *_LOGIN_KEYS,
}

#: Where ``--scope`` is kept until a token is looked for.
SCOPE_KEY = "scistream.cli.scope"

_ASK_TIMEOUT_S = 10.0


def find_facility(
    context: click.Context,
    text: str,
    *,
    certificate: Path | None,
    token_file: Path | None,
    token_variables: Sequence[str] = ("S2UC_TOKEN",),
    default_certificate: Path | None = None,
) -> Facility:
    """Return the facility that `text` means; what is given on the command line wins over the profile.

    Parameters
    ----------
    text : str
        ``host:port``, ``plaintext://host:port``, or the name of a profile.
    token_variables : sequence of str
        Environment variables that may hold the token; the first one set is taken.
    default_certificate : Path, optional
        Taken, if it is there, for a server that nothing is known of.

    Raises
    ------
    ConfigurationError
        There is no such profile, or one of its values or files cannot be used; or a certificate is given for
        a server without TLS, which proves none.
    AuthenticationError
        The server shows another certificate than the one whose fingerprint the profile has; or nobody has
        logged in there.
    PeerError, DeadlineExceeded
        It cannot be asked for that certificate.
    """
    from scistream.auth.shared_key import read_token_file
    from scistream.client.aio import Facility

    profile = _profile(context, text)
    address = profile.get("address", text)
    tls = not address.startswith(PLAINTEXT)
    endpoint = Endpoint.parse(address.removeprefix(PLAINTEXT))
    certificate_pem: bytes | None = None
    if not tls:
        if certificate is not None or not profile.keys().isdisjoint({"certificate", "fingerprint"}):
            raise ConfigurationError(
                f"{address} is called without TLS, so its certificate cannot be checked, and one is given "
                f"(--certificate, or certificate or fingerprint in the profile); leave it or {PLAINTEXT} out"
            )
        _warn_of_plaintext(endpoint)
    elif certificate is not None:
        certificate_pem = read_certificate(certificate)
    else:
        certificate_pem = _trusted(context, text, profile, endpoint)
        if certificate_pem is None and default_certificate is not None and default_certificate.is_file():
            certificate_pem = read_certificate(default_certificate)
    token: str | Callable[[], str] | None = next(
        (os.environ[name] for name in token_variables if os.environ.get(name)), None
    )
    if token_file is None and token is None and "token_file" in profile:
        token_file = _path(context, profile["token_file"])
    if token_file is not None:
        token = read_token_file(token_file)
    elif token is None:
        token = _stored_token(context, text, profile)
    return Facility(
        endpoint=endpoint,
        server_certificate_pem=certificate_pem,
        token=token,
        tls=tls,
        client_certificate=_client_certificate(context, text, profile) if tls else None,
    )


def login_settings(
    context: click.Context, name: str, *, scope: str = "", client_id: str = ""
) -> LoginSettings | None:
    """Return what a login at the facility `name` is for; None where none is made there.

    Parameters
    ----------
    scope, client_id : str
        In place of the profile's.

    Raises
    ------
    ConfigurationError
        There is no such profile, or it does not say what is needed.
    """
    from scistream.client.login import LoginSettings
    from scistream.client.login.settings import KINDS

    profile = _profile(context, name)
    kind = profile.get("authenticator", "")
    if kind not in KINDS:
        if extra := sorted(_LOGIN_KEYS & profile.keys()):
            raise ConfigurationError(
                f'[facilities.{name}] {extra[0]}: that is for authenticator = "globus" or "oidc", which is '
                "missing there"
            )
        return None
    try:
        return LoginSettings(
            kind=kind,
            client_id=client_id or profile.get("client_id", ""),
            scope=scope or profile.get("scope", ""),
            issuer=profile.get("issuer", ""),
            resource=profile.get("resource", ""),
            ca=str(_path(context, profile["issuer_ca"])) if "issuer_ca" in profile else "",
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"[facilities.{name}] {error}") from error


def _stored_token(context: click.Context, name: str, profile: Mapping[str, str]) -> Callable[[], str] | None:
    """Return the token of the login that the profile, or ``--scope``, asks for; None where none does."""
    scope = context.meta.get(SCOPE_KEY, "")
    settings = login_settings(context, name)
    if settings is not None:
        from scistream.client.login import StoredToken

        return StoredToken(settings, f"s2uc login {name}")
    if not scope or profile:
        return None
    from scistream.client.login import LoginStore, StoredToken, globus_scope

    wanted = globus_scope(scope)
    found = [one for one in LoginStore().all() if one.settings.scope == wanted]
    return StoredToken(found[0].settings, f"s2uc login --scope {scope}") if found else None


def _client_certificate(
    context: click.Context, name: str, profile: Mapping[str, str]
) -> tuple[bytes, bytes] | None:
    from scistream.auth.secret_files import read_secret_file

    given = {"client_certificate", "client_key"} & profile.keys()
    if not given:
        return None
    if len(given) == 1:
        raise ConfigurationError(f"[facilities.{name}] client_certificate and client_key go together")
    certificate = read_certificate(_path(context, profile["client_certificate"]))
    return certificate, read_secret_file(_path(context, profile["client_key"]))


def config_given(context: click.Context) -> Path | None:
    """Return the file with profiles that was given with ``--config``; None if it was the user's own."""
    path = config_path(context)
    return None if path == user_config_path() else path


def _warn_of_plaintext(endpoint: Endpoint) -> None:
    from scistream.config import is_loopback

    if not is_loopback(endpoint.host):
        logger.warning("calls to %s are not encrypted: whoever is on the way reads the token", endpoint)


def find_facilities(
    context: click.Context,
    texts: Sequence[str],
    certificates: Sequence[Path],
    token_files: Sequence[Path],
    *,
    default_certificate: Path | None = None,
) -> list[Facility]:
    """Return several facilities; certificates and token files are one for all, or one for each in order."""
    for what, values in (("--certificate", certificates), ("--token-file", token_files)):
        if len(values) not in {0, 1, len(texts)}:
            raise click.UsageError(f"{what} is given {len(values)} times for {len(texts)} control servers")
    return [
        find_facility(
            context,
            text,
            certificate=certificate,
            token_file=token_file,
            default_certificate=default_certificate,
        )
        for text, certificate, token_file in zip(
            texts, _spread(certificates, len(texts)), _spread(token_files, len(texts)), strict=True
        )
    ]


def find_servers(context: click.Context, given: Sequence[str]) -> tuple[str, ...]:
    """Return the control servers that are meant: those `given`, or all profiles, or the one on this machine.

    Raises
    ------
    ConfigurationError
        The configuration file cannot be used.
    """
    return tuple(given or config_table(context, "facilities") or (LOCAL_SERVER,))


def find_address(context: click.Context, text: str) -> Endpoint:
    """Return where the control server `text` (``host:port``, or the name of a profile) serves.

    Raises
    ------
    ConfigurationError
        There is no such profile, or it cannot be used.
    """
    address = _profile(context, text).get("address", text)
    if address.startswith(PLAINTEXT):
        raise ConfigurationError(f"{address} serves without TLS: it shows no certificate to trust")
    return Endpoint.parse(address)


def _trusted(
    context: click.Context, name: str, profile: Mapping[str, str], endpoint: Endpoint
) -> bytes | None:
    """Return the server's certificate by its profile, or by what the user has trusted before."""
    from scistream.client.handshake import ask_certificate
    from scistream.client.known_servers import find_known_server, fingerprint, parse_fingerprint

    if "fingerprint" not in profile:
        if "certificate" in profile:
            return read_certificate(_path(context, profile["certificate"]))
        return find_known_server(endpoint)
    wanted = parse_fingerprint(profile["fingerprint"])
    if "certificate" in profile:
        certificate_pem = read_certificate(_path(context, profile["certificate"]))
        if fingerprint(certificate_pem) != wanted:
            raise ConfigurationError(
                f"[facilities.{name}] the certificate {profile['certificate']} has the fingerprint "
                f"{fingerprint(certificate_pem)}, not {wanted}; keep only the right one of the two"
            )
        return certificate_pem
    certificate_pem = asyncio.run(ask_certificate(endpoint, timeout_s=_ASK_TIMEOUT_S))
    if fingerprint(certificate_pem) != wanted:
        raise AuthenticationError(
            f"control server {endpoint} shows a certificate with the fingerprint "
            f"{fingerprint(certificate_pem)}, and [facilities.{name}] expects {wanted}. Somebody may be in "
            "between: ask its operator; if the certificate was changed there, change the profile"
        )
    return certificate_pem


def _path(context: click.Context, text: str) -> Path:
    """Return the file that a profile names; relative paths start from the configuration file's directory."""
    file = config_path(context)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"{text} cannot be found: {error}") from error
    return path if file is None else file.parent / path


def _spread(values: Sequence[Path], count: int) -> list[Path | None]:
    if not values:
        return [None] * count
    return [*values] * (count if len(values) == 1 else 1)


def _profile(context: click.Context, name: str) -> Mapping[str, str]:
    profiles = config_table(context, "facilities")
    profile: Any = profiles.get(name)
    if profile is None:
        if ":" not in name:
            raise ConfigurationError(
                f"{name!r} is neither HOST:PORT nor a profile; {_where_profiles_are(context, profiles)}; "
                f'a profile is a table [facilities.{name}] with address = "HOST:PORT", '
                'certificate = "FILE.crt" (or fingerprint = "SHA-256"), token_file = "FILE.token"'
            )
        return {}
    if not isinstance(profile, dict):
        raise ConfigurationError(f"[facilities] {name} has to be a table: [facilities.{name}]")
    for key, value in profile.items():
        if key not in _KEYS or not isinstance(value, str):
            raise ConfigurationError(
                f"[facilities.{name}] {key} = {value!r}: known are {', '.join(sorted(_KEYS))}, each a text"
            )
    if "address" not in profile:
        raise ConfigurationError(f"[facilities.{name}] has no address")
    return profile


def _where_profiles_are(context: click.Context, profiles: Mapping[str, Any]) -> str:
    file = config_path(context)
    if file is not None:
        return f"profiles in {file}: {', '.join(sorted(profiles)) or 'none'}"
    own = user_config_path()
    return f"no file with profiles was read: {f'there is no {own}, and ' if own else ''}no --config FILE"


def read_certificate(path: Path) -> bytes:
    """Return the certificate in `path`, or several (PEM).

    Raises
    ------
    ConfigurationError
        The file cannot be read, or is no PEM certificate.
    """
    from scistream.client.handshake import check_pem

    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    check_pem(pem, str(path))
    return pem
