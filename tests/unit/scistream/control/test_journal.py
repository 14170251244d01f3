"""The journal gives back what was written, whatever became of the process that wrote it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scistream.control.journal import History, Journal
from scistream.control.state_dir import StateDirectory
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey, Timer
from scistream.core.session import Session, State
from scistream.core.status import ChannelStatistics
from scistream.errors import ConfigurationError, ResourceExhausted
from support.small_disk import fill, small_disk

KEY = SessionKey("alice", "first")
HISTORY = History(
    begin_s=10.5,
    channels=(ChannelStatistics(connections_total=3, bytes_to_target=2**40),),
    carried=(ChannelStatistics(bytes_from_target=5),),
    handle="7",
    deadlines_s={Timer.LIFETIME: 99.25},
)


def session(key: SessionKey = KEY, state: State = State.CONNECTED, outcome: State | None = None) -> Session:
    return Session(
        key=key,
        role=Role.PRODUCER,
        num_conn=1,
        rate_mbps=100,
        state=state,
        outcome=outcome,
        ports=(5100,),
        listeners=(Endpoint("gateway.example", 5100),),
    )


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    state = StateDirectory(tmp_path / "state")
    yield state
    state.close()


def reopened(journal: Journal, directory: StateDirectory) -> Journal:
    journal.close()
    return Journal(directory, "native")


def test_what_was_saved_is_found_again(directory: StateDirectory) -> None:
    journal = Journal(directory, "native")
    assert journal.take_entries() == []
    journal.save({KEY: (session(), HISTORY)})
    number = journal.number(KEY)
    journal = reopened(journal, directory)
    (entry,) = journal.take_entries()
    assert (entry.session, entry.history) == (session(), HISTORY)
    assert journal.number(KEY) == number
    assert not journal.rebooted
    journal.close()


def test_a_session_keeps_its_number_when_it_changes_and_no_number_is_used_again(
    directory: StateDirectory,
) -> None:
    journal = Journal(directory, "native")
    journal.save({KEY: (session(), HISTORY)})
    first = journal.number(KEY)
    journal.save({KEY: (session(state=State.RELEASING, outcome=State.FAILED), HISTORY)})
    assert journal.number(KEY) == first
    journal.save({KEY: None})
    assert not journal.knows(KEY)
    journal.save({KEY: (session(), HISTORY)})
    assert journal.number(KEY) > first
    journal.close()


def test_two_owners_have_each_their_session_of_one_uid(directory: StateDirectory) -> None:
    journal = Journal(directory, "native")
    theirs = SessionKey("bob", KEY.uid)
    journal.save({KEY: (session(), HISTORY), theirs: (session(theirs), HISTORY)})
    assert journal.number(KEY) != journal.number(theirs)
    journal = reopened(journal, directory)
    assert [entry.session.key for entry in journal.take_entries()] == [KEY, theirs]
    journal.close()


def test_it_survives_a_kill_right_after_the_write(directory: StateDirectory) -> None:
    program = (
        "import os, sys, signal; sys.path[:0] = {paths!r}\n"
        "from unit_journal_writer import write\n"
        "write(os.environ['STATE'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    writer = directory.path.parent / "unit_journal_writer.py"
    writer.write_text(
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from scistream.control.journal import History, Journal\n"
        "from scistream.core.events import Role, SessionKey\n"
        "from scistream.core.session import Session\n"
        "def write(path):\n"
        "    journal = Journal(SimpleNamespace(path=Path(path)), 'native')\n"
        "    key = SessionKey('alice', 'first')\n"
        "    session = Session(key=key, role=Role.CONSUMER, num_conn=2, rate_mbps=0)\n"
        "    journal.save({key: (session, History(1.0))})\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program.format(paths=[str(writer.parent)])],
        env={**os.environ, "STATE": str(directory.path)},
        check=False,
        timeout=30,
    )
    assert killed.returncode == -signal.SIGKILL
    journal = Journal(directory, "native")
    (entry,) = journal.take_entries()
    assert (entry.session.key, entry.session.num_conn) == (KEY, 2)
    journal.close()


def test_another_boot_is_noticed(directory: StateDirectory) -> None:
    journal = Journal(directory, "native")
    journal.recovered()
    journal.save({KEY: (session(), HISTORY)})
    journal.close()
    with sqlite3.connect(directory.path / "journal.db") as database:
        database.execute("UPDATE gateway SET value = 'another' WHERE name = 'boot_id'")
    database.close()
    journal = Journal(directory, "native")
    assert journal.rebooted
    journal = reopened(journal, directory)
    assert journal.rebooted, "nobody has recovered since"
    journal.recovered()
    journal = reopened(journal, directory)
    assert not journal.rebooted
    journal.close()


def test_another_layout_is_refused(directory: StateDirectory) -> None:
    Journal(directory, "native").close()
    with sqlite3.connect(directory.path / "journal.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigurationError, match="has layout 99"):
        Journal(directory, "native")


def test_a_damaged_file_is_refused_and_kept(directory: StateDirectory) -> None:
    path = directory.path / "journal.db"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Journal(directory, "native")
    assert path.read_bytes().startswith(b"this is no database")


def test_a_full_disk_is_not_taken_for_damage(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        directory = StateDirectory(disk / "state")
        fill(disk)
        with pytest.raises(ResourceExhausted, match="make room in") as refused:
            Journal(directory, "native")
        assert "move it away" not in str(refused.value)
        directory.close()


def test_a_private_key_for_which_there_is_no_room_is_refused_with_the_reason(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        directory = StateDirectory(disk / "state")
        fill(disk)
        with pytest.raises(ConfigurationError, match=r"No space left.* made room"):
            directory.write_key(1, b"key" * 10_000)
        directory.close()


def test_a_journal_that_others_could_open_is_closed_to_them(directory: StateDirectory) -> None:
    Journal(directory, "native").close()
    path = directory.path / "journal.db"
    path.chmod(0o644)
    journal = Journal(directory, "native")
    journal.save({KEY: (session(), HISTORY)})
    assert {file.stat().st_mode & 0o777 for file in directory.path.glob("journal.db*")} == {0o600}
    journal.close()


def test_an_entry_that_cannot_be_understood_is_refused(directory: StateDirectory) -> None:
    journal = Journal(directory, "native")
    journal.save({KEY: (session(), HISTORY)})
    journal.close()
    with sqlite3.connect(directory.path / "journal.db") as database:
        database.execute("UPDATE session SET session = '{}'")
    database.close()
    with pytest.raises(ConfigurationError, match="session first cannot be understood"):
        Journal(directory, "native")


def test_another_kind_of_data_server_is_refused_while_sessions_live(directory: StateDirectory) -> None:
    journal = Journal(directory, "native")
    journal.recovered()
    journal.save({KEY: (session(), HISTORY)})
    journal.close()
    with pytest.raises(ConfigurationError, match="start with --data-server native") as refused:
        Journal(directory, "haproxy")
    assert refused.value is not None
    assert open_files(directory.path / "journal.db") == []
    journal = Journal(directory, "native")
    journal.save({KEY: (session(state=State.RELEASED, outcome=State.RELEASED), HISTORY)})
    journal.close()
    Journal(directory, "haproxy").close()


def open_files(path: Path) -> list[Path]:
    """What this process has open of `path`."""
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.resolve() == path.resolve()]


def test_a_failed_write_changes_nothing(directory: StateDirectory) -> None:
    journal = Journal(directory, "native")
    journal.save({KEY: (session(), HISTORY)})
    blocker = sqlite3.connect(directory.path / "journal.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        journal.save({KEY: None})
    blocker.execute("ROLLBACK")
    blocker.close()
    journal = reopened(journal, directory)
    assert len(journal.take_entries()) == 1
    journal.close()
