"""Where control servers to come find a running tree of processes: a Unix socket in a private directory.

::

    DIRECTORY/tree.lock     locked by the supervisor as long as it lives, so that there is one tree only
    DIRECTORY/tree.socket   where it listens

The directory belongs to one user and is closed to all others; who connects is asked of the kernel besides.
Both sides go through the directory's descriptor, because the address of a Unix socket holds 107 bytes and
the path of a directory may be longer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import time
from pathlib import Path

from scistream.errors import DataServerError

PROTOCOL = 4
"""What supervisor and backend speak; another number means that they cannot talk to each other."""

LOCK_LIMIT_S = 5.0
"""How long a tree that is ending may keep its successor waiting."""

_SOCKET, _LOCK = "tree.socket", "tree.lock"
_LOCK_POLL_S = 0.01
_BACKLOG = 8
_CREDENTIALS = struct.Struct("3i")


class MeetingPlace:
    """The supervisor's side: the directory is locked, the socket listens.

    Raises
    ------
    DataServerError
        The directory is not ours alone, another tree runs there, or the socket cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = _open_private(directory)
        self._lock = -1
        self.socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            self._lock = self._take_lock(directory)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_SOCKET, dir_fd=self._directory)
            self.socket.bind(_address(self._directory))
            os.chmod(_SOCKET, 0o600, dir_fd=self._directory)
            self.socket.listen(_BACKLOG)
        except OSError as error:
            self.close()
            raise DataServerError(f"{directory}: no socket can be made there: {error.strerror}") from error
        except DataServerError:
            self.close()
            raise

    def _take_lock(self, directory: Path) -> int:
        lock = os.open(
            _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._directory
        )
        deadline = time.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_POLL_S)  # the kernel has no lock with a time limit
                    continue
                os.close(lock)
                raise DataServerError(
                    f"other data servers run with the directory {directory} and do not end; "
                    f"end them (fuser {directory / _LOCK} names the process), or use another directory"
                ) from None
            return lock

    def accept(self) -> tuple[socket.socket, int] | None:
        """Return (connection, pid) of the next one that comes; None if it may not, or is gone again."""
        try:
            accepted, _ = self.socket.accept()
        except OSError:
            return None  # gone again
        pid, uid = peer_of(accepted)
        if uid != os.geteuid():
            accepted.close()
            return None
        return accepted, pid

    def leave(self) -> None:
        """Be found no more; the lock stays until `close`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_SOCKET, dir_fd=self._directory)
        self.socket.close()

    def close(self) -> None:
        """Close this process's copies of everything. Idempotent."""
        self.socket.close()
        for descriptor in (self._lock, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._directory = -1


def connect(directory: Path) -> socket.socket | None:
    """Return a connection to the supervisor that listens in `directory`; None if none does.

    Raises
    ------
    DataServerError
        The directory or who listens there is not ours, or it takes no connections.
    """
    descriptor = _open_private(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect(_address(descriptor))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise DataServerError(
            f"the data servers in {directory} run and take no connection: {error.strerror}; "
            f"if they hang, kill them (fuser {directory / _LOCK} names the process)"
        ) from error
    finally:
        os.close(descriptor)
    if peer_of(sock)[1] != os.geteuid():
        sock.close()
        raise DataServerError(f"what listens in {directory} is another user's process")
    return sock


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process at the other end; of one that listens, when it began to."""
    answer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(answer)
    return pid, uid


def _address(directory: int) -> str:
    return f"/proc/self/fd/{directory}/{_SOCKET}"


def _open_private(directory: Path) -> int:
    """Return a descriptor of the directory, which must be this user's alone."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DataServerError(f"{directory}: the directory cannot be used: {error.strerror}") from error
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        raise DataServerError(
            f"{directory} must belong to user {os.geteuid()} and be closed to others; "
            f"type: chmod 700 {directory}"
        )
    return descriptor
