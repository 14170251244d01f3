"""Real runs of ``ministream``, and proof that they leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MARK = "SCISTREAM_MARK_TEST"


@dataclass
class MarkedProcesses:
    """Starts ``ministream`` with a mark in the environment, by which every descendant can be found."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        module: str = "ministream",
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.mark, **(environment or {})},
        )
        self.started.append(process)
        return process

    def run(
        self,
        *arguments: str | Path,
        timeout_s: float = 100,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, environment=environment)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def alive(self) -> list[psutil.Process]:
        """Every process that descends from those that were started, whoever its parent is now."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if wanted in environment and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until(self, condition: Callable[[], Any], timeout_s: float = 60) -> Any:
        """Return what `condition` returns, once that is true."""
        deadline = time.monotonic() + timeout_s
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} did not come true within {timeout_s} s")
            time.sleep(0.02)  # the interval of a poll, not a guess at how long something takes
        return result

    def named(self, word: str) -> list[psutil.Process]:
        """Those that are alive and have `word` among their arguments."""
        found = []
        for process in self.alive():
            with contextlib.suppress(psutil.Error):
                if word in process.cmdline():
                    found.append(process)
        return found


def verdict_of(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The verdict that ``ministream run --json`` has printed."""
    assert finished.returncode == 0, finished.stderr
    verdict = json.loads(finished.stdout)
    assert isinstance(verdict, dict)
    return verdict
