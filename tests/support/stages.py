"""A stage of the pipeline in a thread of the test, with what it reports and how it ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ministream.errors import MiniStreamError

Report = Callable[[Mapping[str, Any]], None]


class StageThread:
    """Runs `run` with `options` until it ends, or `stop` is called."""

    def __init__(
        self, run: Callable[[Any, Report, threading.Event], None], options: Any, *, wait_s: float
    ) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.error: BaseException | None = None
        self._wait_s = wait_s
        self._stop = threading.Event()
        self._ready: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(run, options))
        self._thread.start()

    def _run(self, run: Callable[[Any, Report, threading.Event], None], options: Any) -> None:
        try:
            run(options, self._report, self._stop)
        except MiniStreamError as error:
            self.error = error
            self._ready.put("")

    def _report(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "ready":
            self._ready.put(event["address"])

    @property
    def address(self) -> str:
        return self._ready.get(timeout=self._wait_s)

    @property
    def done(self) -> Mapping[str, Any]:
        self.join()
        assert self.error is None, self.error
        assert self.events[-1]["event"] == "done"
        return self.events[-1]

    def join(self) -> None:
        self._thread.join(self._wait_s)
        assert not self._thread.is_alive(), "the stage does not end"

    def stop(self) -> None:
        self._stop.set()
        self.join()
