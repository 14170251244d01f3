"""A file for HDF5 to write into that never fails in its hands.

HDF5 flushes metadata when a file is closed. If the disk is full then, it loses the error (h5py prints it as
"ignored"), keeps the file open, and crashes the interpreter at exit (seen with HDF5 2.0, h5py 3.16). So the
first failure is kept here, HDF5 is told that all is well, and whoever owns the file asks `check` afterwards.
"""

from __future__ import annotations

import io
import os
from pathlib import Path


class SteadyFile(io.RawIOBase):
    """A new file, open for reading and writing, for ``h5py.File(fileobj, "w")``.

    Parameters
    ----------
    path : Path
        It must not exist.

    Raises
    ------
    OSError
        It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._end = 0
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first failure there was.

        Raises
        ------
        OSError
            The file is not what was written into it.
        """
        if self._error is not None:
            raise self._error

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to `offset` from the begin, the position or the end."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read as much as `buffer` holds, zeros where nothing could be written."""
        view = memoryview(buffer).cast("B")
        got = os.preadv(self._descriptor, [view], self._position)
        length = max(got, min(len(view), self._end - self._position))
        view[got:length] = bytes(length - got)
        self._position += length
        return length

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write all of `data`; after a failure, only say so."""
        view = memoryview(data).cast("B")
        length = len(view)
        try:
            while view and self._error is None:
                written = os.pwrite(self._descriptor, view, self._position)
                self._position += written
                view = view[written:]
        except OSError as error:
            self._error = error
        self._position += len(view)
        self._end = max(self._end, self._position)
        return length

    def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long."""
        size = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = self._error or error
        self._end = size
        return size

    def close(self) -> None:
        """Close the file; what fails here too is for `check`."""
        if not self.closed:
            super().close()
            try:
                os.close(self._descriptor)
            except OSError as error:
                self._error = self._error or error
