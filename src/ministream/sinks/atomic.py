"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ministream.errors import OutputError

_ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another file system",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that is not read-only",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "choose a folder",
    errno.EISDIR: "choose the name of a file",
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a file in the same folder, which takes the place of `path` when the body is done.

    If the body fails, it is removed, and `path` is as it was.

    Raises
    ------
    OutputError
        The operating system refuses, in the body too.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield draft
        with draft.open("rb") as written:
            # a name that points to nothing after a power failure would be worse than no file
            os.fsync(written.fileno())
        draft.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out now whether a file can be made at `path`, rather than when there is something to write.

    Raises
    ------
    OutputError
        It cannot.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        draft.touch(exist_ok=False)
        draft.unlink()
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """Return what to tell about an operating system's refusal: which file, why, what to do."""
    number = error.errno
    if number is None or number == 0:
        number = _number_in(str(error))
    reason = os.strerror(number) if number else " ".join(str(error).split())[:200]
    advice = _ADVICE.get(number or 0)
    return OutputError(f"cannot write {path}: {reason}" + (f"; {advice}" if advice else ""))


def _number_in(text: str) -> int | None:
    """Return the errno that HDF5 wrote into its message (``errno = 28, error message = ...``)."""
    _, found, rest = text.partition("errno = ")
    digits = rest.partition(",")[0].strip()
    return int(digits) if found and digits.isdigit() else None
