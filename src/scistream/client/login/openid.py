"""Logins by any OpenID provider: authorisation code with PKCE (RFC 7636), or device code (RFC 8628)."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from scistream.auth.claims import is_text
from scistream.auth.provider import OIDC_EXTRA, Provider
from scistream.client.login.identity import read_identity
from scistream.client.login.settings import LoginSettings
from scistream.client.login.store import Login
from scistream.errors import AuthenticationError, ConfigurationError, DeadlineExceeded, PeerError

_TIMEOUT_S = 10.0
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# RFC 8628: without a word of the provider, and more of it each time it asks for that.
_INTERVAL_S = 5.0
_SLOWER_S = 5.0
# Where the provider does not say how long a token lasts.
_LIFETIME_S = 300.0


@dataclass(frozen=True, slots=True)
class Begun:
    """A login that a browser has to go on with.

    Parameters
    ----------
    url : str
        Where it begins.
    redirect_uri : str
        Where the browser is sent afterwards.
    state, nonce, verifier : str
        What has to come back, in the answer and in the identity token, and what proves that it is ours.
    """

    url: str
    redirect_uri: str
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """A login that a browser elsewhere has to go on with.

    Parameters
    ----------
    url : str
        Where the person goes, with any browser.
    code : str
        What they type there.
    complete_url : str
        Both in one; "" where the provider has none.
    """

    url: str
    code: str
    complete_url: str
    device_code: str = field(repr=False)
    interval_s: float
    deadline_s: float
    """By the monotonic clock."""


class OpenIDLogin:
    """Logs in by the provider of `settings`. Everything blocks, bounded in time.

    Parameters
    ----------
    settings : LoginSettings
        What the login is for.

    Raises
    ------
    ConfigurationError
        The issuer is no https address, or what is needed is not installed.
    """

    def __init__(self, settings: LoginSettings) -> None:
        try:
            import authlib  # noqa: F401
            import joserfc  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                f"logging in by OpenID Connect needs the extra 'oidc'; {OIDC_EXTRA}"
            ) from error
        self._settings = settings
        self._provider = Provider(
            settings.issuer, ca=Path(settings.ca) if settings.ca else None, timeout_s=_TIMEOUT_S
        )

    @property
    def has_device_flow(self) -> bool:
        """Whether the provider lets a browser on another machine go on."""
        return "device_authorization_endpoint" in self._provider.metadata()

    def begin(self, redirect_uri: str) -> Begun:
        """Begin a login in a browser, which is sent to `redirect_uri` when it is through.

        Raises
        ------
        PeerError
            The provider cannot be asked.
        """
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        more = {"nonce": nonce, **self._resource()}
        if "offline_access" in self._settings.scope.split():
            more["prompt"] = "consent"  # OpenID Connect Core, 11: else the provider ignores that scope
        url, state = self._session(redirect_uri).create_authorization_url(
            self._provider.endpoint("authorization_endpoint"), code_verifier=verifier, **more
        )
        return Begun(url, redirect_uri, state, nonce, verifier)

    def finish(self, begun: Begun, answer: str) -> Login:
        """Return the login that `answer` completes: where the browser was sent, or the code alone.

        Raises
        ------
        AuthenticationError
            It was refused, or does not belong to what was begun.
        PeerError
            The provider cannot be asked.
        """
        code = answer.strip()
        if "://" in code or "code=" in code:
            code = self._read_answer(begun, code)
        tokens = self._fetch(begun.redirect_uri, code=code, code_verifier=begun.verifier, **self._resource())
        return self._login(tokens, begun.nonce)

    def begin_device(self) -> DeviceLogin:
        """Begin a login in a browser elsewhere.

        Raises
        ------
        ConfigurationError
            The provider has no such thing.
        PeerError
            It cannot be asked.
        """
        if not self.has_device_flow:
            raise ConfigurationError(
                f"{self._settings.issuer} has no login for hosts without browser; use --how paste"
            )
        answer = self._post(
            self._provider.endpoint("device_authorization_endpoint"),
            {"client_id": self._settings.client_id, "scope": self._settings.scope, **self._resource()},
        )
        try:
            return DeviceLogin(
                url=str(answer["verification_uri"]),
                code=str(answer["user_code"]),
                complete_url=str(answer.get("verification_uri_complete", "")),
                device_code=str(answer["device_code"]),
                interval_s=float(answer.get("interval", _INTERVAL_S)),
                deadline_s=time.monotonic() + float(answer.get("expires_in", _LIFETIME_S)),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise PeerError(f"{self._settings.issuer} does not answer as RFC 8628 says") from error

    def finish_device(
        self, begun: DeviceLogin, *, timeout_s: float = math.inf, wait: Callable[[float], None] = time.sleep
    ) -> Login:
        """Return the login when the person has allowed it.

        Parameters
        ----------
        timeout_s : float
            How long to wait at most, beside what the provider says.
        wait : callable
            Waits a number of seconds before the provider is asked again.

        Raises
        ------
        AuthenticationError
            The person has refused.
        DeadlineExceeded
            Nobody came in time.
        PeerError
            The provider cannot be asked.
        """
        interval_s = begun.interval_s
        deadline_s = min(begun.deadline_s, time.monotonic() + timeout_s)
        while time.monotonic() < deadline_s:
            wait(interval_s)
            try:
                return self._login(self._fetch(None, grant_type=_DEVICE_GRANT, device_code=begun.device_code))
            except _NotYetError as not_yet:
                interval_s += _SLOWER_S if not_yet.slower else 0.0
        raise DeadlineExceeded("nobody has entered the code in time; log in again (s2uc login)")

    def refresh(self, login: Login) -> Login:
        """Return `login` with a new access token.

        Raises
        ------
        AuthenticationError
            The login is over.
        PeerError
            The provider cannot be asked.
        """
        tokens = self._fetch(
            None, grant_type="refresh_token", refresh_token=login.refresh_token, **self._resource()
        )
        return Login(
            settings=login.settings,
            username=login.username,
            access_token=str(tokens["access_token"]),
            # one that is not replaced goes on
            refresh_token=str(tokens.get("refresh_token") or login.refresh_token),
            expires_at=_expiry(tokens),
        )

    def revoke(self, login: Login) -> None:
        """Withdraw the tokens of `login` (RFC 7009); an access token that is signed holds until it expires.

        Raises
        ------
        PeerError
            The provider cannot be asked, or cannot withdraw tokens.
        """
        address = self._provider.endpoint("revocation_endpoint")
        tokens = [("refresh_token", login.refresh_token), ("access_token", login.access_token)]
        for hint, token in tokens:
            if token:
                self._post(
                    address,
                    {"client_id": self._settings.client_id, "token": token, "token_type_hint": hint},
                    # RFC 7009, 2.2.1: it may be that it cannot withdraw this kind; then it expires
                    may_refuse=hint == "access_token",
                )

    # --- the provider -------------------------------------------------------------------------------------

    def _read_answer(self, begun: Begun, answer: str) -> str:
        """Return the code that the browser was sent away with."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(answer).query or answer).items()}
        if query.get("state") != begun.state:
            raise AuthenticationError(
                "what came back does not belong to this login; log in again (s2uc login)"
            )
        if "error" in query:
            raise AuthenticationError(
                f"{self._settings.issuer} refuses the login: {_shown(query['error'])} "
                f"{_shown(query.get('error_description', ''))}".rstrip()
            )
        # RFC 9207: an answer of another provider than the one that was asked
        if query.get("iss", self._settings.issuer) != self._settings.issuer or "code" not in query:
            raise AuthenticationError(
                "what came back is no answer of the provider; log in again (s2uc login)"
            )
        return query["code"]

    def _session(self, redirect_uri: str | None = None) -> Any:
        from authlib.integrations.requests_client import OAuth2Session

        session = OAuth2Session(
            self._settings.client_id,
            token_endpoint_auth_method="none",  # noqa: S106 - a method, no password
            scope=self._settings.scope,
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT_S,
        )
        if self._settings.ca:
            session.verify = self._settings.ca
        return session

    def _fetch(self, redirect_uri: str | None, **values: str) -> Mapping[str, Any]:
        """Ask the token endpoint."""
        import requests
        from authlib.integrations.base_client import OAuthError

        session = self._session(redirect_uri)
        try:
            with session:
                tokens: Mapping[str, Any] = session.fetch_token(
                    self._provider.endpoint("token_endpoint"), allow_redirects=False, **values
                )
        except OAuthError as error:
            if error.error in {"authorization_pending", "slow_down"}:
                raise _NotYetError(slower=error.error == "slow_down") from None
            if error.error == "expired_token":
                raise DeadlineExceeded("nobody has entered the code in time; log in again") from None
            raise AuthenticationError(
                f"{self._settings.issuer} refuses: {_shown(error.error)} {_shown(error.description)}".rstrip()
            ) from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise PeerError(
                f"{self._settings.issuer} cannot be asked ({type(error).__name__}); check the network"
            ) from None
        if not is_text(tokens.get("access_token")):
            raise PeerError(f"{self._settings.issuer} does not answer with a token")
        return tokens

    def _post(
        self, address: str, values: Mapping[str, str], *, may_refuse: bool = False
    ) -> Mapping[str, Any]:
        import requests

        try:
            with requests.post(
                address,
                data=dict(values),
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                verify=self._settings.ca or True,
            ) as response:
                answer = response.json() if response.content else {}
        except (requests.RequestException, OSError, ValueError) as error:
            raise PeerError(
                f"{self._settings.issuer} cannot be asked ({type(error).__name__}); check the network"
            ) from None
        if not isinstance(answer, dict):
            answer = {}
        if not response.ok and not may_refuse:
            raise PeerError(
                f"{self._settings.issuer} refuses: {_shown(answer.get('error', response.status_code))} "
                f"{_shown(answer.get('error_description', ''))}".rstrip()
            )
        return answer

    def _resource(self) -> dict[str, str]:
        return {"resource": self._settings.resource} if self._settings.resource else {}

    def _login(self, tokens: Mapping[str, Any], nonce: str | None = None) -> Login:
        claims = read_identity(
            tokens.get("id_token"), self._provider, client_id=self._settings.client_id, nonce=nonce
        )
        names = (claims.get(name) for name in ("preferred_username", "email", "sub"))
        return Login(
            settings=self._settings,
            username=next((name for name in names if is_text(name)), ""),
            access_token=str(tokens["access_token"]),
            refresh_token=str(tokens.get("refresh_token") or ""),
            expires_at=_expiry(tokens),
        )


class _NotYetError(Exception):
    """Nobody has entered the code yet."""

    def __init__(self, *, slower: bool) -> None:
        super().__init__()
        self.slower = slower


def _expiry(tokens: Mapping[str, Any]) -> float:
    lasts_s = tokens.get("expires_in")
    try:
        return time.time() + (_LIFETIME_S if lasts_s is None else float(lasts_s))
    except (ValueError, TypeError):
        return time.time() + _LIFETIME_S


def _shown(text: object) -> str:
    """Return a provider's text on one line, in printable characters."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text or ""))[:300].strip()
