"""The process tree as its backend sees it: started or found, asked, ended or left. Nothing here blocks.

Environment and arguments of the processes hold no secret: what is secret goes through the control socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

from scistream.dataserver.base import Persistence
from scistream.dataserver.tree import rendezvous
from scistream.dataserver.tree.connection import Connection, Reply, Unanswered
from scistream.dataserver.tree.logs import log_again
from scistream.dataserver.tree.session import TreeSession
from scistream.dataserver.tree.supervisor_process import SupervisorProcess
from scistream.dataserver.tree.work import MAX_SESSIONS
from scistream.errors import DataServerError, ResourceExhausted

logger = logging.getLogger(__name__)

START_LIMIT_S = 15.0
STOP_LIMIT_S = 8.0
EXIT_LIMIT_S = 1.0
"""How long a process takes at most from closing its sockets to its end."""


class Tree:
    """One tree of processes, as long as this control server has to do with it, and the requests to it.

    Attributes
    ----------
    sessions : dict
        By key, all sessions that the tree has.
    found : set of int
        Keys of those that an earlier control server has started, and nobody has adopted.
    lost : bool
        Whether the connection has ended; `ended` follows with the reason.
    """

    def __init__(self, persistence: Persistence | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._persistence = persistence
        self._process: SupervisorProcess | None = None
        self._connection: Connection | None = None
        self._next_key = 1
        self._free_slots: list[int] = []
        self._hello: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._reason = ""
        self._died = self._refused = False
        self._explaining: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[str] = loop.create_future()
        self.lost = False
        self.pids: tuple[int, ...] = ()
        self.identity = ""
        self.sessions: dict[int, TreeSession] = {}
        self.found: set[int] = set()

    async def start(self, module: str, arguments: Sequence[str]) -> None:
        """Start `module` as the processes and wait until the workers are there.

        Raises
        ------
        DataServerError
            They do not start, or not in time.
        """
        if self._persistence is not None:
            arguments = [*arguments, "--directory", str(self._persistence.directory.absolute())]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._connection = Connection(ours, self._on_event, self._on_lost)
            self._process = SupervisorProcess.start(theirs, module, arguments)
        if await self._attach() is None:
            raise DataServerError(f"the data server does not start: {self.ended.result()}")

    async def find(self) -> dict[str, Any] | None:
        """Connect to the tree that runs already; return its settings, or None if there is none.

        Raises
        ------
        DataServerError
            There is one, and it cannot be used.
        """
        sock = None if self._persistence is None else rendezvous.connect(self._persistence.directory)
        if sock is None:
            return None
        pid, _ = rendezvous.peer_of(sock)
        try:
            self._process = SupervisorProcess(pid)
        except ProcessLookupError:
            sock.close()
            return None
        self._connection = Connection(sock, self._on_event, self._on_lost)
        hello = await self._attach()
        if hello is None and self._refused:
            raise DataServerError(f"the data servers that run already (process {pid}) refuse: {self._reason}")
        if hello is None:
            return None  # it was about to end
        self.found = set(self.sessions)
        return dict(hello["settings"])

    async def _attach(self) -> dict[str, Any] | None:
        """Wait for the greeting and answer it; return None if the tree ends instead."""
        try:
            async with asyncio.timeout(START_LIMIT_S):
                events: set[asyncio.Future[Any]] = {self._hello, self.ended}
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise DataServerError(f"the data server is not ready after {START_LIMIT_S} s") from error
        if not self._hello.done():
            return None
        hello = self._hello.result()
        if hello["protocol"] != rendezvous.PROTOCOL:
            raise DataServerError(
                f"the data servers that run already (process {self._pid}) speak version {hello['protocol']} "
                f"of their control protocol, this program version {rendezvous.PROTOCOL}: use the version of "
                "the program that has started them, or end them and their streams by killing that process"
            )
        self.identity = str(hello["tree"])
        self.pids = tuple(hello["pids"])
        self._next_key = int(hello["next_key"])
        for told in hello["sessions"]:
            session = TreeSession(
                told["key"], told["slot"], told["uid"], told["channels"], self._loop.create_future()
            )
            session.waits = told["waits"]
            session.notices.extend(told["notices"])
            if told["ended"]:
                session.ended.set_result(told["ended"])
            self.sessions[session.key] = session
        used = {session.slot for session in self.sessions.values()}
        self._free_slots = [slot for slot in range(MAX_SESSIONS - 1, -1, -1) if slot not in used]
        limit_s = 0.0 if self._persistence is None else self._persistence.orphan_limit_s
        await self.request(
            {"operation": "attach", "protocol": rendezvous.PROTOCOL, "orphan_limit_s": limit_s}
        )
        return hello

    @property
    def _pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def new_session(self, uid: str, channels: int) -> TreeSession:
        """Return a name for one more session.

        Raises
        ------
        ResourceExhausted
            There are too many.
        """
        if not self._free_slots:
            raise ResourceExhausted(f"{MAX_SESSIONS} sessions are open: release some")
        session = TreeSession(
            self._next_key, self._free_slots.pop(), uid, channels, self._loop.create_future()
        )
        self._next_key += 1
        self.sessions[session.key] = session
        return session

    async def stop(self, session: TreeSession) -> None:
        """End a session; then its slot may be used again.

        A tree that does not answer is killed, with everything that it forwards: whoever is told that a
        session has ended can rely on it.

        Raises
        ------
        DataServerError
            The tree has ended.
        """
        self.found.discard(session.key)
        try:
            await self.request({"operation": "stop", "key": session.key})
        except Unanswered as error:
            if self._process is not None:
                logger.error("session %s: %s: its processes are killed", session.uid, error)  # noqa: TRY400
                self._process.kill()
            await self.ended
            raise
        finally:
            if self.sessions.pop(session.key, None) is not None:
                self._free_slots.append(session.slot)

    async def request(self, body: dict[str, Any], descriptors: Sequence[int] = ()) -> Reply:
        """Ask the tree; return its answer.

        Raises
        ------
        DataServerError
            The tree has ended, does not answer in time, or refuses.
        """
        if self._connection is None or self.lost:
            raise DataServerError(self._reason or "the data server is not running")
        return await self._connection.request(body, descriptors)

    def _on_event(self, body: dict[str, Any]) -> None:
        event = body.get("event")
        if event == "log":
            log_again(body)
        elif event == "hello" and not self._hello.done():
            self._hello.set_result(body)
        elif event == "workers":
            self.pids = tuple(body["pids"])
        elif event in {"died", "refused"}:
            self._reason = str(body["reason"])
            self._died, self._refused = event == "died", event == "refused"
        elif event in {"restarted", "ended"}:
            session = self.sessions.get(int(body["key"]))
            if session is None:
                return  # stopped meanwhile
            if event == "restarted":
                session.on_restarted(str(body["reason"]))
            elif not session.ended.done():
                session.ended.set_result(str(body["reason"]))

    def _on_lost(self, reason: str) -> None:
        """Note that the connection has ended; who waits is told when it is known why."""
        self.lost = True
        self._reason = self._reason or reason
        self._explaining = self._loop.create_task(self._explain())

    async def _explain(self) -> None:
        """Find out why, which takes the time of a process's exit."""
        process = self._process
        if not self._reason and process is not None:
            try:
                async with asyncio.timeout(EXIT_LIMIT_S):
                    await process.ended()
                exit_ = process.reap()
            except TimeoutError:
                exit_ = "has closed the connection"
            self._reason = f"the data server's supervisor (pid {process.pid}) {exit_ or 'has ended'}"
        self._end(self._reason or "the data server has ended")

    def _end(self, reason: str) -> None:
        """Tell everybody who waits that there is no tree any more."""
        self.lost = True
        self._reason = self._reason or reason
        if not self.ended.done():
            self.ended.set_result(reason)
        if self._connection is not None:
            self._connection.close()
            self._connection.fail(reason)

    async def detach(self) -> None:
        """Let go of the processes, which go on."""
        process = await self._finish("the control server has let go of it")
        if process is not None:
            process.close()

    async def clear_away(self) -> None:
        """After `ended`: see the processes end; let go of them if the connection alone was lost."""
        process = self._process
        if self._persistence is None or self._died or process is None or process.has_ended():
            await self.close()
        else:
            await self.detach()

    async def close(self) -> None:
        """End the processes."""
        if self._connection is not None and self._persistence is not None:
            # one that does not read it is killed below
            self._connection.tell({"operation": "end"})
        process = await self._finish("stopped")
        if process is None:
            return
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.ended()
        except TimeoutError:
            logger.warning("the data server does not end: killed")
            process.kill()
            await process.ended()
        process.reap()
        process.close()

    async def _finish(self, reason: str) -> SupervisorProcess | None:
        self._end(reason)
        if self._explaining is not None:
            await self._explaining
        process, self._process = self._process, None
        return process
