"""A private folder on a file system that the workers' hosts see too, for as long as a run lasts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from ministream.errors import OutputError

logger = logging.getLogger(__name__)

_PREFIX = ".ministream-cluster-"
_REMOVE_S = 10.0
"""How long jobs that have been cancelled may go on to write to their logs."""


@contextlib.asynccontextmanager
async def shared_folder(parent: Path) -> AsyncIterator[Path]:
    """Yield a new folder in `parent` that only this user can read; remove it afterwards.

    Those that commands on this host have left there, because they were killed, are removed too.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    _sweep(parent)
    try:
        path = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir=parent))
    except OSError as error:
        raise OutputError(
            f"cannot write to {parent}: {error.strerror}; the workers' parts go there"
        ) from error
    try:
        yield path
    finally:
        await _remove(path)


def _prefix() -> str:
    # a process id means something on its own host only
    return f"{_PREFIX}{socket.gethostname()}-"


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{_prefix()}*-*"):
        pid = path.name.removeprefix(_prefix()).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            # somebody else may remove it too, or it may not be ours
            shutil.rmtree(path, ignore_errors=True)


async def _remove(path: Path) -> None:
    give_up_at = time.monotonic() + _REMOVE_S
    while True:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > give_up_at:
                logger.warning("%s cannot be removed, and holds a key: %s", path, error)
                return
        else:
            return
        await asyncio.sleep(0.2)
