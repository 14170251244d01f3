"""Asks a provider about tokens: off the event loop, a few at a time, each once, and remembers the answers.

What is bounded: the time that a caller waits, the calls that run at once, the tokens that wait, the answers
that are remembered. A provider that is away stops nobody whose token it has confirmed before: such an answer
holds, beyond its freshness, until the token itself expires. It cannot be withdrawn in that time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from scistream.auth.base import Credentials, Principal, check_token, not_known
from scistream.errors import AuthenticationError, PeerError

logger = logging.getLogger(__name__)

#: An answer is this fresh at most: a token that is withdrawn is refused after that, in s.
FRESH_S = 30.0
# That a token is not known is remembered too, so that guesses cost the provider little.
_UNKNOWN_S = 5.0
# A provider that did not answer is not asked again about what is remembered, for so long.
_AWAY_S = 5.0
# One that let somebody wait for longer than this is not asked about anything for so long: another
# authenticator may know who is asking, and has its time.
_SLOW_S = 1.0
# Below the 4 s that a control server waits for all authenticators together.
_TIMEOUT_S = 3.0
_CONCURRENT = 8
_MOST_WAITING = 256
_MOST_REMEMBERED = 10_000
_MOST_UNKNOWN = 1_000


@dataclass(frozen=True, slots=True)
class _Answer:
    principal: Principal
    fresh_until_s: float
    """By the monotonic clock."""


class ProviderLookups:
    """Finds the holders of tokens by asking a provider.

    Parameters
    ----------
    provider : str
        What it is called in messages.
    ask : callable
        Takes a token, blocks, and returns its holder; None where the provider does not know the token or it
        is not meant for us. Raises `PeerError` where the provider fails. Its own time-outs bound the threads.
    timeout_s, fresh_s : float
        How long a caller waits at most; how long an answer holds without asking again.
    """

    def __init__(
        self,
        provider: str,
        ask: Callable[[str], Principal | None],
        *,
        timeout_s: float = _TIMEOUT_S,
        fresh_s: float = FRESH_S,
    ) -> None:
        self._provider = provider
        self._ask = ask
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._executor = ThreadPoolExecutor(_CONCURRENT, thread_name_prefix="authenticate")
        self._known: OrderedDict[bytes, _Answer] = OrderedDict()
        self._unknown_until_s: OrderedDict[bytes, float] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[Principal | None]] = {}
        self._away_until_s = self._silent_until_s = 0.0

    async def find(self, credentials: Credentials) -> Principal:
        """Return who holds the token.

        Raises
        ------
        AuthenticationError
            There is no token, the provider does not know it, or it has expired.
        PeerError
            The provider does not answer in time, fails, or is asked about too many others just now.
        """
        token = check_token(credentials)
        key = hashlib.sha256(token.encode()).digest()
        now_s = time.monotonic()
        if self._unknown_until_s.get(key, 0.0) > now_s:
            raise not_known(credentials)
        answer = self._known.get(key)
        if answer is not None:
            _check_unexpired(answer.principal, credentials)
            if now_s < max(answer.fresh_until_s, self._away_until_s):
                return answer.principal
        try:
            principal = await self._shared(key, token)
        except PeerError as error:
            failed_s = time.monotonic()
            self._away_until_s = failed_s + _AWAY_S
            if failed_s - now_s > _SLOW_S:
                self._silent_until_s = failed_s + _AWAY_S
            if answer is None:
                raise
            logger.warning("%s; %s is taken for known as before", error, answer.principal.name)
            return answer.principal
        if principal is None:
            raise not_known(credentials)
        _check_unexpired(principal, credentials)
        return principal

    async def close(self) -> None:
        """Ask no more. Calls that run end by their own time-outs. Idempotent."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _shared(self, key: bytes, token: str) -> Principal | None:
        """Ask, or wait for the answer that somebody else with the same token waits for."""
        asked = self._asked.get(key)
        if asked is None:
            if time.monotonic() < self._silent_until_s:
                raise PeerError(f"{self._provider} does not answer; ask again")
            if len(self._asked) >= _MOST_WAITING:
                raise PeerError(f"{self._provider} is asked about too many tokens at once; ask again")
            asked = asyncio.ensure_future(self._ask_and_remember(key, token))
            self._asked[key] = asked
            asked.add_done_callback(lambda done: self._forget_asked(key, done))
        return await asyncio.shield(asked)

    async def _ask_and_remember(self, key: bytes, token: str) -> Principal | None:
        loop = asyncio.get_running_loop()
        try:
            # a question that no thread has taken up by then is not asked any more
            async with asyncio.timeout(self._timeout_s):
                principal = await loop.run_in_executor(self._executor, self._ask, token)
        except TimeoutError as error:
            raise PeerError(
                f"{self._provider} did not answer within {self._timeout_s:g} s; ask again"
            ) from error
        now_s = time.monotonic()
        self._away_until_s = self._silent_until_s = 0.0
        if principal is None:
            self._known.pop(key, None)
            self._unknown_until_s[key] = now_s + _UNKNOWN_S
            _trim(self._unknown_until_s, _MOST_UNKNOWN)
        else:
            self._known[key] = _Answer(principal, now_s + self._fresh_s)
            self._known.move_to_end(key)
            _trim(self._known, _MOST_REMEMBERED)
        return principal

    def _forget_asked(self, key: bytes, done: asyncio.Future[Principal | None]) -> None:
        self._asked.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has it; nobody may wait any more


def _check_unexpired(principal: Principal, credentials: Credentials) -> None:
    if principal.expires_at is not None and principal.expires_at <= time.time():
        raise AuthenticationError(
            f"the token of the call from {credentials.peer} has expired; log in again (s2uc login)"
        )


def _trim(remembered: OrderedDict[bytes, Any], most: int) -> None:
    while len(remembered) > most:
        remembered.popitem(last=False)
