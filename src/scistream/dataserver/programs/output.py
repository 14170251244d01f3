"""What a running program writes, line by line, on a pipe."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

MAX_LINE_BYTES = 4096
"""What is longer is more than one line."""

_READ_BYTES = 1 << 16


class Output:
    """The reading end, in the event loop.

    Parameters
    ----------
    on_line : callable
        Called with each line.

    Attributes
    ----------
    writing_end : int
        What the program gets; `started` closes it here.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_line = on_line
        self._unfinished = b""
        self._descriptor, self.writing_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.writing_end, True)
        self._loop.add_reader(self._descriptor, self._on_readable)

    def started(self) -> None:
        """Close the writing end, which the program has. Idempotent."""
        if self.writing_end >= 0:
            os.close(self.writing_end)
            self.writing_end = -1

    def close(self) -> None:
        """Hear the last words."""
        self.started()
        while self._on_readable():
            pass
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        if self._unfinished:
            self._on_line(self._unfinished.decode("utf-8", "replace"))

    def _on_readable(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._descriptor)
            return False
        *lines, rest = (self._unfinished + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._unfinished = rest
        for line in lines:
            self._on_line(line.decode("utf-8", "replace").rstrip())
        return True
