"""The contract that every authenticator fulfils: credentials come in, out comes who is asking.

What a principal may do is not decided here. Authenticators are named by entry points of the group
``scistream.authenticators``; `scistream.auth.registry` finds them, `scistream.auth.chain` puts several in a
row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from scistream.errors import AuthenticationError

#: Longer tokens are not looked at; gRPC lets a header have 8 KiB, and real ones have below 4.
MAX_TOKEN_BYTES = 8192

#: How every token begins that a control server of ours has made itself: no provider is asked about it.
OWN_TOKEN_PREFIX = "scistream_"  # noqa: S105 - no token, only how they begin


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking.

    Parameters
    ----------
    name : str
        Unique among those that one control server knows, and the same every time: sessions belong to it.
        ``globus:<identity's UUID>``, ``oidc:<subject>@<issuer>``, ``mtls:<subject's distinguished name>``;
        without a colon the holder of a shared key, or ``anonymous``.
    authenticator : str
        Which authenticator knows it: ``globus``, ``oidc``, ``mtls``, ``shared-key``, ``none``.
    username : str
        What people call it, such as ``alice@anl.gov``; unlike `name`, it may go to somebody else one day.
    identities : frozenset of str
        All identities that the login proves, beside `name`: Globus's linked identities (usernames and
        UUIDs), an e-mail address that the OpenID provider has verified, a certificate's names.
    groups : frozenset of str
        Groups that the provider says it is in.
    expires_at : float or None
        When the credentials expire, Unix time in s; None: never by themselves.
    """

    name: str
    authenticator: str = ""
    username: str = ""
    identities: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller has presented.

    Parameters
    ----------
    token : str or None
        The metadata entry ``authorization`` as it came; None without.
    peer : str
        The caller's address as gRPC writes it, for the log.
    certificate : bytes or None
        The client certificate (PEM) that the caller has proven in the TLS handshake, which has verified it
        against the authorities that the control server names; None without.
    """

    token: str | None = field(repr=False)
    peer: str
    certificate: bytes | None = None


class Authenticator(ABC):
    """One way of knowing who is asking."""

    #: Whether callers prove who they are. Where they do not, a control server serves loopback only.
    proves_identity: bool = True

    #: Those are asked first that need nobody else: what they know is not shown to a provider.
    asks_provider: bool = False

    #: Authorities (PEM) that client certificates have to come from; None where none are asked for.
    client_authorities: bytes | None = None

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Authenticator:
        """Return an authenticator with the operator's settings, such as ``{"file": "/etc/…"}``.

        Reads files at most: no provider is asked before somebody calls.

        Raises
        ------
        ConfigurationError
            A setting is missing, unknown or unusable; the message says what to do.
        """

    def recognises(self, credentials: Credentials) -> bool:
        """Return whether `credentials` are of the kind that this authenticator judges, good or not.

        Cheap: decided by their form. By default those with a token.
        """
        return bool(credentials.token)

    @abstractmethod
    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return who holds `credentials`.

        Raises
        ------
        AuthenticationError
            Nobody known holds them, or they have expired or are meant for somebody else. The message names
            neither token nor who else is known.
        PeerError
            The provider that has to be asked does not answer, within a bounded time.
        """

    async def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of connections and threads. Idempotent."""


def check_token(credentials: Credentials) -> str:
    """Return the token of `credentials`, which is one by its form.

    Raises
    ------
    AuthenticationError
        There is none, it is too long, or it holds what no token holds.
    """
    token = credentials.token
    if not token:
        raise AuthenticationError(
            f"no token came with the call from {credentials.peer}; log in (s2uc login), or give one "
            "(--token-file)"
        )
    if len(token) > MAX_TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise AuthenticationError(f"what came as token with the call from {credentials.peer} is none")
    return token


def not_known(credentials: Credentials) -> AuthenticationError:
    """Return the error for credentials that nobody known holds; it says nothing more on purpose."""
    what = "token" if credentials.token else "certificate"
    return AuthenticationError(
        f"the {what} of the call from {credentials.peer} is not known here; log in again (s2uc login), or "
        "ask the gateway's operator for one"
    )
