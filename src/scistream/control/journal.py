"""What a control server must know of its sessions after it was killed: an SQLite database.

It is written once in each turn of the event loop in which anything has changed, before anybody is told of it.

The database is in WAL mode: what was written before an answer went out is there after a ``kill -9``. (Only a
power cut may lose the newest changes, and then no stream is left that they could be about.) It holds no
secret: private keys are files of `scistream.control.state_dir`.

Moments are seconds of the system's boot clock, so that leases count on while no control server runs, whatever
is done to the wall clock. After a boot they mean nothing: `Journal.rebooted` tells, until a control server
has recovered. One that fails before that leaves the journal to the next as it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scistream.control.state_dir import StateDirectory
from scistream.core.events import SessionKey, Timer
from scistream.core.record import from_record, to_record
from scistream.core.session import Session
from scistream.core.status import ChannelStatistics
from scistream.errors import ConfigurationError, ResourceExhausted, SciStreamError

logger = logging.getLogger(__name__)

#: Number of the database's layout.
SCHEMA_VERSION = 1

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

#: What can be done about a journal that is of no use.
MOVE_AWAY = (
    "put a copy of it back, or move it away (its sessions are forgotten then; if streams of theirs go on, "
    "the next start says how to end them)"
)

# Nobody else writes; who reads (a backup) is in nobody's way. All calls wait as long as the journal does.
_BUSY_TIMEOUT_S = 0.5

_SCHEMA = """
CREATE TABLE session (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    owner   TEXT NOT NULL,
    uid     TEXT NOT NULL,
    session TEXT NOT NULL,  -- scistream.core.record, JSON
    history TEXT NOT NULL,  -- History, JSON
    UNIQUE (owner, uid)
);
CREATE TABLE gateway (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(slots=True)
class History:
    """What is kept of a session beyond the session rules.

    Attributes
    ----------
    begin_s, end_s : float
        When it was asked for, and when it ended; boot clock.
    channels : tuple of ChannelStatistics
        What it had carried when that was last known.
    carried : tuple of ChannelStatistics
        The part of it by data servers that have died since.
    handle : str
        By which its data server is found again; empty: there is none.
    deadlines_s : dict of Timer to float
        When its timers fire; boot clock.
    """

    begin_s: float
    end_s: float | None = None
    channels: tuple[ChannelStatistics, ...] = ()
    carried: tuple[ChannelStatistics, ...] = ()
    handle: str = ""
    deadlines_s: dict[Timer, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One session of the journal."""

    session: Session
    history: History


def boot_clock_s() -> float:
    """Return the seconds since the system was booted, those of its sleep among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Journal:
    """The journal in a state directory.

    Parameters
    ----------
    directory : StateDirectory
        Locked by this process.
    data_server : str
        Kind of the data servers that the sessions will have.

    Raises
    ------
    ConfigurationError
        It was written by another version, is damaged, cannot be written, or has living sessions with data
        servers of another kind.
    ResourceExhausted
        There is no room for it.
    """

    def __init__(self, directory: StateDirectory, data_server: str) -> None:
        self.path = directory.path / "journal.db"
        self._data_server = data_server
        self._numbers: dict[SessionKey, int] = {}
        with self._usable(), contextlib.ExitStack() as undo:
            self.path.touch(mode=0o600)
            self._close_to_others()
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
            undo.callback(self._db.close)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._prepare()
            self._boot_id = _BOOT_ID.read_text().strip()
            self.rebooted = self._get("boot_id") not in {None, self._boot_id}
            self._entries = self._load()
            before = self._get("data_server")
            if before not in {None, data_server} and any(
                not entry.session.state.ended for entry in self._entries
            ):
                raise ConfigurationError(
                    f"the sessions in {self.path} have data servers of the kind {before!r}, not "
                    f"{data_server!r}; start with --data-server {before}, or give another --state-dir"
                )
            undo.pop_all()

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._no_room(error) from error
            raise ConfigurationError(f"the journal {self.path} cannot be used: {error}") from error
        except sqlite3.Error as error:
            # its low byte says which kind it is; one that Python raises has none
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise self._no_room(error) from error
            advice = f"; it is damaged: {MOVE_AWAY}" if code in _DAMAGED else ""
            raise ConfigurationError(f"the journal {self.path} cannot be used: {error}{advice}") from error

    def _no_room(self, error: Exception) -> ResourceExhausted:
        return ResourceExhausted(
            f"the journal {self.path} cannot be written: {error}; make room in {self.path.parent}, and start "
            "again (sessions and their streams are not lost)"
        )

    def _close_to_others(self) -> None:
        """Let nobody else open what there is of an earlier journal, as a copy that was put back may be."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                logger.warning(
                    "%s was open to other users (mode %04o), and is closed to them now", path, mode
                )
                path.chmod(0o600)

    def take_entries(self) -> list[Entry]:
        """Return the sessions found when the journal was opened, in the order of their requests."""
        entries, self._entries = self._entries, []
        return entries

    def recovered(self) -> None:
        """Note that what was found is this control server's now: in this boot, with its kind of data server.

        Raises
        ------
        ConfigurationError
            It cannot be written.
        ResourceExhausted
            There is no room for it.
        """
        with self._usable():
            for name, value in (("boot_id", self._boot_id), ("data_server", self._data_server)):
                self._db.execute("INSERT OR REPLACE INTO gateway VALUES (?, ?)", (name, value))

    def knows(self, key: SessionKey) -> bool:
        """Return whether the session has been saved, and not been forgotten."""
        return key in self._numbers

    def number(self, key: SessionKey) -> int:
        """Return the number of a session that has been saved."""
        return self._numbers[key]

    def save(self, changed: Mapping[SessionKey, tuple[Session, History] | None]) -> None:
        """Write what has changed, all or nothing; None forgets a session.

        Raises
        ------
        sqlite3.Error
            It cannot be written.
        """
        numbers: dict[SessionKey, int] = {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for key, content in changed.items():
                if content is None:
                    self._db.execute("DELETE FROM session WHERE owner = ? AND uid = ?", (key.owner, key.uid))
                    continue
                session, history = content
                row = self._db.execute(
                    "INSERT INTO session (owner, uid, session, history) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (owner, uid) DO UPDATE SET session = excluded.session, "
                    "history = excluded.history RETURNING number",
                    (key.owner, key.uid, json.dumps(to_record(session)), json.dumps(_to_json(history))),
                ).fetchone()
                numbers[key] = int(row[0])
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        for key in changed:
            self._numbers.pop(key, None)
        self._numbers.update(numbers)

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._db.close()

    # --- inside ----------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version == SCHEMA_VERSION:
            return
        if version != 0:
            raise ConfigurationError(
                f"{self.path} has layout {version}, this version of s2cs writes {SCHEMA_VERSION}; "
                "finish its sessions with the version that wrote it, or give another --state-dir"
            )
        self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")

    def _get(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM gateway WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _load(self) -> list[Entry]:
        entries = []
        rows = self._db.execute("SELECT number, owner, uid, session, history FROM session ORDER BY number")
        for number, owner, uid, session, history in rows:
            try:
                entry = Entry(from_record(json.loads(session)), _from_json(json.loads(history)))
            except (SciStreamError, ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"the journal {self.path}: session {uid} cannot be understood: {error}; {MOVE_AWAY}"
                ) from error
            self._numbers[SessionKey(owner, uid)] = int(number)
            entries.append(entry)
        return entries


def _to_json(history: History) -> dict[str, Any]:
    return {
        "begin_s": history.begin_s,
        "end_s": history.end_s,
        "channels": [asdict(channel) for channel in history.channels],
        "carried": [asdict(channel) for channel in history.carried],
        "handle": history.handle,
        "deadlines_s": {timer.value: moment_s for timer, moment_s in history.deadlines_s.items()},
    }


def _from_json(content: dict[str, Any]) -> History:
    return History(
        begin_s=float(content["begin_s"]),
        end_s=None if content["end_s"] is None else float(content["end_s"]),
        channels=tuple(ChannelStatistics(**channel) for channel in content["channels"]),
        carried=tuple(ChannelStatistics(**channel) for channel in content["carried"]),
        handle=str(content["handle"]),
        deadlines_s={Timer(name): float(moment_s) for name, moment_s in content["deadlines_s"].items()},
    )
