"""The logins of a user, in one file that only the user can read.

It is in the user's data directory (XDG)::

    ~/.local/share/scistream/logins.json

Whoever changes it holds a lock, so that two programs do not spend one refresh token.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scistream.auth.secret_files import read_secret_file, replace_secret_file
from scistream.client.login.settings import LoginSettings
from scistream.errors import ConfigurationError
from scistream.user_folders import UserFolder

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """One login.

    Parameters
    ----------
    settings : LoginSettings
        What it is for.
    username : str
        Who has logged in, as the provider calls them.
    access_token, refresh_token : str
        The latter "" where there is none.
    expires_at : float
        When the access token expires, Unix time in s.
    others : mapping
        What else belongs to it: Globus's tokens for its own service.
    """

    settings: LoginSettings
    username: str
    access_token: str = field(repr=False)
    refresh_token: str = field(default="", repr=False)
    expires_at: float = 0.0
    others: Mapping[str, Any] = field(default_factory=dict, repr=False)


class LoginStore:
    """The file with the logins.

    Parameters
    ----------
    path : Path, optional
        Instead of the user's own.

    Raises
    ------
    ConfigurationError
        This user has no home.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or store_path()

    def all(self) -> list[Login]:
        """Return all logins.

        Raises
        ------
        ConfigurationError
            The file cannot be read, is open to others, or holds something else.
        """
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            content = json.loads(read_secret_file(self.path))
            if content["version"] != _VERSION:
                raise ConfigurationError(
                    f"{self.path} was written by another version; move it away and log in again"
                )
            return [
                Login(**{**one, "settings": LoginSettings(**one["settings"])}) for one in content["logins"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{self.path} holds no logins; move it away and log in again (s2uc login)"
            ) from error

    def find(self, settings: LoginSettings) -> Login | None:
        """Return the login for `settings`; None if there is none."""
        return next((one for one in self.all() if one.settings.key == settings.key), None)

    def put(self, login: Login) -> None:
        """Store `login` in place of an earlier one for the same. The lock has to be held.

        Raises
        ------
        ConfigurationError
            The file cannot be written.
        """
        self._write([one for one in self.all() if one.settings.key != login.settings.key] + [login])

    def remove(self, settings: LoginSettings) -> None:
        """Forget the login for `settings`, if there is one. The lock has to be held.

        Raises
        ------
        ConfigurationError
            The file cannot be written.
        """
        self._write([one for one in self.all() if one.settings.key != settings.key])

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other programs from changing the file.

        Raises
        ------
        ConfigurationError
            Its directory cannot be written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self.path.parent} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, logins: list[Login]) -> None:
        content = {"version": _VERSION, "logins": [asdict(replace(one)) for one in logins]}
        replace_secret_file(self.path, json.dumps(content, indent=1).encode())


def store_path() -> Path:
    """Return where a user's logins are kept.

    Raises
    ------
    ConfigurationError
        This user has no home.
    """
    directory = UserFolder.DATA.path()
    if directory is None:
        raise ConfigurationError("there is no home directory to keep logins in; set XDG_DATA_HOME")
    return directory / "logins.json"
