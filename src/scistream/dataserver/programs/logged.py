"""An instance that says at the end of each connection what it has carried; of open ones the kernel knows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar

from scistream.dataserver.programs.connections import Ended, connections_of, open_figures, with_ended
from scistream.dataserver.programs.plan import Plan
from scistream.dataserver.programs.program import Figures, Instance


class LoggedInstance(Instance):
    """One process of such a program; all of them read a changed configuration again.

    Parameters
    ----------
    plan : Plan
        What it forwards at first.
    ended : list of list of int
        Per channel, what connections that have ended carried; it grows.
    closing : Ended
        Those of them that may have a socket still.
    """

    reloads: ClassVar[bool] = True

    def __init__(self, plan: Plan, ended: Figures, closing: Ended) -> None:
        super().__init__(plan)
        self._ended = ended
        self._closing = closing

    @property
    @abstractmethod
    def pids(self) -> Collection[int]:
        """The processes that have its connections."""

    def on_refused(self, index: int) -> None:
        """Take back what the kernel had received of channel `index`'s refused connection: nobody got it."""
        self.last[index][3] = self._ended[index][3]

    async def read_figures(self) -> Figures:
        """Return what it has carried: what has ended, and what is open."""
        connections = self._closing.left_out(connections_of(self.pids))
        return with_ended(self._ended, open_figures(self.plan, self.addresses, connections))
