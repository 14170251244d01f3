"""The authenticator ``oidc``: access tokens of any OpenID provider.

A signed token (JWT, RFC 9068) is verified here, by the keys that the provider publishes: nobody is asked, and
it holds until it expires. Any other one the provider is asked about (RFC 7662), if this gateway is registered
there; with ``introspect`` also signed ones, so that one that is withdrawn is refused soon.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scistream.auth.base import (
    OWN_TOKEN_PREFIX,
    Authenticator,
    Credentials,
    Principal,
    check_token,
    not_known,
)
from scistream.auth.claims import has_audience, has_scope, read_principal
from scistream.auth.lookups import ProviderLookups
from scistream.auth.provider import OIDC_EXTRA, Provider
from scistream.auth.provider_keys import ALGORITHMS, ProviderKeys
from scistream.auth.settings import check_names, read_secret, required
from scistream.errors import AuthenticationError, ConfigurationError

logger = logging.getLogger(__name__)

_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

# Clocks of provider and gateway may differ by this much.
_LEEWAY_S = 10


class OpenIDConnect(Authenticator):
    """Knows the holders of a provider's access tokens that are meant for this service.

    Parameters
    ----------
    provider : Provider
        Who has made them.
    audience : str
        Whom they have to be meant for.
    scope : str
        What they have to be good for; "" where that is not asked.
    client : (str, str) or None
        Client id and secret to ask the provider with; None: only signed tokens are known.
    introspect : bool
        Ask about signed tokens too.
    keys : ProviderKeys, optional
        Instead of those with the usual times.
    lookups : ProviderLookups, optional
        Likewise.
    """

    asks_provider = True

    def __init__(
        self,
        provider: Provider,
        *,
        audience: str,
        scope: str = "",
        client: tuple[str, str] | None = None,
        introspect: bool = False,
        keys: ProviderKeys | None = None,
        lookups: ProviderLookups | None = None,
    ) -> None:
        try:
            import joserfc  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(f"authenticator 'oidc' needs the extra 'oidc'; {OIDC_EXTRA}") from error
        if introspect and client is None:
            raise ConfigurationError(
                "to ask the provider about every token, authenticator 'oidc' needs client id and secret "
                "(--oidc-client-id, --oidc-client-secret-file)"
            )
        self._provider = provider
        self._audience, self._scope = audience, scope
        self._client, self._introspects = client, introspect
        self._keys = keys or ProviderKeys(provider)
        self._lookups = lookups or ProviderLookups(f"the provider {provider.issuer}", self.ask)

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> OpenIDConnect:
        """Return an authenticator for the provider that the setting ``issuer`` names.

        Raises
        ------
        ConfigurationError
            A setting is missing, unknown or unusable, or what is needed is not installed.
        """
        known = {"issuer", "audience", "scope", "client_id", "client_secret", "client_secret_file"}
        check_names("oidc", settings, known | {"introspect", "ca"})
        issuer = required("oidc", settings, "issuer", "--oidc-issuer URL")
        audience = required("oidc", settings, "audience", "--oidc-audience NAME")
        client = None
        if client_id := settings.get("client_id"):
            client = (client_id, read_secret("oidc", settings, "--oidc-client-secret-file FILE"))
        elif settings.keys() & {"client_secret", "client_secret_file"}:
            raise ConfigurationError("authenticator 'oidc': a client secret needs a client id")
        return cls(
            Provider(issuer, ca=Path(settings["ca"]) if settings.get("ca") else None),
            audience=audience,
            scope=settings.get("scope", ""),
            client=client,
            introspect=settings.get("introspect", "false") == "true",
        )

    def recognises(self, credentials: Credentials) -> bool:
        """Return whether there is a token that can be verified, or asked about."""
        token = credentials.token
        if not token or token.startswith(OWN_TOKEN_PREFIX):
            return False
        return self._client is not None or _JWT.fullmatch(token) is not None

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return who holds the token.

        Raises
        ------
        AuthenticationError
            It was not made by the provider, not for us, without the scope, or has expired or been withdrawn.
        PeerError
            The provider cannot be asked.
        """
        token = check_token(credentials)
        if not self.recognises(credentials):
            raise not_known(credentials)
        if self._introspects or _JWT.fullmatch(token) is None:
            return await self._lookups.find(credentials)
        return await self._verify(token, credentials)

    async def close(self) -> None:
        """Ask no more."""
        await self._lookups.close()

    def ask(self, token: str) -> Principal | None:
        """Ask the provider about `token`; return its holder, None where it is not good here. Blocks.

        Raises
        ------
        PeerError
            The provider cannot be asked.
        """
        if self._client is None:
            return None
        answer = self._provider.introspect(token, *self._client)
        # a refresh token is active too; only of an access token it is said that it is one
        if answer.get("active") is not True or not _ACCESS.intersection(
            (answer.get("token_type"), answer.get("typ"))
        ):
            return None
        if answer.get("iss", self._provider.issuer) != self._provider.issuer:
            return None
        return self._accepted(answer)

    async def _verify(self, token: str, credentials: Credentials) -> Principal:
        from joserfc import jws, jwt
        from joserfc.errors import ExpiredTokenError, JoseError

        refused: AuthenticationError = not_known(credentials)
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError) as error:
            raise refused from error
        if header.get("alg") not in ALGORITHMS:
            raise refused
        for key in await self._keys.find(header.get("kid")):
            try:
                claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
                jwt.JWTClaimsRegistry(
                    leeway=_LEEWAY_S,
                    iss={"essential": True, "value": self._provider.issuer},
                    exp={"essential": True},
                ).validate(claims)
            except ExpiredTokenError as error:
                raise AuthenticationError(
                    f"the token of the call from {credentials.peer} has expired; log in again (s2uc login)"
                ) from error
            except (JoseError, ValueError, TypeError) as error:
                logger.debug("a token from %s: %s", credentials.peer, type(error).__name__)
                continue
            if (principal := self._accepted(claims)) is not None:
                return principal
        raise refused

    def _accepted(self, claims: Mapping[str, Any]) -> Principal | None:
        """Return whom `claims` name, if they are meant for us and good for what is wanted."""
        if not has_audience(claims, self._audience) or not has_scope(claims, self._scope):
            return None
        return read_principal(claims, self._provider.issuer)


_ACCESS = {"Bearer", "bearer", "access_token"}
