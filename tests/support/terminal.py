"""``s2uc``, or another program of ours, on a terminal: what a person sees and types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

from support.gateways import PROGRAMS, TIMEOUT_S


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments: str, program: str = "s2uc", **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            [PROGRAMS / program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150", **environment},
            start_new_session=True,
        )
        os.close(slave)

    def expect(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.seen
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the program has ended
                assert text in self.seen, self.seen

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
