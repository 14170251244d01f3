"""From what a provider says of a token, signed or asked for, to a principal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from scistream.auth.base import Principal

# RFC 7519 and OpenID Connect Core: a subject has 255 ASCII characters at most.
_MAX_SUBJECT = 255
_MAX_IDENTITIES = 1_000


def read_principal(claims: Mapping[str, Any], issuer: str) -> Principal | None:
    """Return whom OpenID claims name; None where they name nobody.

    A user name (``preferred_username``) is shown and proves nothing: users may choose it themselves. An
    e-mail address is an identity only if the provider says that it has verified it.
    """
    subject = claims.get("sub")
    if not is_text(subject) or len(subject) > _MAX_SUBJECT:
        return None
    email = claims.get("email")
    verified = {email} if is_text(email) and claims.get("email_verified") is True else set()
    username = next(
        (one for one in (claims.get("preferred_username"), email, claims.get("username")) if is_text(one)),
        subject,
    )
    return Principal(
        name=f"oidc:{subject}@{issuer}",
        authenticator="oidc",
        username=username,
        identities=frozenset(verified),
        groups=frozenset(texts(claims.get("groups"))),
        expires_at=expiry(claims),
    )


def has_scope(claims: Mapping[str, Any], wanted: str) -> bool:
    """Return whether all scopes in `wanted` (separated by spaces) are granted."""
    granted = {one for name in ("scope", "scp") for one in texts(claims.get(name))}
    return granted.issuperset(wanted.split())


def has_audience(claims: Mapping[str, Any], wanted: str) -> bool:
    """Return whether the token is meant for `wanted`."""
    audience = claims.get("aud")
    return wanted in (audience if isinstance(audience, list) else [audience])


def expiry(claims: Mapping[str, Any]) -> float | None:
    """Return when the token expires, Unix time in s; None where that is not said."""
    value = claims.get("exp")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def is_text(value: object) -> TypeGuard[str]:
    """Return whether `value` is a text that can be shown in one line."""
    return isinstance(value, str) and bool(value) and value.isprintable()


def texts(value: object) -> list[str]:
    """Return the words of a text, or the texts of a list."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list):
        return [one for one in value if is_text(one)][:_MAX_IDENTITIES]
    return []
