"""Who asked for what, and what was decided: one JSON line per decision, in their order, in a file.

A line is written before what it allows is done. It never holds a token, a key or a credential: its fields
are names, addresses, and the reasons that callers are told too.

The file has mode 0600. It is rotated by size (FILE.1 is the newest before), or by somebody else who renames
it and sends SIGHUP.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime

from scistream.config import AuditSettings, OnFailure
from scistream.errors import ConfigurationError, ResourceExhausted

logger = logging.getLogger(__name__)

_MAX_TEXT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision.

    Parameters
    ----------
    what : str
        The call; ``end`` for the end of a session.
    allowed : bool
        Whether it may be.
    why : str
        The rule that allows it, or the reason that the caller is told.
    who : str or None
        The caller's name; None: nobody knows.
    authenticator : str or None
        By which it is known; ``application`` for a session's own credential.
    peer : str or None
        Where it calls from.
    session, owner : str or None
        The session's uid, and whose it is.
    """

    what: str
    allowed: bool
    why: str
    who: str | None = None
    authenticator: str | None = None
    peer: str | None = None
    session: str | None = None
    owner: str | None = None


class Audit:
    """The audit of one control server; without settings nothing is written.

    Raises
    ------
    ConfigurationError
        The file cannot be written.
    """

    def __init__(self, settings: AuditSettings | None = None) -> None:
        self._settings = settings
        self._descriptor = -1
        self._size = 0
        self._number = 0
        self._gap = False
        if settings is not None:
            try:
                self._open(settings)
            except OSError as error:
                raise ConfigurationError(
                    f"the audit {settings.path} cannot be written: {error.strerror}; give another (--audit)"
                ) from error

    def write(self, entry: Entry) -> None:
        """Write one line.

        Raises
        ------
        ResourceExhausted
            It cannot be written, and calls are to be refused then.
        """
        settings = self._settings
        if settings is None:
            return
        try:
            self._write(settings, entry)
        except OSError as error:
            if not self._gap:
                logger.exception("the audit %s cannot be written", settings.path)
            self._gap = True
            if settings.on_failure is OnFailure.REFUSE:
                raise ResourceExhausted(
                    f"this gateway's audit cannot be written ({error.strerror}), so it decides nothing; ask "
                    "again when its operator has made room"
                ) from error
            return
        if self._gap:
            self._gap = False
            logger.warning(
                "the audit %s is written again; there is a gap before number %d", settings.path, self._number
            )

    def reopen(self) -> None:
        """Write to the file of that name from now on: the one so far was renamed."""
        if self._settings is None:
            return
        try:
            self._open(self._settings)
        except OSError:
            logger.exception(
                "the audit %s cannot be opened again; the old file is written on", self._settings.path
            )

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # --- inside ----------------------------------------------------------------------------------------

    def _write(self, settings: AuditSettings, entry: Entry) -> None:
        number = self._number + 1
        line = json.dumps(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "n": number,
                "who": entry.who,
                "authenticator": entry.authenticator,
                "peer": entry.peer,
                "what": entry.what,
                "session": None if entry.session is None else entry.session[:_MAX_TEXT],
                "owner": entry.owner,
                "allowed": entry.allowed,
                "why": entry.why[:_MAX_TEXT],
            }
        )
        content = line.encode() + b"\n"
        if self._size and self._size + len(content) > settings.max_bytes:
            self._rotate(settings)
        self._number = number
        written = os.write(self._descriptor, content)
        self._size += written
        if written < len(content):
            # the disk is full: half a line would run into the next one
            os.ftruncate(self._descriptor, self._size - written)
            self._size -= written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self, settings: AuditSettings) -> None:
        path = settings.path
        if settings.keep:
            for number in range(settings.keep - 1, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                if older.exists():
                    older.replace(path.with_name(f"{path.name}.{number + 1}"))
            path.replace(path.with_name(f"{path.name}.1"))
        else:
            path.unlink()
        self._open(settings)

    def _open(self, settings: AuditSettings) -> None:
        descriptor = os.open(
            settings.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no regular file")
        if status.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        before, self._descriptor = self._descriptor, descriptor
        self._size = status.st_size
        if before >= 0:
            os.close(before)
