"""The authenticator ``globus``: access tokens of Globus Auth, for a service that is registered there.

Globus's tokens are opaque: Globus Auth is asked about each (token introspection, RFC 7662), with the
service's own client id and secret. The answer is remembered for a short time, so that a token that is
withdrawn is refused soon after.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from scistream.auth.base import OWN_TOKEN_PREFIX, Authenticator, Credentials, Principal
from scistream.auth.claims import expiry, has_audience, has_scope, is_text, texts
from scistream.auth.lookups import ProviderLookups
from scistream.auth.settings import check_names, read_secret, required
from scistream.errors import ConfigurationError, PeerError

logger = logging.getLogger(__name__)

# Less than a caller waits; the SDK's own 60 s and 5 retries would hold a thread for minutes.
_TIMEOUT_S = 2.5

_EXTRA = "type: pip install 'ministream[globus]'"


def default_scope(client_id: str) -> str:
    """Return the scope that SciStream services have by convention: ``scistream`` of their own."""
    return f"https://auth.globus.org/scopes/{client_id}/scistream"


class Globus(Authenticator):
    """Knows the holders of Globus access tokens that are meant for this service.

    Parameters
    ----------
    client_id, client_secret : str
        The service's registration with Globus Auth.
    scope : str
        What tokens have to be good for.
    lookups : ProviderLookups, optional
        Instead of those with the usual times.

    Raises
    ------
    ConfigurationError
        globus-sdk is not installed.
    """

    asks_provider = True

    def __init__(
        self, client_id: str, client_secret: str, scope: str = "", lookups: ProviderLookups | None = None
    ) -> None:
        try:
            from globus_sdk import ConfidentialAppAuthClient
            from globus_sdk.transport import RequestsTransport, RetryConfig
        except ImportError as error:
            raise ConfigurationError(f"authenticator 'globus' needs the extra 'globus'; {_EXTRA}") from error
        self._client_id = client_id
        self._scope = scope or default_scope(client_id)
        self._client = ConfidentialAppAuthClient(
            client_id,
            client_secret,
            transport=RequestsTransport(http_timeout=_TIMEOUT_S),
            retry_config=RetryConfig(max_retries=0),
        )
        self._lookups = lookups or ProviderLookups("Globus Auth", self.ask)

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Globus:
        """Return an authenticator for the registration that the settings name.

        Raises
        ------
        ConfigurationError
            A setting is missing, unknown or unusable, or globus-sdk is not installed.
        """
        check_names("globus", settings, {"client_id", "client_secret", "client_secret_file", "scope"})
        client_id = required("globus", settings, "client_id", "--client-id ID (register at app.globus.org)")
        secret = read_secret("globus", settings, "--client-secret-file FILE")
        return cls(client_id, secret, settings.get("scope", ""))

    def recognises(self, credentials: Credentials) -> bool:
        """Return whether there is a token that this gateway has not made itself."""
        token = credentials.token
        return bool(token) and not str(token).startswith(OWN_TOKEN_PREFIX)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return who holds the token.

        Raises
        ------
        AuthenticationError
            Globus does not know it; it is not for us, without the scope, or has expired.
        PeerError
            Globus Auth cannot be asked.
        """
        return await self._lookups.find(credentials)

    async def close(self) -> None:
        """Ask no more."""
        await self._lookups.close()

    def ask(self, token: str) -> Principal | None:
        """Ask Globus Auth about `token`; return its holder, None where it is not good here. Blocks.

        Raises
        ------
        PeerError
            Globus Auth cannot be asked.
        """
        from globus_sdk import AuthAPIError, GlobusSDKUsageError, NetworkError

        try:
            answer = self._client.oauth2_token_introspect(token, include="identity_set_detail").data
        except AuthAPIError as error:
            if error.http_status in {401, 403}:
                raise PeerError(
                    f"Globus Auth does not let this gateway ask (HTTP {error.http_status}); its operator has "
                    "to look at client id and secret"
                ) from None
            raise PeerError(f"Globus Auth answers with HTTP {error.http_status}; ask again later") from None
        except (NetworkError, GlobusSDKUsageError) as error:
            # its text may hold what was sent: the kind says enough
            raise PeerError(
                f"Globus Auth cannot be asked ({type(error).__name__}); ask again later"
            ) from None
        if not isinstance(answer, Mapping):
            raise PeerError("Globus Auth does not answer with a JSON object")
        return self._accepted(answer)

    def _accepted(self, answer: Mapping[str, Any]) -> Principal | None:
        subject = answer.get("sub")
        # a refresh token is active too; only of an access token it is said that it is one
        if answer.get("active") is not True or answer.get("token_type") != "Bearer":
            return None
        if not is_text(subject) or not has_audience(answer, self._client_id):
            return None
        if not has_scope(answer, self._scope):
            return None
        username = answer.get("username")
        return Principal(
            name=f"globus:{subject}",
            authenticator="globus",
            username=username if is_text(username) else str(subject),
            identities=frozenset(_identities(answer)),
            groups=frozenset(texts(answer.get("groups"))),
            expires_at=expiry(answer),
        )


def _identities(answer: Mapping[str, Any]) -> set[str]:
    """Return UUIDs and user names of all linked identities: Globus has verified that they are one's."""
    found = {str(answer["sub"]), *texts(answer.get("identity_set"))}
    if is_text(answer.get("username")):
        found.add(answer["username"])
    detailed = answer.get("identity_set_detail")
    for one in detailed if isinstance(detailed, list) else []:
        if isinstance(one, Mapping):
            found |= {one[name] for name in ("sub", "username") if is_text(one.get(name))}
    return found
