"""Wait for several programs at once; if some fail, tell which failure began it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from ministream.errors import StageError
from ministream.pipeline.child import Child, Event

# as in ministream.cli.exit_codes: these tell that a neighbour has gone, and not why
_CONNECTION_LOST, _NEIGHBOUR_DIED = 4, 8


class Program(Protocol):
    """What can be waited for: a child, or what stands for one after the other."""

    @property
    def name(self) -> str:
        """What users call it."""

    async def finished(self) -> Event:
        """Wait until it has ended well, and return its summary; raise StageError if it has failed."""


class Lossy:
    """A DAQ whose detector may lose frames.

    Such a DAQ passes on everything else, tells what it has done, and then ends with an error. What there is
    is worth keeping: here it counts as done, and `on_warning` is told the error.
    """

    def __init__(self, child: Child, on_warning: Callable[[str], None]) -> None:
        self.name = child.name
        self._child = child
        self._on_warning = on_warning

    async def finished(self) -> Event:
        """Wait until it has ended, and return its summary.

        Raises
        ------
        StageError
            It has failed before it had passed everything on.
        """
        try:
            return await self._child.finished()
        except StageError as failure:
            summary = self._child.summary
            if summary is None or failure.exit_code != _CONNECTION_LOST:
                raise
            self._on_warning(str(failure))
            return summary


_ECHO_S = 1.5
"""After the first failure: how long the program that caused it may take to end as well."""


def is_echo(failure: StageError) -> bool:
    """Return whether `failure` may be the consequence of another one."""
    return failure.exit_code in (_CONNECTION_LOST, _NEIGHBOUR_DIED)


async def all_done(
    watched: Sequence[Program], *, must_live: Sequence[Child], may_end: Sequence[Program]
) -> list[Event]:
    """Return the summaries of all `watched`, once each has ended well.

    Parameters
    ----------
    watched : sequence of Program
        Those that end by themselves.
    must_live : sequence of Child
        Those that have to be there until then.
    may_end : sequence of Program
        Those that may end with success before.

    Raises
    ------
    StageError
        One has failed. Of several that fail at about the same time, the one that tells the cause.
    """
    done = [asyncio.create_task(child.finished(), name=child.name) for child in watched]
    servers = [asyncio.create_task(_ended(child), name=child.name) for child in must_live]
    others = [asyncio.create_task(child.finished(), name=child.name) for child in may_end]
    everything = [*done, *servers, *others]
    try:
        pending: set[asyncio.Task[Event]] = set(everything)
        while any(task in pending for task in done):
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() for task in finished):
                if pending:
                    await asyncio.wait(pending, timeout=_ECHO_S)
                raise _cause(everything)
        return [task.result() for task in done]
    finally:
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


async def _ended(child: Child) -> Event:
    await child.finished()
    raise StageError(f"{child.name} ended while it was needed")


def _cause(tasks: Sequence[asyncio.Task[Event]]) -> BaseException:
    """Return the failure that explains most: what somebody says of its neighbours explains least."""
    failures = [error for task in tasks if task.done() and (error := task.exception())]
    return min(failures, key=_distance)


def _distance(error: BaseException) -> int:
    """Return how far from the cause a failure is."""
    if not isinstance(error, StageError) or not is_echo(error):
        return 0
    return 1 if error.exit_code == _NEIGHBOUR_DIED else 2
