"""The control server's side of the native data server: asyncio, nothing that blocks.

`NativeBackend` starts one tree of processes (`tree`) and talks to it over a Unix socket; `NativeDataServer`
is one session in it. Session keys go through that socket, into the workers' memory, and nowhere else. Names
are resolved here, once per start or retarget, so that no worker ever waits for DNS.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver.base import (
    ChannelStatistics,
    DataServer,
    DataServerBackend,
    DataServerSpec,
    TlsCredentials,
)
from scistream.dataserver.native.tree import SessionName, Tree
from scistream.errors import ConfigurationError, DataServerError

logger = logging.getLogger(__name__)

RESOLVE_LIMIT_S = 10.0


class NativeBackend(DataServerBackend):
    """The native data server of one gateway.

    Parameters
    ----------
    workers : int, optional
        Worker processes; one per core that this process may use if not given.
    congestion_lan : str or None
        TCP congestion control of plain legs. Cubic, as BBR's pacing halves the speed of short paths.
    congestion_wan : str or None
        The same for encrypted legs; None leaves the kernel's default.
    tls_engine : str or None
        ``"openssl"`` or ``"stdlib"``; None takes the first that works.

    Raises
    ------
    ConfigurationError
        `workers` is less than 1.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        congestion_lan: str | None = "cubic",
        congestion_wan: str | None = None,
        tls_engine: str | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigurationError(f"workers is {workers}: at least one is needed")
        self._workers = workers or len(os.sched_getaffinity(0))
        self._congestion_lan = congestion_lan
        self._congestion_wan = congestion_wan
        self._tls_engine = tls_engine
        self._tree: Tree | None = None
        self._starting = asyncio.Lock()

    async def open(self) -> None:
        """Start the tree of processes.

        Raises
        ------
        DataServerError
            It does not start.
        """
        await self.tree()

    def create(self) -> DataServer:
        """Return an idle data server for one session."""
        return NativeDataServer(self)

    async def tree(self) -> Tree:
        """Return the running tree; a new one if the last one died.

        Raises
        ------
        DataServerError
            It does not start.
        """
        async with self._starting:
            if self._tree is not None and self._tree.ended.done():
                await self._tree.close()
                self._tree = None
            if self._tree is None:
                tree = Tree()
                try:
                    await tree.start(self._arguments())
                except BaseException:
                    await tree.close()
                    raise
                self._tree = tree
            return self._tree

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the tree, the supervisor first; empty when it is not running."""
        return self._tree.pids if self._tree is not None and not self._tree.ended.done() else ()

    async def close(self) -> None:
        """Stop every session and end the tree."""
        async with self._starting:
            tree, self._tree = self._tree, None
        if tree is not None:
            await tree.close()

    def _arguments(self) -> list[str]:
        arguments = ["--workers", str(self._workers), "--log-level", str(logger.getEffectiveLevel())]
        for flag, value in (
            ("--congestion-lan", self._congestion_lan),
            ("--congestion-wan", self._congestion_wan),
            ("--tls-engine", self._tls_engine),
        ):
            if value is not None:
                arguments += [flag, value]
        return arguments


class NativeDataServer(DataServer):
    """One session's forwarding in the tree of its backend."""

    def __init__(self, backend: NativeBackend) -> None:
        self._backend = backend
        self._tree: Tree | None = None
        self._session: SessionName | None = None
        self._channels = 0
        self._uid = ""
        self._stopped = asyncio.Event()

    async def start(self, spec: DataServerSpec) -> None:
        """Forward; return once every worker accepts.

        Raises
        ------
        DataServerError
            It could not be started, or a target has no address; nothing of it is left running.
        """
        if self._session is not None or self._stopped.is_set():
            raise DataServerError(f"session {spec.uid}: this data server was started before")
        targets = await _resolve(spec.targets, spec.uid)
        tree = await self._backend.tree()
        session = tree.new_session()
        self._tree, self._session = tree, session
        self._uid, self._channels = spec.uid, len(spec.listeners)
        try:
            await tree.request(
                {
                    "operation": "start",
                    "key": session.key,
                    "slot": session.slot,
                    "uid": spec.uid,
                    "targets": targets,
                    "tls": _tls_body(spec.tls),
                },
                [listener.fileno() for listener in spec.listeners],
            )
        except BaseException as error:
            await self.stop()
            if isinstance(error, DataServerError):
                raise DataServerError(f"session {spec.uid}: {error}") from error
            raise
        logger.debug("session %s: %d channels forwarded", spec.uid, self._channels)

    async def retarget(self, targets: Sequence[Endpoint], tls: TlsCredentials | None) -> None:
        """Connect new connections to `targets`; connections that are open finish where they are.

        Raises
        ------
        DataServerError
            It is not running, or a target has no address.
        """
        tree, session = self._running()
        resolved = await _resolve(tuple(targets), self._uid)
        await tree.request(
            {"operation": "retarget", "key": session.key, "targets": resolved, "tls": _tls_body(tls)}
        )

    async def stop(self) -> None:
        """Reset every connection and free everything. Idempotent, bounded in time."""
        self._stopped.set()
        tree, session = self._tree, self._session
        self._session = None
        if tree is None or session is None:
            return
        try:
            await tree.request({"operation": "stop", "key": session.key})
        except DataServerError as error:
            # a tree that does not answer has nothing left to stop, or is about to be ended
            logger.debug("session %s: stop: %s", self._uid, error)
        finally:
            tree.session_ended(session)

    async def wait(self) -> str:
        """Return when forwarding has ended, with the reason; ``"stopped"`` after a plain `stop`."""
        if self._tree is None or self._stopped.is_set():
            await self._stopped.wait()
            return "stopped"
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            events: set[asyncio.Future[Any]] = {stopped, self._tree.ended}
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        return "stopped" if self._stopped.is_set() else self._tree.ended.result()

    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Return one entry per channel, summed over all workers.

        Raises
        ------
        DataServerError
            It is not running, or does not answer.
        """
        tree, session = self._running()
        results = await tree.request({"operation": "statistics", "key": session.key})
        channels = []
        for per_worker in zip(*results, strict=True):
            figures = [sum(column) for column in zip(*per_worker, strict=True)]
            channels.append(
                ChannelStatistics(
                    connections_open=figures[0],
                    connections_total=figures[1],
                    connections_failed=figures[2],
                    bytes_to_target=figures[3],
                    bytes_from_target=figures[4],
                )
            )
        return tuple(channels)

    def _running(self) -> tuple[Tree, SessionName]:
        if self._tree is None or self._session is None:
            raise DataServerError(f"session {self._uid or '?'}: its data server is not running")
        if self._tree.ended.done():
            raise DataServerError(f"session {self._uid}: {self._tree.ended.result()}")
        return self._tree, self._session


def _tls_body(tls: TlsCredentials | None) -> dict[str, str] | None:
    if tls is None:
        return None
    return {
        "leg": tls.leg.value,
        "certificate": tls.certificate_pem.decode("ascii"),
        "private_key": tls.private_key_pem.decode("ascii"),
        "peer_certificate": tls.peer_certificate_pem.decode("ascii"),
    }


async def _resolve(targets: Sequence[Endpoint], uid: str) -> list[list[tuple[int, Any]]]:
    """Return every target's addresses, in the resolver's order of preference."""
    if not targets:
        raise DataServerError(f"session {uid}: no target to forward to")
    loop = asyncio.get_running_loop()

    async def addresses(target: Endpoint) -> list[tuple[int, Any]]:
        try:
            async with asyncio.timeout(RESOLVE_LIMIT_S):
                found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, UnicodeError) as error:
            raise DataServerError(
                f"session {uid}: the address of target {target} is unknown ({error or 'no answer'})"
            ) from error
        return [(int(family), address) for family, _, _, _, address in found]

    distinct = list(dict.fromkeys(targets))
    resolved = dict(zip(distinct, await asyncio.gather(*map(addresses, distinct)), strict=True))
    return [resolved[target] for target in targets]
