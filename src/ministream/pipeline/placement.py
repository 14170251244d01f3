"""Where a run's reconstruction workers are: what a run asks of whoever starts them on other hosts.

Without one they are children of the run. `ministream.cluster` places them by Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ministream.pipeline.child import Event


class Named(Protocol):
    """Somebody whom users know by a name."""

    @property
    def name(self) -> str:
        """What users call it: ``reconstruct 0``."""


class Worker(Named, Protocol):
    """One reconstruction worker, and those that are started in its place."""

    restarts: int

    async def ready(self, timeout_s: float) -> Event:
        """Return the first one's ``ready`` event; raise StageError if it fails before, or takes longer."""

    async def finished(self) -> Event:
        """Return the ``done`` event; raise StageError if it failed, or was lost too often."""

    async def farewell(self) -> Event:
        """As `finished`, but start none in its place any more."""


class Placement(Protocol):
    """Starts workers, and watches them.

    Attributes
    ----------
    host : str
        Name or address of this host, as the workers reach it.
    key_file : Path
        The link key that all programs of the run have.
    ready_timeout_s : float
        How long a worker may take to be ready.
    """

    host: str
    key_file: Path
    ready_timeout_s: float

    async def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        on_event: Callable[[Named, Event], None],
        on_warning: Callable[[Named | None, str], None],
    ) -> Worker:
        """Have a worker started by `command`; its publisher, threads, key and output are the placement's.

        `on_warning` gets what the worker warns of, and, with None, what is told of the worker.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a placement is told of its run.

    Parameters
    ----------
    scratch : Path
        A folder on this host for what only this user may read.
    shared : Path
        A folder that the workers' hosts see too.
    mark : str
        For the environment of every process.
    """

    scratch: Path
    shared: Path
    mark: str


Place = Callable[[Site], AbstractAsyncContextManager[Placement]]
