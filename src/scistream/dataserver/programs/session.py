"""One session and its program: started, led to another target, started again when it dies, ended.

The present instance accepts. Instances before it, if they cannot read a changed configuration again, finish
their connections. All that instances have carried, those that are dead included, is the session's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from scistream.dataserver.programs.credentials import credential_files
from scistream.dataserver.programs.plan import Plan, plan_of
from scistream.dataserver.programs.process import END_LIMIT_S
from scistream.dataserver.programs.program import KEEPALIVE_IDLE_S, Figures, Instance, Program, add
from scistream.dataserver.programs.render import SessionFolder
from scistream.dataserver.programs.running import NOT_STARTED
from scistream.dataserver.tree.children import DEATHS_WITHIN_S, MAX_DEATHS
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

READY_LIMIT_S = 6.0
"""Within which a program answers; less than a request may take (`scistream.dataserver.programs.worker`)."""
BACK_OFF_S = 0.1
"""Waited after the second death; twice as long after each one more."""
LISTEN_BACKLOG = 4096
_KEPT_WORDS = 5


class Session:
    """One session of the worker.

    Parameters
    ----------
    program : Program
        What forwards.
    body : mapping
        The ``start`` message.
    listeners : list of socket.socket
        One per channel; the session owns them.
    folder : Path
        Its own, which is made.
    tell : callable
        Takes what the supervisor has not asked for.
    places : asyncio.Semaphore
        How many programs may be starting at once.
    """

    def __init__(
        self,
        program: Program,
        body: Mapping[str, Any],
        listeners: list[socket.socket],
        folder: Path,
        tell: Callable[[dict[str, Any]], None],
        places: asyncio.Semaphore,
    ) -> None:
        self.key = int(body["key"])
        self.uid = str(body["uid"])
        self._program = program
        self._body = dict(body)
        self._listeners = listeners
        self._path = folder
        self._folder: SessionFolder | None = None
        self._tell = tell
        self._places = places
        self._changing = asyncio.Lock()
        self._present: Instance | None = None
        self._instances: list[Instance] = []
        self._watching: set[asyncio.Task[None]] = set()
        self._carried: Figures = [[0] * 5 for _ in listeners]
        self._deaths: deque[float] = deque()
        self._words: deque[str] = deque(maxlen=_KEPT_WORDS)

    # --- requests -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Forward; return once connections are accepted.

        Raises
        ------
        DataServerError
            It cannot be forwarded.
        """
        if self._body["waits"] or self._body["dials"]:
            raise DataServerError(
                f"{self._program.name} cannot have reverse channels; use the native data server"
            )
        async with self._changing:
            plan = plan_of(self._body, self._listeners)
            self._program.check_plan(plan)
            for listener in self._listeners:
                _tune(listener)
            self._folder = SessionFolder(self._path)
            self._present = await self._launch(plan, self._folder)

    async def retarget(self, body: Mapping[str, Any]) -> None:
        """Lead new connections elsewhere; those that are open go on.

        Raises
        ------
        DataServerError
            That cannot be; everything is as before.
        """
        async with self._changing:
            before, folder = self._present, self._folder
            if before is None or folder is None:
                raise DataServerError("it is not running")
            changed = {**self._body, "targets": body["targets"], "tls": body["tls"]}
            plan = plan_of(changed, self._listeners)
            self._program.check_plan(plan)
            if before.reloads:
                await self._reload(before, plan, folder)
                self._body = changed
                return
            self._present = await self._launch(plan, folder)
            self._body = changed
            try:
                await self._until(before, before.finish())
            except (DataServerError, asyncio.CancelledError) as error:
                # also when the time is over: the new target holds, and so this is no failure
                why = error if isinstance(error, DataServerError) else "it takes too long"
                logger.warning("session %s: connections to the target before are lost: %s", self.uid, why)
                await self._end(before)

    async def statistics(self) -> Figures:
        """Return what each channel has carried.

        Raises
        ------
        DataServerError
            The program does not answer.
        """
        for instance in tuple(self._instances):
            try:
                await instance.figures()
            except DataServerError:
                if not instance.has_ended:  # else what it said last counts
                    raise
        total = self._carried
        for instance in self._instances:
            total = add(total, instance.last)
        return total

    async def close(self) -> None:
        """End all connections and processes; free everything, even if a process cannot be ended. Idempotent.

        Raises
        ------
        OSError, DataServerError
            One cannot be.
        """
        with contextlib.ExitStack() as stack:
            if self._folder is not None:
                stack.callback(self._folder.close)
            for listener in self._listeners:
                stack.callback(listener.close)
            for watching in self._watching:
                watching.cancel()
            await asyncio.gather(*self._watching, return_exceptions=True)
            ends = await asyncio.gather(*map(self._end, tuple(self._instances)), return_exceptions=True)
            for error in filter(None, ends):
                raise error

    # --- processes ----------------------------------------------------------------------------------------

    async def _launch(self, plan: Plan, folder: SessionFolder) -> Instance:
        """Start a process for this plan; return it once it forwards."""
        instance = self._program.instance(plan)
        try:
            async with self._configured(plan, folder, instance):
                self._start_process(instance, self._program.command(folder.path, folder.CURRENT))
                await self._until(instance, instance.ready())
        except BaseException:
            await self._end(instance)
            raise
        if instance.process is not None:
            self._see(instance, instance.process.ended)
        return instance

    def _see(self, instance: Instance, ended: asyncio.Future[str]) -> None:
        watching = asyncio.ensure_future(self._watch(instance, ended))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def _reload(self, instance: Instance, plan: Plan, folder: SessionFolder) -> None:
        """Have the process read a configuration for this plan."""
        async with self._configured(plan, folder, instance):
            await self._until(instance, instance.reload(plan))

    @contextlib.asynccontextmanager
    async def _configured(self, plan: Plan, folder: SessionFolder, instance: Instance) -> AsyncIterator[None]:
        """Write a configuration, have it checked, and let it be the one that stays if what follows works."""
        name = folder.new()
        try:
            folder.write(name, self._program.configuration(plan, name), credential_files(plan.tls))
            async with self._places:
                await self._check(plan, name, folder, instance)
                with folder.using(name):
                    yield
        except BaseException:
            folder.remove(name)
            raise
        folder.keep_only(name)

    async def _check(self, plan: Plan, name: str, folder: SessionFolder, instance: Instance) -> None:
        command = self._program.check_command(folder.path, folder.file_of(name))
        if not command:
            return
        how, said = await self._program.place.run_to_end(
            command,
            lambda pid: self._program.environment(pid, plan),
            folder.path,
            [*(listener.fileno() for listener in self._listeners), *instance.descriptors],
            READY_LIMIT_S,
            self.uid,
        )
        if how.startswith(NOT_STARTED):
            raise DataServerError(f"{self._program.name} {how}")
        if how != "ended with code 0":
            words = " / ".join(filter(None, map(self._program.worth_saying, said)))
            raise DataServerError(f"{self._program.name} refuses its configuration ({how}): {words}")

    def _start_process(self, instance: Instance, command: list[str]) -> None:
        def on_line(line: str) -> None:
            words = instance.on_line(line)
            if words:
                self._words.append(words)
                logger.info("session %s: %s", self.uid, words)

        self._words.clear()
        instance.process = self._program.place.start(
            command,
            lambda pid: self._program.environment(pid, instance.plan),
            self._path,
            [*(listener.fileno() for listener in self._listeners), *instance.descriptors],
            on_line,
            self.uid,
        )
        instance.started()
        self._instances.append(instance)

    async def _until(self, instance: Instance, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, as long as the process lives, and not too long.

        Raises
        ------
        DataServerError
            It ends before, or takes too long.
        """
        working, ended = asyncio.ensure_future(work), instance.running.ended
        try:
            events: set[asyncio.Future[Any]] = {working, ended}
            await asyncio.wait(events, timeout=READY_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and working.exception() is not None:
                # mostly because the process ends: its last words are worth more
                await asyncio.wait({ended}, timeout=END_LIMIT_S)
            if not ended.done() and working.done():
                working.result()
                return
        finally:
            working.cancel()
            await asyncio.wait({working})
        how = ended.result() if ended.done() else f"does not answer within {READY_LIMIT_S:g} s"
        raise DataServerError(f"{self._program.name} {how}: {' / '.join(self._words) or 'it says nothing'}")

    async def _end(self, instance: Instance) -> None:
        """Kill a process; keep what it has carried."""
        try:
            if instance.process is not None:
                await instance.process.kill()
        finally:
            instance.close()
            if instance in self._instances:
                self._instances.remove(instance)
                self._carried = add(self._carried, [[0, *figures[1:]] for figures in instance.last])

    async def _watch(self, instance: Instance, ended: asyncio.Future[str]) -> None:
        """See a process end; start another one if it should not have."""
        how = await asyncio.shield(ended)
        await self._end(instance)
        async with self._changing:
            if instance is self._present and self._folder is not None:
                self._present = None
                words = f": {self._words[-1]}" if self._words else ""
                await self._start_again(f"{self._program.name} {how}{words}", self._folder)

    async def _start_again(self, reason: str, folder: SessionFolder) -> None:
        """Start the program on the same listeners, again and again if need be, but not for ever."""
        while self._present is None:
            now = time.monotonic()
            self._deaths.append(now)
            while self._deaths[0] < now - DEATHS_WITHIN_S:
                self._deaths.popleft()
            count = len(self._deaths)
            if count > MAX_DEATHS:
                reason = f"{reason}, once more within {DEATHS_WITHIN_S:g} s: it is not started again"
                self._tell({"event": "ended", "key": self.key, "reason": reason})
                return
            logger.error("session %s: %s; its connections are lost, it is started again", self.uid, reason)
            if count > 1:
                await asyncio.sleep(BACK_OFF_S * 2 ** (count - 2))
            try:
                self._present = await self._launch(plan_of(self._body, self._listeners), folder)
            except (DataServerError, OSError) as error:
                reason = str(error)
        self._tell({"event": "restarted", "key": self.key, "reason": reason})


def _tune(listener: socket.socket) -> None:
    """Set what all accepted connections inherit: a peer that is gone is noticed, nothing waits for more."""
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    listener.listen(LISTEN_BACKLOG)
