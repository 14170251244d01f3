"""The authenticator ``none``: everybody is the same principal, so everybody can end everybody's sessions.

For demonstrations and tests on one machine. It must be asked for, and is refused beyond loopback unless
the operator insists.
"""

from __future__ import annotations

from collections.abc import Mapping

from scistream.auth.base import Authenticator, Principal
from scistream.errors import ConfigurationError


class Anonymous(Authenticator):
    """Takes any caller, with or without token, for the principal ``anonymous``."""

    proves_identity = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Anonymous:
        """Return the authenticator; it has no settings.

        Raises
        ------
        ConfigurationError
            There are settings.
        """
        if settings:
            raise ConfigurationError(
                f"authenticator 'none' has no setting {sorted(settings)[0]!r}; did you mean shared-key?"
            )
        return cls()

    async def authenticate(self, token: str | None, peer: str) -> Principal:  # noqa: ARG002
        """Return the one principal."""
        return Principal("anonymous")
