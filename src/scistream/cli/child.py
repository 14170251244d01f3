"""A command that a program of ours runs and supervises: its process group, its signals, its end.

It has a process group of its own, so that signals reach all that it has started, and nothing of it is left
when it has ended. It shares our output. A terminal's input stays ours (a background process group that reads
it would be stopped); input from a file or pipe is the command's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from scistream.cli.running import StoppedBySignal
from scistream.errors import ConfigurationError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.05


class ReceivedSignals:
    """SIGINT, SIGTERM and SIGHUP, one by one, instead of what they do by themselves.

    Use as a context manager inside the event loop.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[int] = asyncio.Queue()

    def __enter__(self) -> ReceivedSignals:
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.add_signal_handler(signum, self._queue.put_nowait, int(signum))
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.remove_signal_handler(signum)

    async def next(self) -> int:
        """Return the number of the next one."""
        return await self._queue.get()

    async def unless_received(self, work: Awaitable[T]) -> T:
        """Return the result of `work`; a signal cancels it.

        Raises
        ------
        StoppedBySignal
            A signal came first.
        """
        task = asyncio.ensure_future(work)
        received = asyncio.ensure_future(self.next())
        try:
            await asyncio.wait({task, received}, return_when=asyncio.FIRST_COMPLETED)
            if received.done():
                raise StoppedBySignal(received.result())
            return task.result()
        finally:
            for one in (task, received):
                one.cancel()
            await asyncio.gather(task, received, return_exceptions=True)


class Child:
    """A running command; `start` makes it."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start `command` with exactly `environment`.

        Raises
        ------
        ConfigurationError
            It cannot be started.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None,
                process_group=0,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(f"the command {command[0]!r} cannot be started: {reason}") from error
        logger.info("started %s as process %d", command[0], process.pid)
        return cls(process, command[0])

    @property
    def pid(self) -> int:
        """Number of its process, and of its process group."""
        return self._process.pid

    async def finish(self, signals: ReceivedSignals, grace_s: float) -> int:
        """Wait for its end; pass `signals` on to its group, and kill that `grace_s` after the first.

        Returns
        -------
        int
            Its exit code; 128 + the signal's number if a signal has ended it.
        """
        ended = asyncio.ensure_future(self._process.wait())
        passing_on = asyncio.ensure_future(self._pass_on(signals, grace_s))
        try:
            await asyncio.wait({ended, passing_on}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                logger.warning("%s has not ended within %g s; killing it", self._name, grace_s)
                self._signal(signal.SIGKILL)
            code = await ended
        finally:
            for task in (ended, passing_on):
                task.cancel()
            await self.end(grace_s)
        return 128 - code if code < 0 else code

    async def _pass_on(self, signals: ReceivedSignals, grace_s: float) -> None:
        """Pass signals on to the group; return `grace_s` after the first."""
        self._signal(await signals.next())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while True:
                    self._signal(await signals.next())

    async def end(self, grace_s: float) -> None:
        """End all of its group: ask by SIGTERM, kill after `grace_s`. Idempotent."""
        deadline_s = asyncio.get_running_loop().time() + grace_s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
            while asyncio.get_running_loop().time() < deadline_s:
                await asyncio.sleep(_POLL_S)  # only its own parent is told of a process's end
                os.killpg(self.pid, 0)
            logger.warning("killing what %s has left", self._name)
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)
