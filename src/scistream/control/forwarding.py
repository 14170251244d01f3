"""The data server of one session as its shell sees it: started, started again, found again, asked, stopped.

What the channels have carried is summed up over all data servers that the session has had.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

from scistream.core.endpoint import Endpoint
from scistream.core.status import ChannelStatistics
from scistream.dataserver.base import DataServer, DataServerBackend, DataServerSpec, TlsCredentials
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

_STATISTICS_TIMEOUT_S = 5.0
# A release waits for these.
_LAST_STATISTICS_TIMEOUT_S = 2.0
# Longer than a data server waits for an answer before it kills what hangs.
_STOP_TIMEOUT_S = 20.0
# Between an order that fails because the data server has died, and the news of its death.
_DEATH_TIMEOUT_S = 1.0

Channels = tuple[ChannelStatistics, ...]


class Forwarding:
    """One session's forwarding.

    Parameters
    ----------
    uid : str
        The session.
    backend : DataServerBackend
        Makes the data servers.
    died, restarted : callable
        Told the reason when the data server has ended by itself, or has restarted itself.
    carried, known : tuple of ChannelStatistics
        What data servers before have carried, and all that was known when the session was last looked at.
    """

    def __init__(
        self,
        uid: str,
        backend: DataServerBackend,
        *,
        died: Callable[[str], None],
        restarted: Callable[[str], None],
        carried: Channels = (),
        known: Channels = (),
    ) -> None:
        self._uid = uid
        self._backend = backend
        self._died = died
        self._restarted = restarted
        self.carried = carried
        self.known = known
        self._server: DataServer | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def handle(self) -> str:
        """By which another control server finds the data server; empty where there is none."""
        return "" if self._server is None else self._server.handle

    @property
    def running(self) -> bool:
        """Whether a data server has been started, or found again."""
        return self._watch is not None and not self._watch.done()

    async def start(self, spec: DataServerSpec) -> None:
        """Start a data server, in place of the one before if there was one.

        Raises
        ------
        DataServerError
            It does not start.
        """
        if self._server is not None:
            await self._look(_LAST_STATISTICS_TIMEOUT_S)
            await self._server.stop()
            self.carried = self.known = _closed(self.known)
        self._server = self._backend.create(self._restarted)
        await self._server.start(spec)
        self._begin_watch(self._server)

    async def adopt(self, handle: str) -> tuple[socket.socket, ...]:
        """Find the data server `handle` of an earlier control server; return its listeners, now ours too.

        Raises
        ------
        DataServerError
            It is not there any more.
        """
        adopted = await self._backend.adopt(handle, self._uid, self._restarted)
        self._server = adopted.server
        self._begin_watch(self._server)
        return adopted.listeners

    async def retarget(
        self, targets: Sequence[Endpoint], tls: TlsCredentials | None, *, dials: Sequence[Endpoint] = ()
    ) -> None:
        """Lead new connections to `targets`; `dials` are where a reverse session's producer dials.

        Raises
        ------
        DataServerError
            No data server runs, or it refuses.
        """
        if self._server is None:
            raise DataServerError("there is no data server to retarget")
        await self._server.retarget(targets, tls, dials=dials)

    async def has_died(self) -> bool:
        """Return whether the data server has ended by itself; that it is about to is waited for."""
        if self._watch is not None:
            await asyncio.wait({self._watch}, timeout=_DEATH_TIMEOUT_S)
        return not self.running

    async def statistics(self) -> Channels:
        """Return what the channels have carried; where no data server answers, what it said last."""
        if not self._stopping:
            await self._look(_STATISTICS_TIMEOUT_S)
        return self.known

    async def stop(self) -> None:
        """Close every connection and end the data server; bounded in time."""
        self._stopping = True
        if self._server is not None:
            await self._look(_LAST_STATISTICS_TIMEOUT_S)
            self.known = _closed(self.known)
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await self._server.stop()
            except (DataServerError, TimeoutError) as error:
                logger.warning("session %s: the data server does not stop: %r", self._uid, error)
            except Exception:
                logger.exception("session %s: stopping the data server failed", self._uid)
        await self.let_go()

    async def let_go(self) -> None:
        """Watch the data server no more; it runs on."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})

    # --- inside ----------------------------------------------------------------------------------------

    def _begin_watch(self, server: DataServer) -> None:
        self._watch = asyncio.create_task(self._wait(server), name=f"watching {self._uid}")

    async def _wait(self, server: DataServer) -> None:
        reason = await server.wait()
        if not self._stopping and server is self._server:
            logger.error("session %s: the data server ended: %s", self._uid, reason)
            self._died(f"the data server ended: {reason}")

    async def _look(self, timeout_s: float) -> None:
        """Bring `known` up to date; where that fails, whatever the reason, it stays as it is."""
        server = self._server
        if server is None or self._watch is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                now = await server.statistics()
            known = _sum(self.carried, now) if self.carried else now
        except (DataServerError, TimeoutError) as error:
            logger.warning("session %s: no statistics: %r", self._uid, error)
            return
        except Exception:
            logger.exception("session %s: asking for its statistics failed", self._uid)
            return
        if server is self._server:  # else what it has carried is in `carried` already
            self.known = known


def _closed(channels: Channels) -> Channels:
    return tuple(replace(channel, connections_open=0, connections_ready=0) for channel in channels)


def _sum(before: Channels, now: Channels) -> Channels:
    return tuple(
        ChannelStatistics(
            connections_open=new.connections_open,
            connections_total=old.connections_total + new.connections_total,
            connections_failed=old.connections_failed + new.connections_failed,
            bytes_to_target=old.bytes_to_target + new.bytes_to_target,
            bytes_from_target=old.bytes_from_target + new.bytes_from_target,
            connections_ready=new.connections_ready,
        )
        for old, new in zip(before, now, strict=True)
    )
