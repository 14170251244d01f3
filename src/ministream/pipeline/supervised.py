"""A program that is started again when it was killed: by the kernel for its memory, by a person, by a fault.

One that says what its error is gets no second chance: it would fail again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ministream.errors import StageError
from ministream.pipeline.child import Child, Event

logger = logging.getLogger(__name__)

MOST_RESTARTS = 3
"""Of one program in one run."""


class Supervised:
    """One program, and those that were started in its place.

    Parameters
    ----------
    child : Child
        The first, running.
    start_again : callable
        Starts another one that goes on where it was.
    on_restart : callable
        Told in words each time.
    """

    def __init__(
        self,
        child: Child,
        start_again: Callable[[], Awaitable[Child]],
        on_restart: Callable[[str], None],
    ) -> None:
        self.name = child.name
        self.child = child
        self.restarts = 0
        self._start_again = start_again
        self._on_restart = on_restart

    async def farewell(self) -> Event:
        """Wait until the one that runs now has ended; start none in its place.

        Raises
        ------
        StageError
            It failed, or was killed.
        """
        return await self.child.finished()

    async def finished(self) -> Event:
        """Wait until it has ended by itself, and return its ``done`` event.

        Raises
        ------
        StageError
            It failed, or was killed too often.
        """
        while True:
            try:
                return await self.child.finished()
            except StageError as failure:
                killed_by = self.child.killed_by
                if killed_by is None:
                    raise
                if self.restarts == MOST_RESTARTS:
                    raise StageError(
                        f"{failure}; it had been started again {self.restarts} times"
                    ) from failure
            self.restarts += 1
            text = (
                f"{self.name} was ended by {killed_by.name} and is started again "
                f"({self.restarts} of {MOST_RESTARTS})"
            )
            logger.warning("%s", text)
            self._on_restart(text)
            self.child = await self._start_again()
