"""What a run needs only while it runs: its folder with keys, and the mark that all its processes bear."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from ministream.errors import StageError

logger = logging.getLogger(__name__)

MARK = "SCISTREAM_MARK_RUN"
"""Environment variable by which the processes of a run are known. Data servers pass such names on."""

_PREFIX = "ministream-run-"


def new_mark() -> str:
    """Return a value for `MARK` that no other run has."""
    return uuid.uuid4().hex


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a new folder that only this user can read; remove it afterwards.

    Folders of runs that were killed are removed too: they hold keys.
    """
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as path:
        yield Path(path)


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):  # somebody else removes it too
            if path.owner() == Path("/proc/self").owner() and not Path("/proc", pid).exists():
                shutil.rmtree(path)


@contextlib.contextmanager
def no_stragglers(mark: str) -> Iterator[None]:
    """Make sure of it: afterwards no process that descends from this run is left, whatever its parent did.

    Raises
    ------
    StageError
        There was one, although nothing else had failed. It has been killed.
    """
    try:
        yield
    except BaseException:
        try:
            _kill_stragglers(mark)
        except StageError as left:  # what they are left by is the error
            logger.warning("%s", left)
        raise
    _kill_stragglers(mark)


def _kill_stragglers(mark: str) -> None:
    wanted = f"{MARK}={mark}".encode()
    left = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
                left.append(process.name)
    if left:
        raise StageError(f"processes {', '.join(left)} had not ended with the run; they were killed")
