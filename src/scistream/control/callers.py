"""Who calls: a user whom an authenticator knows, or the application of one session by its own credential.

Calls under way are limited, and answers to calls that fail to prove who they are wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from scistream.auth.base import Authenticator, Credentials, Principal
from scistream.control.application_credentials import CALLS, hash_credential, is_credential
from scistream.control.crowds import Crowd, FailedAttempts, address_of
from scistream.core.events import SessionKey
from scistream.core.principal import Who
from scistream.core.session import Session
from scistream.errors import AuthenticationError, PeerError, PermissionDenied, SessionNotFound
from scistream.wire.metadata import AUTHORIZATION

# What the reference client sends when its user is not logged in.
_NO_TOKEN = "INVALID_TOKEN"  # noqa: S105 - it says that there is none

# Who asks waits no longer than 5 s, if it is the reference client.
_AUTHENTICATION_TIMEOUT_S = 4.0

#: How the audit calls the application of a session, where others have an authenticator.
APPLICATION = "application"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls.

    Parameters
    ----------
    who : Who
        The user; of an application, the owner of its session.
    known_by : str
        An authenticator, or `APPLICATION`.
    session : SessionKey or None
        The only session that an application may ask about; None: it is a user.
    """

    who: Who
    known_by: str
    session: SessionKey | None = None

    def key(self, uid: str) -> SessionKey:
        """Return the session `uid` of the caller.

        Raises
        ------
        SessionNotFound
            An application asks about another one than its own.
        InvalidArgument
            The uid is none.
        """
        key = SessionKey(self.who.name, uid)
        if self.session is not None and key != self.session:
            raise SessionNotFound(f"session {uid} is not the one that this credential is for")
        return key


class Callers:
    """Finds out who calls.

    Parameters
    ----------
    session_of : callable
        Returns the session whose application holds a credential with this hash, or None.
    calls_per_user, calls_per_address : int
        How many may be under way at a time.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        session_of: Callable[[str], Session | None],
        *,
        calls_per_user: int,
        calls_per_address: int,
    ) -> None:
        self._authenticator = authenticator
        self._session_of = session_of
        self._users = Crowd("user", calls_per_user)
        self._addresses = Crowd("address", calls_per_address)
        self._failures = FailedAttempts()

    @property
    def notices(self) -> tuple[str, ...]:
        """What all callers have to know of this gateway."""
        if self._authenticator.proves_identity:
            return ()
        return (
            "nobody proves who they are at this gateway (--auth none): all who reach it share these sessions",
        )

    @asynccontextmanager
    async def admitted(self, method: str, context: Any) -> AsyncIterator[Caller]:
        """Let a call be under way; who makes it is known then.

        Raises
        ------
        AuthenticationError
            Nobody known calls.
        PermissionDenied
            An application makes a call that is its user's.
        ResourceExhausted
            Too many of one user or address are under way.
        PeerError
            Who it is cannot be found out now.
        """
        address = address_of(context.peer())
        with self._addresses.one_of(address):
            self._failures.check(address)
            try:
                caller = await self._find_out(context)
            except AuthenticationError:
                if delay_s := self._failures.delay_s(address):
                    with self._failures.waiting(address):
                        await asyncio.sleep(delay_s)
                raise
            if caller.session is not None and method not in CALLS:
                raise PermissionDenied(
                    f"{method!r} is for the session's user: an application's credential is good for "
                    f"{', '.join(sorted(CALLS))}"
                )
            with self._users.one_of(caller.who.name):
                yield caller

    async def _find_out(self, context: Any) -> Caller:
        token = None
        for name, value in context.invocation_metadata() or ():
            if name == AUTHORIZATION and isinstance(value, str) and value != _NO_TOKEN:
                token = value
        if token is not None and is_credential(token):
            session = self._session_of(hash_credential(token))
            if session is None:
                raise AuthenticationError(
                    f"the credential of the call from {context.peer()} is of no session here; it ends with "
                    "its session: ask for a new one (s2uc prod-req, s2uc cons-req)"
                )
            return Caller(who=session.owner, known_by=APPLICATION, session=session.key)
        try:
            async with asyncio.timeout(_AUTHENTICATION_TIMEOUT_S):
                principal = await self._authenticator.authenticate(
                    Credentials(token, context.peer(), _client_certificate(context))
                )
        except TimeoutError as error:
            raise PeerError(
                f"who asks could not be found out within {_AUTHENTICATION_TIMEOUT_S:g} s; ask again"
            ) from error
        return Caller(who=_who(principal), known_by=principal.authenticator)


def _who(principal: Principal) -> Who:
    return Who(
        name=principal.name,
        authenticator=principal.authenticator,
        identities=principal.identities,
        groups=principal.groups,
    )


def _client_certificate(context: Any) -> bytes | None:
    """Return the certificate (PEM) that the caller has proven in the TLS handshake; None without."""
    found = context.auth_context().get("x509_pem_cert")
    return bytes(found[0]) if found else None
