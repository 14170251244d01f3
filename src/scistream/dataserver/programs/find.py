"""Where the system has a program, and which version it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scistream.errors import DataServerError

Version = tuple[int, ...]

#: Where programs for administrators are, which are not in every user's PATH.
_MORE_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
_VERSION_LIMIT_S = 10.0


def find_binary(name: str, package: str, given: str | None) -> str:
    """Return the path of the program `name`, or the one that was `given`.

    Raises
    ------
    DataServerError
        It is not there.
    """
    path = shutil.which(given or name, path=f"{os.environ.get('PATH', os.defpath)}:{_MORE_FOLDERS}")
    if path is None:
        raise DataServerError(
            f"{given or name} is not installed, or not executable; type: apt install {package}, put the "
            "folder of another one on PATH, or use the native data server"
        )
    return str(Path(path).absolute())


def output_of(arguments: Sequence[str], environment: dict[str, str]) -> str:
    """Return what a program says of itself, on both outputs.

    Raises
    ------
    DataServerError
        It cannot be executed, or does not end.
    """
    try:
        finished = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=_VERSION_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataServerError(f"{arguments[0]} cannot be executed: {error}") from error
    return finished.stdout.decode("utf-8", "replace")


def version_in(text: str, pattern: str) -> Version | None:
    """Return the version that `pattern` finds in what a program says of itself; None if it finds none."""
    found = re.search(pattern, text)
    return tuple(int(number) for number in found.group(1).split(".")) if found else None
