"""The keys that an OpenID provider signs with, kept up to date as it changes them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from scistream.auth.provider import Provider
from scistream.errors import PeerError

if TYPE_CHECKING:
    from joserfc.jwk import Key

logger = logging.getLogger(__name__)

# Signatures by public keys only: with a shared secret whoever verifies could sign.
ALGORITHMS = (
    "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519".split()  # noqa: SIM905
)

# Keys are fetched anew after this time: one that is taken back is not believed for longer.
_KEYS_S = 300.0
# An unknown key is looked for this often at most, whoever asks.
_REFRESH_S = 10.0
_TIMEOUT_S = 3.0


class ProviderKeys:
    """The public keys of a provider, kept up to date.

    Parameters
    ----------
    provider : Provider
        Whose they are.
    max_age_s, refresh_s : float
        After how long they are fetched anew; how long after a fetch an unknown key starts another one.
    """

    def __init__(
        self, provider: Provider, *, max_age_s: float = _KEYS_S, refresh_s: float = _REFRESH_S
    ) -> None:
        self._provider = provider
        self._max_age_s, self._refresh_s = max_age_s, refresh_s
        self._keys: list[Key] = []
        self._fetched_s = self._tried_s = float("-inf")
        self._fetching: asyncio.Future[None] | None = None
        self._failure: PeerError | None = None

    async def find(self, key_id: object) -> list[Key]:
        """Return the keys that `key_id` may mean: all where it is None.

        Raises
        ------
        PeerError
            There are none yet, and the provider cannot be asked.
        """
        now_s = time.monotonic()
        found = self._named(key_id)
        outdated = now_s > self._fetched_s + self._max_age_s
        if (outdated or not found) and (
            now_s > self._tried_s + self._refresh_s or self._fetching is not None
        ):
            await self._fetch()
            found = self._named(key_id)
        if not self._keys and self._failure is not None:
            raise self._failure
        return found

    def _named(self, key_id: object) -> list[Key]:
        return self._keys if key_id is None else [key for key in self._keys if key.kid == key_id]

    async def _fetch(self) -> None:
        """Fetch the keys, once for all who want them; those known stay where that fails."""
        if self._fetching is None:
            self._tried_s = time.monotonic()
            self._fetching = asyncio.ensure_future(asyncio.to_thread(self._fetch_now))
            self._fetching.add_done_callback(self._fetched)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.shield(self._fetching)
        except TimeoutError:
            self._failure = PeerError(
                f"the provider {self._provider.issuer} did not answer within {_TIMEOUT_S:g} s; ask again"
            )

    def _fetched(self, done: asyncio.Future[None]) -> None:
        self._fetching = None
        if not done.cancelled():
            done.exception()

    def _fetch_now(self) -> None:
        from joserfc.errors import JoseError
        from joserfc.jwk import import_key

        try:
            published = self._provider.published_keys()
        except PeerError as error:
            self._failure = error
            if self._keys:
                logger.warning("%s; its keys are taken as they were", error)
            return
        keys = []
        for one in published:
            if one.get("use", "sig") != "sig" or one.get("kty") == "oct":
                continue
            try:
                keys.append(import_key(one))
            except (JoseError, ValueError, TypeError) as error:
                logger.warning("a key of %s cannot be read (%s)", self._provider.issuer, type(error).__name__)
        self._keys, self._failure = keys, None
        self._fetched_s = time.monotonic()
