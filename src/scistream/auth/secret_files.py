"""Files that only their owner may read: tokens, keys. Made so, and refused when found otherwise."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from scistream.errors import ConfigurationError

# A token or key is well below this; a mistyped path such as /dev/zero is not.
_MAX_BYTES = 1 << 20


def create_secret_file(path: Path, content: bytes) -> None:
    """Write `content` to the new file `path`, mode 0600 from its first moment.

    Raises
    ------
    ConfigurationError
        It exists already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists already; move it away or choose another name") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def replace_secret_file(path: Path, content: bytes) -> None:
    """Write `content` to `path`, mode 0600, in one step: a reader sees the old content or the new.

    Raises
    ------
    ConfigurationError
        It cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def read_secret_file(path: Path) -> bytes:
    """Return the content of `path`.

    Raises
    ------
    ConfigurationError
        It is missing, no file, too large, or open to others than its owner.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{path} is not a regular file")
            if status.st_mode & 0o077:
                raise ConfigurationError(
                    f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}); "
                    f"type: chmod 600 {path}"
                )
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigurationError(f"{path} holds more than {_MAX_BYTES} bytes; it is no key or token")
    return content
