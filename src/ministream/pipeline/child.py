"""One program of the pipeline as a child process: start it, read its JSON events, end it.

Every program (control servers too) prints one JSON object per line on standard output: ``ready`` once,
``progress`` while it works, ``done`` at the end, ``error`` before it fails. Its standard error is kept, the
last lines of it, for the message that a failure gets. No program outlives the process that started it: the
kernel sends it SIGTERM when its parent dies (``PR_SET_PDEATHSIG``). A short interpreter asks for that and
then becomes the program, because code of ours between fork and exec is not safe beside gRPC's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ministream.errors import StageError

logger = logging.getLogger(__name__)

_LINE_LIMIT = 1 << 20
_STDERR_LINES = 20
_STOP_TIMEOUT_S = 10.0
# 1 is PR_SET_PDEATHSIG (linux/prctl.h). A parent that died before sends nothing: look whether it is there.
_BECOME = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[2], sys.argv[2:])"
)

# a line of the log, as every program of ours writes it: date, time, level, logger, text
_WARNING = re.compile(r"\S+ \S+ (?:WARNING|ERROR|CRITICAL) \S+: (.*)")
# options that a user has set for one program by hand are not meant for those that we start
_OPTION_PREFIXES = ("MINISTREAM_", "S2CS_", "S2DS_", "S2UC_", "APPCTRL_")

Event = Mapping[str, Any]


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OPTION_PREFIXES)}


class Child:
    """A running program.

    Parameters
    ----------
    name : str
        What users call it, for messages: ``daq``, ``reconstruct 0``.
    on_event : callable
        Called with every event, in order, from the event loop.
    on_warning : callable
        Called with the text of every warning or error in its log.

    Notes
    -----
    Make one with `Child.start`. Whoever starts it must `stop` it, whether or not it ended by itself.
    """

    def __init__(
        self,
        name: str,
        on_event: Callable[[Child, Event], None],
        on_warning: Callable[[Child, str], None],
    ) -> None:
        self.name = name
        self.summary: Event | None = None
        """The ``done`` event, once it has come."""
        self._on_event = on_event
        self._on_warning = on_warning
        self._ready: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._last_words: deque[str] = deque(maxlen=_STDERR_LINES)
        self._failure: str | None = None

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        on_event: Callable[[Child, Event], None],
        on_warning: Callable[[Child, str], None] = lambda _child, _text: None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start `command`, with `pass_fds` open; its first line may still be to come.

        Raises
        ------
        StageError
            The program cannot be executed.
        """
        program = shutil.which(command[0])
        if program is None:
            raise StageError(f"{name}: cannot execute {command[0]}: there is no such program")
        child = cls(name, on_event, on_warning)
        child._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), program, *command[1:]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**_own_environment(), **(environment or {})},
            limit=_LINE_LIMIT,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        child._readers = [
            asyncio.create_task(child._read_events(), name=f"{name} events"),
            asyncio.create_task(child._read_log(), name=f"{name} log"),
        ]
        child._ended = asyncio.create_task(child._wait(), name=f"{name} end")
        return child

    _process: asyncio.subprocess.Process
    _readers: list[asyncio.Task[None]]
    _ended: asyncio.Task[int]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def killed_by(self) -> signal.Signals | None:
        """The signal that has ended it; None if it runs, or ended by itself."""
        code = self._process.returncode
        return signal.Signals(-code) if code is not None and code < 0 else None

    async def ready(self, timeout_s: float) -> Event:
        """Return its ``ready`` event.

        Raises
        ------
        StageError
            It ended first, or was not ready within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise StageError(f"{self.name}: not ready after {timeout_s:g} s{self._quote()}") from None

    async def finished(self) -> Event:
        """Wait until it has ended, and return its ``done`` event.

        Raises
        ------
        StageError
            It failed, or ended without one; the message holds its own last words.
        """
        code = await asyncio.shield(self._ended)
        if code != 0 or self.summary is None:
            raise self._error(code)
        return self.summary

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL if it has not ended in time. Idempotent."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await asyncio.shield(self._ended)
            except TimeoutError:
                logger.warning("%s does not end after SIGTERM, killing it", self.name)
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        await self._ended

    async def _wait(self) -> int:
        code = await self._process.wait()
        await asyncio.gather(*self._readers)
        if not self._ready.done():
            self._ready.set_exception(self._error(code))
            self._ready.exception()  # whether or not anybody waits for it
        return code

    async def _read_events(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        async for line in stream:
            try:
                event = json.loads(line)
                kind = event["event"]
            except (ValueError, TypeError, KeyError):
                self._last_words.append(line.decode(errors="replace").rstrip())
                continue
            if kind == "ready" and not self._ready.done():
                self._ready.set_result(event)
            elif kind == "done":
                self.summary = event
            elif kind == "error":
                self._failure = str(event.get("message", ""))
            self._on_event(self, event)

    async def _read_log(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        async for line in stream:
            text = line.decode(errors="replace").rstrip()
            logger.debug("%s: %s", self.name, text)
            self._last_words.append(text)
            if warning := _WARNING.match(text):
                self._on_warning(self, warning[1])

    def _error(self, code: int) -> StageError:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self._failure:
            return StageError(f"{self.name}: {self._failure}", exit_code=code)
        return StageError(f"{self.name} ended with {how}{self._quote()}")

    def _quote(self) -> str:
        return ": " + " / ".join(list(self._last_words)[-3:]) if self._last_words else ""
