"""A Dask cluster while it is used: its client, which Dask workers there are, who has which.

A Dask worker has one reconstruction worker of ours at a time, and we say which. Dask would do so too, but
gives a task that was lost to any Dask worker, where it then waits behind one that lasts as long as the scan.

Where we have started the cluster, lost Dask workers are started again (nannies, jobs), as long as somebody
waits for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ministream.cluster import node
from ministream.errors import ConnectionFailed, StageError

if TYPE_CHECKING:
    from distributed import Client

    from ministream.cluster.placed import PlacedWorker

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
_ASK_AGAIN_S = 1.0
_END_TIMEOUT_S = 20.0
"""Longer than a child has between SIGTERM and SIGKILL."""

DASK_ERRORS = (OSError, TimeoutError)
"""What Dask raises when a peer has gone (CommClosedError is an OSError)."""


class Jobs:
    """What is known of whoever starts Dask workers for us; here nobody does."""

    failure: str | None = None
    """Why none will come."""

    def ask(self, count: int) -> None:
        """See to it that there are `count` Dask workers, or on their way."""

    def describe(self) -> str:
        """Return what to look at when none comes."""
        return "start more (dask worker ADDRESS), or ask for fewer --workers"


class DaskCluster:
    """See the module. A context manager: leaving it ends what it has placed.

    Parameters
    ----------
    client : Client
        Asynchronous, and connected.
    jobs : Jobs
        Who starts Dask workers.
    topic : str
        For reports; no other run has it.
    wanted : int
        How many Dask workers are to be there.
    start_timeout_s : float
        How long one may take to come.
    """

    def __init__(
        self, client: Client, jobs: Jobs, *, topic: str, wanted: int, start_timeout_s: float
    ) -> None:
        self.client: Any = client
        self.topic = topic
        self._jobs = jobs
        self._wanted = wanted
        self._start_timeout_s = start_timeout_s
        self._threads: dict[str, int] = {}
        self._taken: dict[str, PlacedWorker] = {}
        self._by_key: dict[str, PlacedWorker] = {}
        self._used: set[str] = set()
        self._failure: ConnectionFailed | None = None

    async def __aenter__(self) -> DaskCluster:
        self.client.subscribe_topic(self.topic, self._take_report)
        self._jobs.ask(self._wanted)
        self._looking = asyncio.create_task(self._look(), name="Dask workers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        there = sorted(self._used & self._threads.keys())
        if self._failure is not None or not there:
            return
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self.client.run(node.end_all, self.topic, workers=there, on_error="ignore")
        except DASK_ERRORS as failure:
            # their own watch ends them: nobody wants them any more
            logger.warning("Dask workers do not answer at the end: %s", failure)
        with contextlib.suppress(*DASK_ERRORS):
            self.client.unsubscribe_topic(self.topic)

    def has(self, address: str) -> bool:
        """Return whether that Dask worker is there.

        Raises
        ------
        ConnectionFailed
            The scheduler has gone.
        """
        if self._failure is not None:
            raise self._failure
        return address in self._threads

    async def check(self) -> None:
        """Look now which Dask workers are there.

        Raises
        ------
        ConnectionFailed
            The scheduler has gone.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._threads = dict(await self.client.nthreads())
        except DASK_ERRORS as error:
            self._failure = ConnectionFailed(f"the Dask scheduler has gone: {error}")
            raise self._failure from error

    @contextlib.asynccontextmanager
    async def place(self, key: str, worker: PlacedWorker) -> AsyncIterator[str]:
        """Wait for a Dask worker that has none of ours, and give it to `worker` meanwhile; yield its address.

        Raises
        ------
        ConnectionFailed
            None has come in time, or the scheduler has gone.
        """
        address = await self._free()
        self._taken[address] = self._by_key[key] = worker
        self._used.add(address)
        try:
            yield address
        finally:
            del self._taken[address], self._by_key[key]

    async def _free(self) -> str:
        give_up_at = time.monotonic() + self._start_timeout_s
        while True:
            free = [address for address in self._threads if self.has(address) and address not in self._taken]
            if free:
                return max(free, key=lambda address: (self._threads[address], address not in self._used))
            if self._failure is not None:
                raise self._failure
            if self._jobs.failure is not None:
                raise StageError(self._jobs.failure)
            if time.monotonic() > give_up_at:
                raise ConnectionFailed(
                    f"of {self._wanted} Dask workers {len(self._threads)} are there, and no other has come "
                    f"for {self._start_timeout_s:g} s; {self._jobs.describe()}"
                )
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        """Keep in mind which Dask workers there are; ask for those that are missing."""
        asked_at = time.monotonic()
        while True:
            try:
                await self.check()
            except ConnectionFailed:
                return  # whoever waits for something hears of it
            if len(self._threads) < self._wanted and time.monotonic() - asked_at > _ASK_AGAIN_S:
                asked_at = time.monotonic()
                self._jobs.ask(self._wanted)
            await asyncio.sleep(_LOOK_S)

    def _take_report(self, event: tuple[float, dict[str, Any]]) -> None:
        _, report = event
        worker = self._by_key.get(report["key"])
        # one that was given up may still talk
        if worker is not None:
            worker.take(report)
