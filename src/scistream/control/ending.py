"""How a control server's end ends its sessions: released, drained and released, or let go of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from scistream.control.shell import SessionShell
from scistream.core.events import SessionKey
from scistream.core.table import SessionTable

logger = logging.getLogger(__name__)

# How often a server that drains looks whether streams have finished.
_DRAIN_LOOK_S = 0.2
# Also after the time for draining is over.
_RELEASE_TIMEOUT_S = 5.0


class Ending:
    """The end of the sessions of one control server.

    Parameters
    ----------
    table : SessionTable
        Only looked at.
    shells : mapping of SessionKey to SessionShell
        What the sessions hold; it changes while they end.
    idle : asyncio.Event
        Set while there is no shell.
    release : callable
        Releases a session; awaited until it is free.
    """

    def __init__(
        self,
        table: SessionTable,
        shells: Mapping[SessionKey, SessionShell],
        idle: asyncio.Event,
        release: Callable[[SessionKey], Awaitable[None]],
    ) -> None:
        self._table = table
        self._shells = shells
        self._idle = idle
        self._release_one = release

    async def release_all(self, timeout_s: float, *, drain: bool) -> None:
        """Release every session, and wait until all are free; with `drain`, let streams finish until then."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        if drain:
            await self._drain(deadline_s)
        deadline_s = max(deadline_s, loop.time() + _RELEASE_TIMEOUT_S)
        await self._release(deadline_s)
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("%d sessions are not free", len(self._shells))

    async def _drain(self, deadline_s: float) -> None:
        """Wait for the streams to finish; release every session as soon as it has no connection."""
        loop = asyncio.get_running_loop()
        said = False
        while True:
            shells = dict(self._shells)
            found = await asyncio.gather(*(shell.statistics() for shell in shells.values()))
            busy = {
                key
                for key, channels in zip(shells, found, strict=True)
                if any(channel.connections_open for channel in channels)
            }
            await self._release(deadline_s, but=busy)
            if not self._shells or loop.time() >= deadline_s:
                return
            if not said:
                said = True
                logger.info("waiting for the streams of %d sessions to finish", len(self._shells))
            try:
                async with asyncio.timeout(min(_DRAIN_LOOK_S, max(0.0, deadline_s - loop.time()))):
                    await self._idle.wait()
            except TimeoutError:
                continue

    async def _release(self, deadline_s: float, but: Collection[SessionKey] = ()) -> None:
        """Release the living sessions, and wait until all that have ended are free."""
        live = [session.key for session in self._table if not session.state.ended and session.key not in but]
        if live:
            logger.info("releasing %d sessions", len(live))
        try:
            async with asyncio.timeout_at(deadline_s):
                await asyncio.gather(*map(self._release_one, live))
        except TimeoutError:
            logger.warning("not all of %d sessions were released in time", len(live))

    async def last_figures(self) -> None:
        """Find out once more what the sessions have carried."""
        await asyncio.gather(*(shell.statistics() for shell in tuple(self._shells.values())))

    async def let_go(self) -> None:
        """Leave all data servers running for the next control server."""
        shells = tuple(self._shells.values())
        await asyncio.gather(*(shell.let_go() for shell in shells))
        if shells:
            logger.info("%d sessions go on without a control server", len(shells))
