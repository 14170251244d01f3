"""Who has logged in: the identity token of an OpenID provider (OpenID Connect Core, 3.1.3.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scistream.auth.claims import is_text
from scistream.auth.provider import Provider
from scistream.auth.provider_keys import ALGORITHMS
from scistream.errors import AuthenticationError, PeerError

# A user's clock may be wrong by more than a gateway's.
_LEEWAY_S = 60


def read_identity(
    token: object, provider: Provider, *, client_id: str, nonce: str | None
) -> Mapping[str, Any]:
    """Return what `provider` says of who has logged in. Blocks.

    Parameters
    ----------
    token : object
        The identity token, as it came.
    client_id : str
        Whom it has to be for.
    nonce : str or None
        What has to be in it; None where nothing was sent (device flow).

    Raises
    ------
    AuthenticationError
        It was not made by the provider, for this program and this login, or has expired.
    PeerError
        There is none, or the provider cannot be asked for its keys.
    """
    from joserfc import jws, jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    if not is_text(token):
        raise PeerError(f"{provider.issuer} does not say who has logged in (no id_token)")
    wanted: dict[str, Any] = {
        "iss": {"essential": True, "value": provider.issuer},
        "aud": {"essential": True, "value": client_id},
        "exp": {"essential": True},
        "sub": {"essential": True},
    }
    if nonce is not None:
        wanted["nonce"] = {"essential": True, "value": nonce}
    try:
        key_id = jws.extract_compact(token.encode()).headers().get("kid")
        for one in provider.published_keys():
            if one.get("kty") == "oct" or (key_id is not None and one.get("kid") != key_id):
                continue
            claims = jwt.decode(token, import_key(one), algorithms=ALGORITHMS).claims
            jwt.JWTClaimsRegistry(leeway=_LEEWAY_S, **wanted).validate(claims)
            return claims
    except (JoseError, ValueError, TypeError) as error:
        raise AuthenticationError(
            f"what {provider.issuer} says of who has logged in cannot be trusted ({type(error).__name__}); "
            "log in again (s2uc login)"
        ) from None
    raise AuthenticationError(f"{provider.issuer} has signed with a key that it does not publish")
