"""The worker process: its sessions, and the answers to the supervisor's requests, by asyncio.

Requests of one session are done in the order in which they came, except that ``stop`` ends whatever is being
done for it. Requests of several sessions do not wait for each other. It ends when its control socket ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

from scistream.dataserver.programs.program import Program
from scistream.dataserver.programs.session import Session
from scistream.dataserver.tree.logs import MAX_WAITING, log_to
from scistream.dataserver.tree.messages import Body, Message, MessageSocket
from scistream.errors import SciStreamError

logger = logging.getLogger(__name__)

REQUEST_LIMIT_S = 6.5
"""How long a request may take, other than to stop: with what is cleared away then, less than the supervisor
gives a worker (`scistream.dataserver.tree.fanout.ANSWER_LIMIT_S`) before it kills it, and all its sessions.
"""
STARTING_AT_ONCE = 2 * (os.cpu_count() or 1)


class Worker:
    """The one worker of a tree.

    Parameters
    ----------
    control : socket.socket
        To the supervisor.
    program : Program
        What forwards the sessions.
    folder : Path
        In which each session has its own.
    """

    def __init__(self, control: socket.socket, program: Program, folder: Path) -> None:
        self._control = MessageSocket(control)
        self._program = program
        self._folder = folder
        self._sessions: dict[int, Session] = {}
        self._tasks: dict[int, set[asyncio.Task[Any]]] = {}
        self._stopping: set[asyncio.Task[Any]] = set()
        self._places = asyncio.Semaphore(STARTING_AT_ONCE)
        self._ended = asyncio.Event()
        self._writing = False

    async def run(self) -> bool:
        """Serve until the control socket ends, then end every session; return False after a bug."""
        self._program.place.enter()
        log_to(self.tell)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._control.fileno(), self._on_control)
        await self._ended.wait()
        self._loop.remove_reader(self._control.fileno())
        await asyncio.gather(*self._stopping, *map(self._stop, list(self._sessions)), return_exceptions=True)
        await self._program.place.leave()
        return self._control.ended

    def tell(self, body: Body) -> None:
        """Send the supervisor what it has not asked for; too much of it is left out."""
        if not self._control.ended and self._control.unsent < MAX_WAITING:
            self._send(body)

    def _send(self, body: Body) -> None:
        if not self._control.ended:
            self._control.send(body)
            self._await_writable()

    def _await_writable(self) -> None:
        if self._control.unsent and not self._writing:
            self._writing = True
            self._loop.add_writer(self._control.fileno(), self._on_writable)
        elif not self._control.unsent and self._writing:
            self._writing = False
            self._loop.remove_writer(self._control.fileno())

    def _on_writable(self) -> None:
        self._control.flush()
        self._await_writable()

    # --- requests -----------------------------------------------------------------------------------------

    def _on_control(self) -> None:
        for message in self._control.receive():
            self._begin(message)
        if self._control.ended:
            self._ended.set()

    def _begin(self, message: Message) -> None:
        """Begin to do what is asked; the answer comes when it is done."""
        body, key = message.body, int(message.body["key"])
        if body["operation"] == "start":
            listeners = [socket.socket(fileno=descriptor) for descriptor in message.descriptors]
            self._sessions[key] = Session(
                self._program, body, listeners, self._folder / str(key), self.tell, self._places
            )
            self._tasks[key] = set()
        else:
            for descriptor in message.descriptors:
                os.close(descriptor)
        task = self._loop.create_task(self._do(body, key))
        # what ends a session is not ended itself
        tasks = self._stopping if body["operation"] == "stop" else self._tasks.setdefault(key, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(partial(self._answer, body.get("id")))

    def _answer(self, number: Any, task: asyncio.Task[Any]) -> None:
        """Answer what is done. A request that failed as none should ends the worker, which is replaced."""
        if task.cancelled():
            self._send({"reply": number, "error": "the session is being stopped"})
        elif (error := task.exception()) is None:
            self._send({"reply": number, "result": task.result()})
        elif isinstance(error, (SciStreamError, OSError)):
            self._send({"reply": number, "error": str(error)})
        else:
            logger.error("a request failed", exc_info=error)
            self._ended.set()

    async def _do(self, body: Body, key: int) -> Any:
        operation = body["operation"]
        if operation == "stop":
            await self._stop(key)
            return None
        session = self._sessions.get(key)
        if session is None:
            raise SciStreamError(f"no session with key {key} is here")
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                return await self._ask(session, operation, body)
        except TimeoutError as error:
            raise SciStreamError(
                f"{self._program.name}: {operation} is not done within {REQUEST_LIMIT_S:g} s"
            ) from error

    @staticmethod
    async def _ask(session: Session, operation: str, body: Body) -> Any:
        if operation == "start":
            await session.start()
            return None
        if operation == "retarget":
            await session.retarget(body)
            return None
        if operation == "statistics":
            return await session.statistics()
        raise SciStreamError(f"unknown operation {operation!r}")

    async def _stop(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        under_way = self._tasks.pop(key, set())
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        if session is not None:
            await session.close()
