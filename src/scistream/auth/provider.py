"""An OpenID provider over HTTPS: what it publishes of itself, its keys, and its word on a token.

Everything blocks, and everything is bounded: time, size, redirects (none). Who calls this does so in a
thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scistream.config import is_loopback
from scistream.errors import ConfigurationError, PeerError

if TYPE_CHECKING:
    import requests

# Metadata and key sets are well below this.
_MAX_BYTES = 1 << 20
_METADATA_S = 3600.0
_TIMEOUT_S = 2.5

OIDC_EXTRA = "type: pip install 'ministream[oidc]'"


def check_url(url: str, what: str) -> str:
    """Return `url`, which is one that secrets may be sent to: https, or http to this machine.

    Raises
    ------
    ConfigurationError
        It is not.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname and is_loopback(parts.hostname):
        return url
    raise ConfigurationError(f"{what} {url!r} is no https address")


class Provider:
    """One OpenID provider.

    Parameters
    ----------
    issuer : str
        Its name, which is the address that its metadata are found below.
    ca : Path or None
        Authorities (PEM) of its certificate; None: those that this machine trusts.
    timeout_s : float
        For each call, all of it.

    Raises
    ------
    ConfigurationError
        `issuer` is no https address (http: on this machine only), `ca` is not there, or what is needed is
        not installed.
    """

    def __init__(self, issuer: str, *, ca: Path | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        try:
            import requests  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(f"OpenID Connect needs the extra 'oidc'; {OIDC_EXTRA}") from error
        self.issuer = check_url(issuer, "the issuer")
        if ca is not None and not ca.is_file():
            raise ConfigurationError(f"{ca} (authorities of {issuer}) is not there")
        self._verify = True if ca is None else str(ca)
        self._timeout_s = timeout_s
        self._sessions = threading.local()
        self._metadata: tuple[float, Mapping[str, Any]] | None = None

    def metadata(self) -> Mapping[str, Any]:
        """Return what the provider publishes of itself (OpenID Connect Discovery 1.0).

        Raises
        ------
        PeerError
            It cannot be reached, or calls itself otherwise.
        """
        known = self._metadata
        if known is not None and time.monotonic() < known[0] + _METADATA_S:
            return known[1]
        found = self._get(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != self.issuer:
            raise PeerError(
                f"the provider at {self.issuer} calls itself {found.get('issuer')!r}; the issuer has to be "
                "written exactly so"
            )
        self._metadata = (time.monotonic(), found)
        return found

    def endpoint(self, name: str) -> str:
        """Return the address of one of its endpoints, such as ``token_endpoint``.

        Raises
        ------
        PeerError
            It has none, or cannot be asked.
        """
        address = self.metadata().get(name)
        if not isinstance(address, str):
            raise PeerError(f"{self.issuer} has no {name}")
        try:
            return check_url(address, f"the {name} of {self.issuer}")
        except ConfigurationError as error:
            raise PeerError(str(error)) from error

    def published_keys(self) -> list[dict[str, Any]]:
        """Return its public keys, as JSON web keys.

        Raises
        ------
        PeerError
            It cannot be asked, or answers something else.
        """
        keys = self._get(self.endpoint("jwks_uri")).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise PeerError(f"what {self.issuer} publishes as its keys are none")
        return keys

    def introspect(self, token: str, client_id: str, client_secret: str) -> Mapping[str, Any]:
        """Return its word on `token` (RFC 7662).

        Raises
        ------
        PeerError
            It cannot be asked, or does not let us ask.
        """
        return self._ask(
            "POST",
            self.endpoint("introspection_endpoint"),
            data={"token": token, "token_type_hint": "access_token"},
            auth=(client_id, client_secret),
        )

    def _get(self, address: str) -> Mapping[str, Any]:
        return self._ask("GET", address)

    def _ask(self, method: str, address: str, **more: Any) -> Mapping[str, Any]:
        import requests

        deadline_s = time.monotonic() + self._timeout_s
        try:
            with self._session().request(
                method,
                address,
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
                verify=self._verify,
                headers={"Accept": "application/json"},
                **more,
            ) as response:
                body = _read(response, deadline_s)
                status = response.status_code
        except (requests.RequestException, OSError, ValueError) as error:
            # its text may hold what was sent: the kind says enough
            raise PeerError(
                f"the provider {self.issuer} cannot be asked ({type(error).__name__}); ask again later"
            ) from error
        if status in {401, 403}:
            raise PeerError(
                f"the provider {self.issuer} does not let this gateway ask (HTTP {status}); its operator has "
                "to look at client id and secret"
            )
        if status != 200:
            raise PeerError(f"the provider {self.issuer} answers with HTTP {status}; ask again later")
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise PeerError(f"the provider {self.issuer} does not answer with JSON") from error
        if not isinstance(answer, dict):
            raise PeerError(f"the provider {self.issuer} does not answer with a JSON object")
        return answer

    def _session(self) -> requests.Session:
        """Return this thread's session: one is not made for several threads at once."""
        import requests

        session: requests.Session | None = getattr(self._sessions, "one", None)
        if session is None:
            session = self._sessions.one = requests.Session()
        return session


def _read(response: requests.Response, deadline_s: float) -> bytes:
    """Return the body; one that is too long, or comes too slowly, is an error."""
    body = b""
    while piece := response.raw.read1(65_536, decode_content=True):
        body += piece
        if len(body) > _MAX_BYTES:
            raise ValueError("too long")
        if time.monotonic() > deadline_s:
            raise TimeoutError
    return body
