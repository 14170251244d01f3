"""Containers on their way out: removed in the background, however long the engine takes.

Nobody waits for an engine that hangs: what runs in a container is ended by the kernel, and what is left to
the engine is a name. Its calls block, and so each has a thread, which ends with this process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from scistream.dataserver.containers.engine import Engine, EngineSilent
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

REMOVED_WAIT_S = 1.0
"""How long an end waits for the engine, which mostly has removed the container by then."""
_AT_ONCE = 4
_RETRY_S = 1.0
_DOUBTFUL_S = 10.0
"""How long an engine that answers again may take to make what it was asked for before."""

P = ParamSpec("P")
T = TypeVar("T")


class Removals:
    """Those of one worker.

    Parameters
    ----------
    engine : Engine
        Which has the containers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    def add(self, name: str, starting: asyncio.Future[None] | None) -> asyncio.Event:
        """Have a container removed once the engine has done, or refused, what `starting` waits for.

        Returns
        -------
        asyncio.Event
            It is removed, or waiting for it makes no sense.
        """
        tried = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._remove(name, starting, tried))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(lambda _: tried.set())
        return tried

    async def wait(self, limit_s: float) -> None:
        """Return when all are removed, or it takes too long; the next gateway removes what is left then."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=limit_s)

    async def _remove(self, name: str, starting: asyncio.Future[None] | None, tried: asyncio.Event) -> None:
        if starting is None:
            return  # the engine was never asked
        doubtful = False
        await asyncio.wait({starting})
        if not starting.cancelled():
            doubtful = isinstance(starting.exception(), EngineSilent)
        loop = asyncio.get_running_loop()
        warned, until_s = False, None
        while True:
            try:
                async with self._places:
                    found = await in_thread(self._engine.remove, name)
            except DataServerError as error:
                if not warned:
                    logger.warning("container %s is not removed yet: %s", name, error)
                warned, until_s = True, None
            else:
                until_s = until_s or loop.time() + _DOUBTFUL_S
                if found or not doubtful or loop.time() >= until_s:
                    return
            tried.set()
            await asyncio.sleep(_RETRY_S)


def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> asyncio.Future[T]:
    """Call what blocks; neither the loop's end nor this process's waits for it.

    Raises
    ------
    DataServerError
        There can be no more threads.
    """
    called: Future[T] = Future()
    called.set_running_or_notify_cancel()  # who waits for it no more does not end it

    def call() -> None:
        try:
            result = function(*arguments, **named)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            called.set_exception(error)
        else:
            called.set_result(result)

    try:
        threading.Thread(target=call, daemon=True).start()
    except RuntimeError as error:
        raise DataServerError(f"the Docker Engine cannot be asked: {error}") from error
    return asyncio.wrap_future(called)
