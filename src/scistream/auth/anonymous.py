"""The authenticator ``none``: everybody is the same principal, so everybody can end everybody's sessions.

For demonstrations and tests on one machine. It must be asked for, and is refused beyond loopback unless
the operator insists.
"""

from __future__ import annotations

from collections.abc import Mapping

from scistream.auth.base import Authenticator, Credentials, Principal
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

    def recognises(self, credentials: Credentials) -> bool:  # noqa: ARG002
        """Return True, whatever they are."""
        return True

    async def authenticate(self, credentials: Credentials) -> Principal:  # noqa: ARG002
        """Return the one principal."""
        return Principal("anonymous", "none")
