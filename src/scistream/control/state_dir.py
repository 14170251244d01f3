"""A control server's own directory: nobody else's, locked while it runs, with the sessions' private keys.

::

    STATE/lock          held by the running control server
    STATE/journal.db    `scistream.control.journal`
    STATE/keys/N.pem    private key of the session with the journal's number N; gone when the session ends
    STATE/data/         what the data server backend keeps in order to find its processes again

No name in it comes from the wire.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection
from pathlib import Path

from scistream.auth.secret_files import create_secret_file, read_secret_file
from scistream.errors import ConfigurationError, ResourceExhausted

_MODE = 0o700


class StateDirectory:
    """The directory `path`, made if it is not there; locked until `close`.

    Raises
    ------
    ConfigurationError
        It cannot be made or used, belongs to somebody else, or is open to others.
    ResourceExhausted
        Another control server runs with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _make_private(path)
            self._keys = path / "keys"
            self.data = path / "data"
            _make_private(self._keys)
            _make_private(self.data)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the state directory {path} cannot be used: {error.strerror}; give another with --state-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if error.errno != errno.EWOULDBLOCK:
                raise ConfigurationError(
                    f"the state directory {path} cannot be locked: {error.strerror}"
                ) from error
            raise ResourceExhausted(
                f"another control server runs with the state directory {path}; "
                "stop it first, or give this one its own with --state-dir"
            ) from error

    def close(self) -> None:
        """Let another control server have it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- private keys ----------------------------------------------------------------------------------

    def write_key(self, number: int, private_key_pem: bytes) -> None:
        """Keep the private key of session `number`, mode 0600.

        Raises
        ------
        ConfigurationError
            It cannot be written.
        """
        try:
            create_secret_file(self._key_path(number), private_key_pem)
        except OSError as error:
            raise ConfigurationError(
                f"this gateway's state directory cannot be written ({error.strerror}), so the session's "
                "private key cannot be kept; ask again when its operator has made room"
            ) from error

    def read_key(self, number: int) -> bytes:
        """Return the private key of session `number`; empty where none was kept.

        Raises
        ------
        ConfigurationError
            It cannot be read, or others could.
        """
        path = self._key_path(number)
        return read_secret_file(path) if path.exists() else b""

    def remove_key(self, number: int) -> None:
        """Forget the private key of session `number`, if there is one."""
        self._key_path(number).unlink(missing_ok=True)

    def remove_keys_but(self, numbers: Collection[int]) -> None:
        """Forget the private keys of all sessions but `numbers`."""
        kept = {self._key_path(number).name for number in numbers}
        for path in self._keys.iterdir():
            if path.name not in kept:
                path.unlink()

    def _key_path(self, number: int) -> Path:
        return self._keys / f"{number:d}.pem"


def _make_private(path: Path) -> None:
    """Make the directory `path`, for us alone; one that others could write or read is refused.

    Raises
    ------
    OSError
        It cannot be made.
    ConfigurationError
        It is somebody else's, or open to others and not empty.
    """
    path.mkdir(mode=_MODE, parents=True, exist_ok=True)
    status = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is not a directory (or a link to one); give another --state-dir")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"the state directory {path} belongs to user {status.st_uid}, this is user {os.geteuid()}; "
            "give another with --state-dir"
        )
    if status.st_mode & 0o077:
        if any(path.iterdir()):
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigurationError(
                f"the state directory {path} is open to other users (mode {mode:04o}); "
                f"if it is this control server's own, type: chmod 700 {path}"
            )
        path.chmod(_MODE)
