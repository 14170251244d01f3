"""Files appear whole or not at all; what the operating system refuses is told with advice."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ministream.errors import OutputError
from ministream.sinks.atomic import output_error, replacing


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with replacing(path) as draft:
        draft.write_text("new")
        assert not path.exists()
        assert draft.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_text("older")

    def interrupted() -> None:
        with replacing(path) as draft:
            draft.write_text("new")
            raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        interrupted()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_that_is_full_is_told(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "result") as draft:
            draft.symlink_to("/dev/full")
            draft.write_bytes(b"x" * 100_000)

    with pytest.raises(OutputError, match=r"result: No space left on device; free some space"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.EACCES, "?"),
            "cannot write a/b: Permission denied; choose a folder that you may write to",
        ),
        (
            OSError("can't write (errno = 28, error message = 'x')"),
            "No space left on device; free some space",
        ),
        (OSError("something\n  else"), "cannot write a/b: something else"),
    ],
)
def test_reasons_come_with_advice(error: OSError, text: str) -> None:
    assert text in str(output_error(Path("a/b"), error))
