"""The control server's side of a tree of processes: asyncio, nothing that blocks.

`TreeBackend` starts one tree (`processes`), or finds the one that an earlier control server has left, and
talks to it over a Unix socket; `data_server` is one session in it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Mapping
from typing import Any

from scistream.dataserver.base import (
    Adopted,
    DataServer,
    DataServerBackend,
    LeftRunning,
    Persistence,
    Restarted,
)
from scistream.dataserver.tree.data_server import TreeDataServer
from scistream.dataserver.tree.processes import Tree
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)


class TreeBackend(DataServerBackend):
    """A kind of data server of which one tree of processes forwards all sessions of a gateway.

    Parameters
    ----------
    kind : str
        Its name.
    module : str
        What the tree's processes run: ``python -m module``.
    settings : mapping
        What they are told of how to work; no secrets, as all users of the machine can see it.
    """

    def __init__(self, kind: str, module: str, settings: Mapping[str, Any]) -> None:
        self._kind = kind
        self._module = module
        self._settings = dict(settings)
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
        return TreeDataServer(self.tree, restarted)

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
        server = TreeDataServer(self.tree, restarted)
        server.take(tree, session)
        return Adopted(server, listeners)

    async def left_running(self) -> tuple[LeftRunning, ...]:
        """Return the sessions that were found and not adopted, with the tree's first process."""
        tree = await self.tree()
        return tuple(LeftRunning(tree.sessions[key].uid, tree.pids[0]) for key in sorted(tree.found))

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
        found = settings.pop("kind")
        if found != self._kind:
            await tree.detach()
            raise DataServerError(
                f"data servers of type {found} run already (process {tree.pids[0]}), with "
                f"{len(tree.sessions)} sessions; go on with --type {found}, or end them first: start s2cs "
                f"with --type {found} --on-terminate release, and end it with Ctrl-C"
            )
        logger.info("data servers run already: %d sessions, process %d", len(tree.sessions), tree.pids[0])
        if settings != self._settings:
            logger.warning(
                "the data servers that run already keep their settings %s until they have ended", settings
            )
        return tree

    async def _start_tree(self) -> Tree:
        tree = Tree(self._persistence)
        try:
            await tree.start(
                self._module,
                ["--log-level", str(logger.getEffectiveLevel()), "--settings", json.dumps(self._settings)],
            )
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
