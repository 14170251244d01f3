"""Reads an authenticator's settings, and says what to do about those that are missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from scistream.auth.secret_files import read_secret_file
from scistream.errors import ConfigurationError


def check_names(authenticator: str, settings: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse settings that the authenticator does not have.

    Raises
    ------
    ConfigurationError
        There is one.
    """
    if unknown := sorted(set(settings) - set(known)):
        raise ConfigurationError(
            f"authenticator {authenticator!r} has no setting {unknown[0]!r}, only {', '.join(sorted(known))}"
        )


def required(authenticator: str, settings: Mapping[str, str], name: str, option: str) -> str:
    """Return a setting that has to be there.

    Raises
    ------
    ConfigurationError
        It is not.
    """
    if value := settings.get(name):
        return value
    raise ConfigurationError(f"authenticator {authenticator!r} needs its {name.replace('_', ' ')}: {option}")


def read_secret(authenticator: str, settings: Mapping[str, str], option: str) -> str:
    """Return the client secret, from ``client_secret`` or the file ``client_secret_file``.

    Raises
    ------
    ConfigurationError
        There is none, there are two, or the file cannot be used.
    """
    value, path = settings.get("client_secret"), settings.get("client_secret_file")
    if value and path:
        raise ConfigurationError(f"authenticator {authenticator!r} is given its client secret twice")
    if path:
        value = read_secret_file(Path(path)).decode("utf-8", "replace").strip()
    if not value:
        raise ConfigurationError(f"authenticator {authenticator!r} needs its client secret: {option}")
    return value
