"""Several authenticators at one control server.

Each is asked that recognises the form of the credentials: first those that need nobody else, so that a token
of this gateway is never shown to a provider; then the others, in the operator's order. Who is known to none
is told so in one sentence for all: which ones there are is nobody's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from scistream.auth.base import Authenticator, Credentials, Principal, check_token, not_known
from scistream.auth.registry import load_authenticator
from scistream.errors import AuthenticationError, ConfigurationError, PeerError

logger = logging.getLogger(__name__)


class Chain(Authenticator):
    """Knows whom one of `authenticators` knows.

    Raises
    ------
    ConfigurationError
        There is none; or one takes anybody, so that the others would be for nothing.
    """

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        if not authenticators:
            raise ConfigurationError("who may use this gateway is not said")
        self.authenticators = tuple(sorted(authenticators, key=lambda one: one.asks_provider))
        self.proves_identity = all(one.proves_identity for one in authenticators)
        if not self.proves_identity and len(authenticators) > 1:
            raise ConfigurationError(
                "authenticator 'none' takes anybody: it cannot stand beside others; leave it or them out"
            )
        self.client_authorities = next(
            (one.client_authorities for one in authenticators if one.client_authorities), None
        )
        self.asks_provider = any(one.asks_provider for one in authenticators)

    @property
    def takes_tokens(self) -> bool:
        """Whether callers can be known without a client certificate."""
        return any(one.client_authorities is None for one in self.authenticators)

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Chain:
        """Refuse: a chain is made of authenticators, by `load_chain`.

        Raises
        ------
        ConfigurationError
            Always.
        """
        raise ConfigurationError(f"several authenticators have no settings of their own: {sorted(settings)}")

    def recognises(self, credentials: Credentials) -> bool:
        """Return whether one of them does."""
        return any(one.recognises(credentials) for one in self.authenticators)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return who holds `credentials`, by the first authenticator that knows.

        Raises
        ------
        AuthenticationError
            None of them does.
        PeerError
            One that could have known cannot ask its provider, and no other knows.
        """
        if credentials.token or credentials.certificate is None:
            if not self.proves_identity:
                return await self.authenticators[0].authenticate(credentials)
            check_token(credentials)
        unreachable: PeerError | None = None
        refused: list[AuthenticationError] = []
        for one in self.authenticators:
            if not one.recognises(credentials):
                continue
            try:
                return await one.authenticate(credentials)
            except AuthenticationError as error:
                logger.debug("%s: %s", type(one).__name__, error)
                refused.append(error)
            except PeerError as error:
                unreachable = unreachable or error
        if unreachable is not None:
            raise unreachable
        if len(self.authenticators) == 1 and refused:
            raise refused[0]
        raise not_known(credentials)

    async def close(self) -> None:
        """Close them all."""
        await asyncio.gather(*(one.close() for one in self.authenticators))


def load_chain(wanted: Mapping[str, Mapping[str, str]]) -> Chain:
    """Return the authenticators named in `wanted`, each with its settings, as one.

    Raises
    ------
    ConfigurationError
        One is not installed or does not like its settings, there is none, or they do not go together.
    """
    return Chain([load_authenticator(name, settings) for name, settings in wanted.items()])
