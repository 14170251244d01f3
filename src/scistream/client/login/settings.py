"""What a login is for: its provider, the program's registration there, and what the token is to be good for.

Two facilities that ask for the same share one login: a token of the one would be good at the other anyway.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from scistream.errors import ConfigurationError

#: Logins that a person makes; the other ways of being known (shared key, certificate) need none.
KINDS = ("globus", "oidc")

# Beside what is asked for: who it is, and refreshing in silence.
_OIDC_SCOPE = "openid offline_access"

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_GLOBUS_SCOPE = re.compile(r"https://auth\.globus\.org/scopes/([^/\s]+)/\S+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSettings:
    """What a login is for.

    Parameters
    ----------
    kind : str
        ``globus`` or ``oidc``.
    client_id : str
        This program's registration with the provider: a native one, without secret.
    scope : str
        What the token is to be good for. For Globus also the UUID of the service that it is for.
    issuer, resource, ca : str
        For OpenID Connect: the provider, whom the token is to be meant for (RFC 8707; "" where the provider
        knows by the scope), and a file with the authorities of its certificate ("": the usual ones).

    Raises
    ------
    ConfigurationError
        Something is missing.
    """

    kind: str
    client_id: str
    scope: str
    issuer: str = ""
    resource: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"{self.kind!r} is no kind of login; there are {', '.join(KINDS)}")
        if not self.client_id:
            raise ConfigurationError(
                f"a login by {self.kind} needs this program's registration there: client_id in the profile, "
                "or --client-id; the facility's operator has it"
            )
        if self.kind == "oidc" and not self.issuer:
            raise ConfigurationError("a login by oidc needs the provider: issuer in the profile, or --issuer")
        if self.kind == "globus":
            object.__setattr__(self, "scope", globus_scope(self.scope))
        elif "openid" not in self.scope.split():
            object.__setattr__(self, "scope", f"{_OIDC_SCOPE} {self.scope}".strip())

    @property
    def key(self) -> str:
        """What it is stored under."""
        return " ".join(map(repr, asdict(self).values()))

    @property
    def provider(self) -> str:
        """What people call the provider."""
        return "Globus" if self.kind == "globus" else self.issuer

    @property
    def resource_server(self) -> str:
        """Globus's name of the service that the scope belongs to; "" for OpenID Connect."""
        match = _GLOBUS_SCOPE.fullmatch(self.scope)
        return match[1] if match else ""


def globus_scope(text: str) -> str:
    """Return the Globus scope that is meant by `text`: itself, or ``scistream`` of that service's UUID.

    Raises
    ------
    ConfigurationError
        It is neither.
    """
    if _UUID.fullmatch(text):
        return f"https://auth.globus.org/scopes/{text}/scistream"
    if _GLOBUS_SCOPE.fullmatch(text):
        return text
    raise ConfigurationError(
        f"{text!r} is neither a Globus scope (https://auth.globus.org/scopes/…/…) nor the UUID of a service: "
        "scope in the profile, or --scope; the facility's operator has it"
    )
