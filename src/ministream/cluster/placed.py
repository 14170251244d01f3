"""One reconstruction worker somewhere in a cluster, and those that are started in its place.

As on this host, one that was killed, or whose Dask worker was lost, is started again a few times; one that
says what its error is gets no second chance.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ministream.cluster import node
from ministream.errors import MiniStreamError, StageError
from ministream.pipeline import Named
from ministream.pipeline.child import Event
from ministream.pipeline.supervised import MOST_RESTARTS

if TYPE_CHECKING:
    from ministream.cluster.dask_cluster import DaskCluster

logger = logging.getLogger(__name__)

_LOOK_S = 0.2


class Lost(Exception):
    """The worker is gone, for a reason that another one may not meet."""


class PlacedWorker:
    """See the module.

    Parameters
    ----------
    name : str
        What users call it.
    cluster : DaskCluster
    order : callable
        Makes the order for the next attempt out of its Dask key.
    on_event, on_warning : callable
        As those of `ministream.pipeline.Placement.start`.
    """

    def __init__(
        self,
        name: str,
        cluster: DaskCluster,
        order: Callable[[str], node.Order],
        on_event: Callable[[Named, Event], None],
        on_warning: Callable[[Named | None, str], None],
    ) -> None:
        self.name = name
        self.restarts = 0
        self._cluster = cluster
        self._order = order
        self._on_event = on_event
        self._on_warning = on_warning
        self._last_try = False
        self._ready: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._work = asyncio.create_task(self._supervise(), name=name)

    async def ready(self, timeout_s: float) -> Event:
        """Return the first one's ``ready`` event.

        Raises
        ------
        StageError
            It failed before, or takes longer.
        """
        await asyncio.wait({self._ready, self._work}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return self._ready.result()
        if self._work.done():
            return await self.finished()
        raise StageError(f"{self.name}: not ready after {timeout_s:g} s")

    async def finished(self) -> Event:
        """Return the ``done`` event.

        Raises
        ------
        StageError
            It failed, or was lost too often.
        ConnectionFailed
            There is no Dask worker for it.
        """
        return await asyncio.shield(self._work)

    async def farewell(self) -> Event:
        """As `finished`; but nothing is started in its place any more."""
        self._last_try = True
        return await self.finished()

    async def stop(self) -> None:
        """Want it no more. Its child ends by itself, soon."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    def take(self, report: Mapping[str, Any]) -> None:
        """Take note of a report of the one that runs now."""
        if "warning" in report:
            self._on_warning(self, str(report["warning"]))
            return
        event: Event = report["event"]
        if event.get("event") == "ready":
            logger.info("%s runs on %s", self.name, report.get("host"))
            if not self._ready.done():
                self._ready.set_result(event)
        self._on_event(self, event)

    async def _supervise(self) -> Event:
        while True:
            try:
                return await self._attempt()
            except Lost as loss:
                if self._last_try or self.restarts == MOST_RESTARTS:
                    raise StageError(
                        f"{self.name} {loss}; it had been started again {self.restarts} times"
                    ) from loss
                self.restarts += 1
                text = f"{self.name} {loss} and is started again ({self.restarts} of {MOST_RESTARTS})"
            logger.warning("%s", text)
            self._on_warning(None, text)

    async def _attempt(self) -> Event:
        key = f"ministream-{self.name.replace(' ', '-')}-{uuid.uuid4().hex[:8]}"
        async with self._cluster.place(key, self) as address:
            # it must not go elsewhere by itself: there one may be already
            future = self._cluster.client.submit(
                node.carry_out,
                self._order(key),
                key=key,
                workers=[address],
                allow_other_workers=False,
                pure=False,
            )
            try:
                return await self._outcome(future, address)
            finally:
                future.release()

    async def _outcome(self, future: Any, address: str) -> Event:
        while future.status == "pending":
            if not self._cluster.has(address):
                raise Lost(f"was lost with its Dask worker {address}")
            await asyncio.sleep(_LOOK_S)
        if future.status != "finished":
            # not the Dask worker's loss, if the scheduler has gone
            await self._cluster.check()
        if future.status == "error":
            await self._raise(await future.exception(), address)
        if future.status != "finished":
            raise Lost(f"was given up by Dask at {address} ({future.status})")
        try:
            outcome = await future
        except OSError as error:
            raise Lost(f"was lost with its Dask worker {address} ({error})") from error
        if outcome.get("killed_by"):
            raise Lost(f"was ended by {outcome['killed_by']} on {address}")
        if "failure" in outcome:
            raise StageError(outcome["failure"], exit_code=outcome["exit_code"])
        summary: Event = outcome["summary"]
        self._on_event(self, summary)
        return summary

    async def _raise(self, error: BaseException | None, address: str) -> None:
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            raise Lost(f"was lost with its Dask worker {address}")
        if isinstance(error, ModuleNotFoundError):
            raise StageError(
                f"{self.name}: the Dask worker {address} has no {error.name}: it needs the same installation "
                "of ministream as this host"
            ) from error
        if isinstance(error, MiniStreamError):
            raise error
        raise StageError(
            f"{self.name}: the Dask worker {address} cannot run it: {type(error).__name__}: {error}"
        ) from error
