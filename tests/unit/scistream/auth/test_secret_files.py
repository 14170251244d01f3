"""Files for their owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from scistream.auth.secret_files import create_secret_file, read_secret_file, replace_secret_file
from scistream.errors import ConfigurationError


def test_a_new_file_has_mode_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_secret_file(tmp_path / "new", b"secret")
        replace_secret_file(tmp_path / "replaced", b"secret")
    finally:
        os.umask(before)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert read_secret_file(path) == b"secret"


def test_neither_a_file_nor_a_link_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    create_secret_file(tmp_path / "file", b"old")
    for name in ("file", "link"):
        with pytest.raises(ConfigurationError, match="exists already"):
            create_secret_file(tmp_path / name, b"new")
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_regular_file_of_sensible_size_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large"
    create_secret_file(large, b"x" * ((1 << 20) + 1))
    for path in (Path("/dev/zero"), tmp_path, large, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match=str(path)):
            read_secret_file(path)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for write in (create_secret_file, replace_secret_file):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            write(tmp_path / "missing" / "file", b"")
