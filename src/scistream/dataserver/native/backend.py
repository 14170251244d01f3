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
from dataclasses import fields
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver.base import (
    Adopted,
    ChannelStatistics,
    DataServer,
    DataServerBackend,
    DataServerSpec,
    Persistence,
    Restarted,
    TlsCredentials,
)
from scistream.dataserver.native.tree import Tree, TreeSession
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
        self._persistence: Persistence | None = None
        self._tree: Tree | None = None
        self._starting = asyncio.Lock()

    async def open(self, persistence: Persistence | None = None) -> None:
        """Start the tree of processes, or find the one that an earlier control server has left.

        Raises
        ------
        DataServerError
            It does not start, or what is found cannot be used.
        """
        if persistence is not None:
            self._persistence = persistence
        await self.tree()

    def create(self, restarted: Restarted | None = None) -> DataServer:
        """Return an idle data server for one session."""
        return NativeDataServer(self, restarted)

    async def adopt(self, handle: str, spec_uid: str, restarted: Restarted | None = None) -> Adopted:
        """Take over the data server `handle`, which an earlier control server has started.

        Raises
        ------
        DataServerError
            It has ended, or is another session's.
        """
        tree = await self.tree()
        identity, _, key = handle.partition(":")
        session = tree.sessions.get(int(key)) if identity == tree.identity and key.isdecimal() else None
        if session is None or session.key not in tree.found:
            raise DataServerError(f"session {spec_uid}: its data server has ended")
        if session.uid != spec_uid:
            raise DataServerError(f"session {spec_uid}: data server {handle} forwards {session.uid!r}")
        if session.ended.done():
            raise DataServerError(f"session {spec_uid}: {session.ended.result()}")
        reply = await tree.request({"operation": "listeners", "key": session.key})
        listeners = tuple(socket.socket(fileno=descriptor) for descriptor in reply.descriptors)
        tree.found.discard(session.key)
        server = NativeDataServer(self, restarted)
        server.take(tree, session)
        return Adopted(server, listeners)

    async def discard_unadopted(self) -> int:
        """Stop the sessions that were found and not adopted; return how many."""
        tree = await self.tree()
        sessions = [tree.sessions[key] for key in tree.found]
        await asyncio.gather(*map(tree.stop, sessions))
        return len(sessions)

    async def tree(self) -> Tree:
        """Return the running tree; a new one if the last one died.

        Raises
        ------
        DataServerError
            It does not start.
        """
        async with self._starting:
            again = self._tree is not None
            if self._tree is not None and self._tree.lost:
                await self._tree.ended
                await self._tree.clear_away()
                self._tree = None
            if self._tree is None:
                self._tree = await self._find_tree() or await self._start_tree()
                if again:
                    # only the connection was lost: the sessions have been given up, and are started anew
                    await asyncio.gather(
                        *(self._tree.stop(self._tree.sessions[key]) for key in self._tree.found)
                    )
            return self._tree

    async def _find_tree(self) -> Tree | None:
        if self._persistence is None:
            return None
        tree = Tree(self._persistence)
        try:
            settings = await tree.find()
        except BaseException:
            await tree.detach()
            raise
        if settings is None:
            await tree.detach()
            return None
        logger.info("data servers run already: %d sessions, process %d", len(tree.sessions), tree.pids[0])
        if settings != self._settings():
            logger.warning(
                "the data servers that run already keep their settings %s until they have ended", settings
            )
        return tree

    async def _start_tree(self) -> Tree:
        tree = Tree(self._persistence)
        try:
            await tree.start(self._arguments())
        except BaseException:
            await tree.close()
            raise
        return tree

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the tree, the supervisor first; empty when it is not running."""
        return self._tree.pids if self._tree is not None and not self._tree.lost else ()

    async def detach(self) -> None:
        """Leave the tree running, with all its sessions; without persistence end it."""
        if self._persistence is None:
            await self.close()
            return
        async with self._starting:
            tree, self._tree = self._tree, None
        if tree is not None:
            await tree.detach()

    async def close(self) -> None:
        """Stop every session and end the tree."""
        async with self._starting:
            tree, self._tree = self._tree, None
        if tree is not None:
            await tree.close()

    def _settings(self) -> dict[str, object]:
        return {
            "workers": self._workers,
            "congestion_lan": self._congestion_lan,
            "congestion_wan": self._congestion_wan,
            "tls_engine": self._tls_engine,
        }

    def _arguments(self) -> list[str]:
        arguments = ["--log-level", str(logger.getEffectiveLevel())]
        for name, value in self._settings().items():
            if value is not None:
                arguments += [f"--{name.replace('_', '-')}", str(value)]
        return arguments


class NativeDataServer(DataServer):
    """One session's forwarding in the tree of its backend."""

    def __init__(self, backend: NativeBackend, restarted: Restarted | None = None) -> None:
        self._backend = backend
        self._restarted = restarted
        self._tree: Tree | None = None
        self._session: TreeSession | None = None
        self._uid = ""
        self._stopped = asyncio.Event()

    def take(self, tree: Tree, session: TreeSession) -> None:
        """Be the session of a tree that runs."""
        self._tree, self._session, self._uid = tree, session, session.uid
        session.tell(self._restarted)

    @property
    def handle(self) -> str:
        """The tree's name and the session's in it."""
        if self._tree is None or self._session is None:
            return ""
        return f"{self._tree.identity}:{self._session.key}"

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
        if self._stopped.is_set():
            raise DataServerError(f"session {spec.uid}: stopped before it was started")
        session = tree.new_session(spec.uid, len(spec.listeners))
        self.take(tree, session)
        try:
            await tree.request(
                {
                    "operation": "start",
                    "key": session.key,
                    "slot": session.slot,
                    "uid": spec.uid,
                    "targets": targets,
                    "tls": _tls_body(spec.tls),
                    "rate_mbps": spec.rate_mbps,
                },
                [listener.fileno() for listener in spec.listeners],
            )
        except BaseException as error:
            await self.stop()
            if isinstance(error, DataServerError):
                raise DataServerError(f"session {spec.uid}: {error}") from error
            raise
        logger.debug("session %s: %d channels forwarded", spec.uid, session.channels)

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
            await tree.stop(session)
        except DataServerError as error:
            # a tree that does not answer has nothing left to stop, or is about to be ended
            logger.debug("session %s: stop: %s", self._uid, error)

    async def wait(self) -> str:
        """Return when forwarding has ended for good, with the reason; ``"stopped"`` after a plain `stop`."""
        if self._tree is None or self._session is None or self._stopped.is_set():
            await self._stopped.wait()
            return "stopped"
        ends: tuple[asyncio.Future[str], ...] = (self._session.ended, self._tree.ended)
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            events: set[asyncio.Future[Any]] = {stopped, *ends}
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if self._stopped.is_set():
            return "stopped"
        return next(end.result() for end in ends if end.done())

    async def statistics(self) -> tuple[ChannelStatistics, ...]:
        """Return one entry per channel, summed over all workers.

        Raises
        ------
        DataServerError
            It is not running, or does not answer.
        """
        tree, session = self._running()
        reply = await tree.request({"operation": "statistics", "key": session.key})
        nothing = [[0] * len(fields(ChannelStatistics))] * session.channels
        channels = []
        for per_worker in zip(nothing, *reply.results, strict=True):
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

    def _running(self) -> tuple[Tree, TreeSession]:
        if self._tree is None or self._session is None:
            raise DataServerError(f"session {self._uid or '?'}: its data server is not running")
        for end in (self._session.ended, self._tree.ended):
            if end.done():
                raise DataServerError(f"session {self._uid}: {end.result()}")
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
