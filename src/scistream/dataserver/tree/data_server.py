"""One session in a tree, as its control server sees it.

Session keys go through the tree's socket, into its processes' memory, and nowhere else. Names are resolved
here, once per start or retarget, so that no worker ever waits for DNS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from itertools import zip_longest
from typing import Any

from scistream.core.endpoint import Endpoint
from scistream.dataserver.base import (
    ChannelStatistics,
    DataServer,
    DataServerSpec,
    Restarted,
    TlsCredentials,
)
from scistream.dataserver.tree.processes import Tree
from scistream.dataserver.tree.session import TreeSession
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

RESOLVE_LIMIT_S = 10.0


class TreeDataServer(DataServer):
    """One session's forwarding in a tree of processes.

    Parameters
    ----------
    running_tree : callable
        Returns the tree to start the session in.
    restarted : callable, optional
        Told when workers were replaced.
    """

    def __init__(
        self, running_tree: Callable[[], Awaitable[Tree]], restarted: Restarted | None = None
    ) -> None:
        self._running_tree = running_tree
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
        reverse = spec.reverse
        waits = reverse is not None and not reverse.dials
        targets = [] if waits else await _resolve(spec.targets, spec.uid)
        dials = await _resolve(reverse.dials, spec.uid) if reverse and reverse.dials else []
        tree = await self._running_tree()
        if self._stopped.is_set():
            raise DataServerError(f"session {spec.uid}: stopped before it was started")
        session = tree.new_session(spec.uid, spec.channels)
        session.waits = waits
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
                    "wan_leg": None if spec.wan_leg is None else spec.wan_leg.value,
                    "rate_mbps": spec.rate_mbps,
                    "channels": spec.channels,
                    "waits": waits,
                    "dials": dials,
                },
                [sock.fileno() for sock in (*spec.listeners, *(reverse.waits_at if reverse else ()))],
            )
        except BaseException as error:
            await self.stop()
            if isinstance(error, DataServerError):
                raise DataServerError(f"session {spec.uid}: {error}") from error
            raise
        logger.debug("session %s: %d channels forwarded", spec.uid, session.channels)

    async def retarget(
        self, targets: Sequence[Endpoint], tls: TlsCredentials | None, *, dials: Sequence[Endpoint] = ()
    ) -> None:
        """Connect new connections to `targets`; connections that are open finish where they are.

        Raises
        ------
        DataServerError
            It is not running, or a target has no address.
        """
        tree, session = self._running()
        await tree.request(
            {
                "operation": "retarget",
                "key": session.key,
                "targets": [] if session.waits else await _resolve(targets, self._uid),
                "dials": await _resolve(dials, self._uid) if dials else [],
                "tls": _tls_body(tls),
            }
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
            # a tree that has ended forwards nothing
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
            # other programs than the native one say nothing of what is ready
            figures = [sum(column) for column in zip_longest(*per_worker, fillvalue=0)]
            channels.append(
                ChannelStatistics(
                    connections_open=figures[0],
                    connections_total=figures[1],
                    connections_failed=figures[2],
                    bytes_to_target=figures[3],
                    bytes_from_target=figures[4],
                    connections_ready=figures[5],
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


def _tls_body(tls: TlsCredentials | None) -> dict[str, Any] | None:
    if tls is None:
        return None
    return {
        "leg": tls.leg.value,
        "certificate": tls.certificate_pem.decode("ascii"),
        "private_key": tls.private_key_pem.decode("ascii"),
        "peer_certificate": tls.peer_certificate_pem.decode("ascii"),
        "reverse": tls.reverse,
        "peer_omits_close_notify": tls.peer_omits_close_notify,
    }


async def _resolve(targets: Sequence[Endpoint], uid: str) -> list[list[tuple[int, Any]]]:
    """Return every target's addresses, in the resolver's order of preference."""
    if not targets:
        raise DataServerError(f"session {uid}: no target to forward to")
    loop = asyncio.get_running_loop()

    async def addresses(target: Endpoint) -> list[tuple[int, Any]]:
        if (numeric := _numeric(target)) is not None:
            return [numeric]
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


def _numeric(target: Endpoint) -> tuple[int, Any] | None:
    """Return the address of a target that is given by one, for which no thread has to ask the resolver."""
    try:
        version = ipaddress.ip_address(target.host).version
    except ValueError:
        return None
    if version == 4:
        return int(socket.AF_INET), (target.host, target.port)
    if "%" in target.host:  # the zone is a number to the kernel
        return None
    return int(socket.AF_INET6), (target.host, target.port, 0, 0)
