"""A command of ``ministream`` as a process of its own, with the events that it prints."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.processes import MarkedProcesses

WAIT_S = 60.0


class Stage:
    """One ``ministream`` command, and its events."""

    def __init__(
        self,
        processes: MarkedProcesses,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = processes.start(*arguments, "--json", environment=environment)
        self.events: list[dict[str, Any]] = []
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._log)]
        self.log = ""
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._news.put(json.loads(line))
        self._news.put(None)

    def _log(self) -> None:
        assert self.process.stderr is not None
        self.log = self.process.stderr.read()

    def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of that kind."""
        while (event := self._news.get(timeout=WAIT_S)) is not None:
            self.events.append(event)
            if event["event"] == kind:
                return event
        pytest.fail(f"{self.process.args} ended without {kind}: {self.log}")

    def end(self) -> int:
        """Return its exit code; its log is complete then."""
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        return code

    def done(self) -> dict[str, Any]:
        """Return its summary."""
        summary = self.until("done")
        assert self.end() == 0, self.log
        return summary
