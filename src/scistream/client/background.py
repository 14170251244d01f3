"""One event loop in a thread of its own, in which the asynchronous client works for synchronous callers.

The caller's thread may run an event loop itself (Jupyter does): it is blocked, not used. Ctrl-C in the
waiting thread cancels the work, and returns when its clean-up is done.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_TIMEOUT_S = 5.0

_lock = threading.Lock()
_current: BackgroundLoop | None = None


class BackgroundLoop:
    """An event loop that runs in a daemon thread until the program ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="scistream-client", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; not so in a process that was forked."""
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and return its result, or raise its error.

        An exception in the waiting thread (KeyboardInterrupt) cancels the work and is raised when it has
        ended; a second one does not wait.

        Raises
        ------
        RuntimeError
            It is called from within the loop, which it would block for ever.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "scistream.client cannot be called from its own event loop; use scistream.client.aio"
            )
        ended = threading.Event()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self._loop.create_task(work)
            task.add_done_callback(lambda _: ended.set())
            tasks.append(task)

        def cancel() -> None:  # in the loop, where the task exists by then
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(begin)
        try:
            ended.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(cancel)
            ended.wait()
            if not tasks[0].cancelled():
                tasks[0].exception()  # seen: what interrupted is more important
            raise
        return tasks[0].result()

    def stop(self) -> None:
        """Stop the loop and close it; what still runs in it is cancelled."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left, timeout=_STOP_TIMEOUT_S / 2))
        finally:
            self._loop.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the program's background loop, which is started by the first call."""
    global _current  # noqa: PLW0603 - one loop for the program: gRPC's connections belong to theirs
    with _lock:
        if _current is None or not _current.is_alive:
            _current = BackgroundLoop()
            atexit.register(_current.stop)
        current = _current
    return current.run(work)
