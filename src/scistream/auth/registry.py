"""Finds authenticators by name among the installed ones. An unknown name is an error, never a fallback."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from scistream.auth.base import Authenticator
from scistream.errors import ConfigurationError

GROUP = "scistream.authenticators"


def installed_authenticators() -> tuple[str, ...]:
    """Return the names of all installed authenticators."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def load_authenticator(name: str, settings: Mapping[str, str]) -> Authenticator:
    """Return the authenticator `name` with its settings.

    Raises
    ------
    ConfigurationError
        It is not installed, cannot be imported, or does not like its settings.
    """
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        raise ConfigurationError(
            f"authenticator {name!r} is not installed; there are: {', '.join(installed_authenticators())}"
        )
    try:
        kind = found[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"authenticator {name!r} cannot be loaded: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Authenticator)):
        raise ConfigurationError(f"authenticator {name!r}: {found[0].value} is no subclass of Authenticator")
    return kind.from_settings(settings)
