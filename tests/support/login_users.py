"""Users with homes of their own, who log in by the real ``s2uc``."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.gateways import PROGRAMS, Finished

LIMIT_S = 40.0
_URL = re.compile(r"https?://\S+")


@dataclass
class Conversation:
    """A program that asks the user something."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def shown(self) -> str:
        return "".join(self.lines)

    def url(self, after: str = "Please authenticate") -> str:
        """Return the address that the program shows after these words."""
        deadline_s = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline_s:
            # a line at a time, so that an address is complete
            shown = self.shown
            if (at := shown.find(after)) >= 0 and (match := _URL.search(shown, at)):
                return match[0]
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no address was shown: {self.shown}")

    def answer(self, text: str) -> Finished:
        """Type `text`, and return how the program has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.end()

    def end(self) -> Finished:
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return Finished(code, out, self.shown)


@dataclass
class User:
    """Somebody with a home."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.home / "config" / "scistream").mkdir(parents=True)

    @property
    def store(self) -> Path:
        return self.home / "data" / "scistream" / "logins.json"

    def write_profiles(self, text: str) -> None:
        (self.home / "config" / "scistream" / "config.toml").write_text(text)

    def run(self, *arguments: str | Path) -> Finished:
        with self.asked(*arguments) as conversation:
            return conversation.end()

    @contextmanager
    def asked(self, *arguments: str | Path) -> Iterator[Conversation]:
        """Start ``s2uc`` with somebody to answer it."""
        process = subprocess.Popen(
            [PROGRAMS / "s2uc", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env={
                **{
                    name: value for name, value in os.environ.items() if name not in {"DISPLAY", "S2UC_TOKEN"}
                },
                "HOME": str(self.home),
                "XDG_CONFIG_HOME": str(self.home / "config"),
                "XDG_DATA_HOME": str(self.home / "data"),
                **self.environment,
            },
        )
        try:
            yield Conversation(process)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(LIMIT_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None and not stream.closed:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        continue
