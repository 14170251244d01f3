"""The contract that every authenticator fulfils: a token comes in, out comes who is asking.

What a principal may do is not decided here. Authenticators are named by entry points of the group
``scistream.authenticators``; `scistream.auth.registry` finds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking.

    Parameters
    ----------
    name : str
        Unique among those that one control server knows; sessions belong to it.
    """

    name: str


class Authenticator(ABC):
    """One way of knowing who is asking."""

    #: Whether callers prove who they are. Where they do not, a control server serves loopback only.
    proves_identity: bool = True

    @classmethod
    @abstractmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Authenticator:
        """Return an authenticator with the operator's settings, such as ``{"file": "/etc/…"}``.

        Raises
        ------
        ConfigurationError
            A setting is missing, unknown or unusable; the message says what to do.
        """

    @abstractmethod
    async def authenticate(self, token: str | None, peer: str) -> Principal:
        """Return who holds `token`.

        Parameters
        ----------
        token : str or None
            As the caller sent it; None where it sent none.
        peer : str
            The caller's address, for the log.

        Raises
        ------
        AuthenticationError
            Nobody known holds it. The message names neither token nor who else is known.
        """
