"""The state directory is one control server's own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from scistream.control.state_dir import StateDirectory
from scistream.errors import ConfigurationError, ResourceExhausted


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_in_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "a" / "state")
    state.write_key(1, b"secret")
    assert mode(state.path) == 0o700
    assert {mode(path) for path in state.path.rglob("*") if path.is_dir()} == {0o700}
    assert {mode(path) for path in state.path.rglob("*") if path.is_file()} == {0o600}
    state.close()


def test_a_second_control_server_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "state")
    with pytest.raises(ResourceExhausted, match="another control server runs with"):
        StateDirectory(tmp_path / "state")
    first.close()
    StateDirectory(tmp_path / "state").close()


def test_a_directory_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()
    (path / "something").touch()
    path.chmod(0o755)
    with pytest.raises(ConfigurationError, match=f"chmod 700 {path}"):
        StateDirectory(path)
    assert mode(path) == 0o755


def test_an_empty_directory_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(0o755)
    StateDirectory(path).close()
    assert mode(path) == 0o700


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="not a directory"):
        StateDirectory(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        StateDirectory(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make somebody else's directory")
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 12345"):
        StateDirectory(path)


def test_keys_are_kept_read_and_forgotten(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.write_key(7, b"seven")
    state.write_key(8, b"eight")
    assert state.read_key(7) == b"seven"
    assert state.read_key(9) == b""
    state.remove_key(7)
    state.remove_key(7)
    assert state.read_key(7) == b""
    state.write_key(9, b"nine")
    state.remove_keys_but({9})
    assert (state.read_key(8), state.read_key(9)) == (b"", b"nine")
    state.close()


def test_a_key_that_others_could_read_is_not_used(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.write_key(7, b"seven")
    (state.path / "keys" / "7.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match="open to other users"):
        state.read_key(7)
    state.close()
