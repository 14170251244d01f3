"""Where a tree is found: by its own user only, and one tree only."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from scistream.dataserver.tree import rendezvous
from scistream.dataserver.tree.rendezvous import MeetingPlace, connect, peer_of
from scistream.errors import DataServerError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Its path does not fit a Unix socket's address."""
    directory = tmp_path / ("x" * 120)
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def place(directory: Path) -> Iterator[MeetingPlace]:
    place = MeetingPlace(directory)
    yield place
    place.leave()
    place.close()


def test_both_sides_know_who_the_other_is(place: MeetingPlace, directory: Path) -> None:
    sock = connect(directory)
    met = place.accept()
    assert sock is not None
    assert met is not None
    accepted, pid = met
    assert pid == os.getpid()
    assert peer_of(sock) == (os.getpid(), os.geteuid())
    sock.close()
    accepted.close()
    assert place.accept() is None


def test_another_user_is_not_let_in(
    place: MeetingPlace, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = connect(directory)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert place.accept() is None
    assert sock is not None
    assert sock.recv(1) == b""
    sock.close()


def test_the_socket_is_for_its_user_only(place: MeetingPlace, directory: Path) -> None:
    assert stat.S_IMODE((directory / "tree.socket").stat().st_mode) == 0o600


def test_nobody_is_found_where_nobody_listens(directory: Path) -> None:
    assert connect(directory) is None
    place = MeetingPlace(directory)
    place.close()  # as if killed: its socket's file is still there
    assert (directory / "tree.socket").exists()
    assert connect(directory) is None


def test_one_tree_only(place: MeetingPlace, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "LOCK_LIMIT_S", 0.05)
    with pytest.raises(DataServerError, match="other data servers run"):
        MeetingPlace(directory)
    sock = connect(directory)  # and the first one is still found
    assert sock is not None
    sock.close()


def test_a_successor_waits_for_the_lock(directory: Path) -> None:
    first = MeetingPlace(directory)
    first.leave()
    ending = threading.Timer(0.1, first.close)
    ending.start()
    second = MeetingPlace(directory)
    ending.join()
    sock = connect(directory)
    assert sock is not None
    sock.close()
    second.close()


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701])
def test_a_directory_that_is_open_to_others_is_refused(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(DataServerError, match="chmod 700"):
        MeetingPlace(directory)
    with pytest.raises(DataServerError, match="chmod 700"):
        connect(directory)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataServerError, match="missing"):
        connect(tmp_path / "missing")
