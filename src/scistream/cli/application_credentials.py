"""Where a session's own credential waits for its application controller: a file (0600) per session and side.

``s2uc prod-req`` and ``cons-req`` write it; on the same host and by the same user ``appctrl`` finds it. To
another host the file is copied, and given with ``--token-file``. It is good for one session's hello, status
and release, so that an application never needs its user's token. With its session it ends, and files of
sessions that must be over are removed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from scistream.core.events import Role, SessionKey
from scistream.errors import ConfigurationError
from scistream.user_folders import UserFolder

# No session is longer: its certificate ends then (scistream.auth.certificates).
_KEPT_S = 30 * 86_400.0


def write_credential(uid: str, role: Role, credential: str, path: Path | None = None) -> Path:
    """Write the credential of one side of session `uid` to `path`, or where `appctrl` looks; return where.

    Raises
    ------
    ConfigurationError
        It cannot be written.
    """
    from scistream.auth.secret_files import replace_secret_file

    if path is None:
        directory = _directory()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _forget_old(directory)
        except OSError as error:
            raise ConfigurationError(
                f"the credential of session {uid} cannot be kept in {directory}: {error.strerror}; give "
                "--credential-out FILE"
            ) from error
        path = directory / _name(uid, role)
    replace_secret_file(path, credential.encode() + b"\n")
    return path


def find_credential(uid: str, role: Role, given: Path | None, variables: Sequence[str]) -> Path | None:
    """Return the file with what `appctrl` is to say hello with.

    Parameters
    ----------
    given : Path or None
        What the user has given; nothing else is looked for then.
    variables : sequence of str
        Environment variables that hold a token; where one is set, nothing is looked for either.
    """
    if given is not None or any(os.environ.get(name) for name in variables):
        return given
    path = _directory() / _name(uid, role)
    return path if path.is_file() else None


def _name(uid: str, role: Role) -> str:
    return f"{SessionKey('', uid).uid}-{role.value}"


def _directory() -> Path:
    state = UserFolder.STATE.path()
    if state is None:
        raise ConfigurationError(
            "this user has no home for the session's credential; give --credential-out FILE"
        )
    return state / "credentials"


def _forget_old(directory: Path) -> None:
    oldest_s = time.time() - _KEPT_S
    for path in directory.iterdir():
        status = path.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_mtime < oldest_s:
            path.unlink(missing_ok=True)
