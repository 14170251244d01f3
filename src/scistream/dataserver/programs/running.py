"""A running program, wherever it runs: watched, told by signals, ended."""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

Environment = Callable[[int], Mapping[str, str]]
"""Returns a program's environment, from its pid as it sees that itself."""
NOT_STARTED = "does not start"
"""How the end of one begins that has never run."""


class RunningProgram(ABC):
    """One process of a program and all that it has started.

    Attributes
    ----------
    pid : int
        Its number on this machine; 0 as long as that is not known.
    ended : asyncio.Future of str
        How it has ended; nothing of it is left then.
    """

    pid: int
    ended: asyncio.Future[str]

    @abstractmethod
    def signal(self, signum: signal.Signals) -> None:
        """Send the program a signal; one that has ended needs none."""

    @abstractmethod
    async def kill(self) -> None:
        """End it and all it has started, at once."""

    def pids_of(self, own: Collection[int]) -> Collection[int]:
        """Return the numbers on this machine of processes that it knows by the numbers `own`."""
        return own
