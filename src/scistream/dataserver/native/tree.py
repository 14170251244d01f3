"""The process tree as its backend sees it: started, asked, ended; asyncio, nothing that blocks.

Environment and arguments of the processes hold no secret: what is secret goes through the control socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from scistream.dataserver.native.balance import MAX_SESSIONS
from scistream.dataserver.native.messages import MessageSocket
from scistream.errors import DataServerError, ResourceExhausted

logger = logging.getLogger(__name__)

START_LIMIT_S = 15.0
REQUEST_LIMIT_S = 10.0
STOP_LIMIT_S = 8.0

#: All that the tree gets of our environment: what Python and the loader need, no secrets.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_ENVIRONMENT_PREFIXES = ("PYTHON", "OPENSSL", "SCISTREAM_MARK")
"""The last one: marks by which whoever has started us finds all that descends from it."""


class SessionName:
    """What names a session inside one tree: `key` is never used again, `slot` is."""

    __slots__ = ("key", "slot")

    def __init__(self, key: int, slot: int) -> None:
        self.key = key
        self.slot = slot


class Tree:
    """One tree of processes, from its start to its end, and the requests to it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._process: subprocess.Popen[bytes] | None = None
        self._control: MessageSocket | None = None
        self._replies: dict[int, asyncio.Future[list[Any]]] = {}
        self._next_request = 0
        self._next_key = 0
        self._free_slots = list(range(MAX_SESSIONS - 1, -1, -1))
        self._writing = False
        self._ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.pids: tuple[int, ...] = ()

    async def start(self, arguments: Sequence[str]) -> None:
        """Start the processes and wait until the workers are there."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._control = MessageSocket(ours)
            environment = {
                name: value
                for name, value in os.environ.items()
                if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
            }
            command = [sys.executable, "-P", "-m", "scistream.dataserver.native"]
            try:
                # starting is a fork and an exec; the waiting is done below
                self._process = subprocess.Popen(  # noqa: ASYNC220
                    [*command, "--control-fd", str(theirs.fileno()), *arguments],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    start_new_session=True,  # a terminal's Ctrl-C is for the control server alone
                )
            except OSError as error:
                raise DataServerError(f"the native data server does not start: {error}") from error
        self._loop.add_reader(ours.fileno(), self._on_readable)
        try:
            async with asyncio.timeout(START_LIMIT_S):
                events: set[asyncio.Future[Any]] = {self._ready, self.ended}
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise DataServerError(f"the native data server is not ready after {START_LIMIT_S} s") from error
        if not self._ready.done():
            raise DataServerError(f"the native data server does not start: {self.ended.result()}")

    def new_session(self) -> SessionName:
        """Return a name for one more session."""
        if not self._free_slots:
            raise ResourceExhausted(f"{MAX_SESSIONS} sessions are open: release some")
        self._next_key += 1
        return SessionName(self._next_key, self._free_slots.pop())

    def session_ended(self, session: SessionName) -> None:
        """Its slot may be used again."""
        self._free_slots.append(session.slot)

    async def request(self, body: dict[str, Any], descriptors: Sequence[int] = ()) -> list[Any]:
        """Ask all workers; return their results.

        Raises
        ------
        DataServerError
            The tree has ended, does not answer in time, or a worker refused.
        """
        control = self._control
        if control is None or self.ended.done():
            raise DataServerError(self.ended.result() if self.ended.done() else "it is not running")
        self._next_request += 1
        identity = self._next_request
        reply: asyncio.Future[list[Any]] = self._loop.create_future()
        self._replies[identity] = reply
        try:
            control.send({**body, "id": identity}, descriptors)
            self._await_writable()
            async with asyncio.timeout(REQUEST_LIMIT_S):
                return await reply
        except TimeoutError as error:
            raise DataServerError(
                f"the native data server does not answer {body['operation']!r} within {REQUEST_LIMIT_S} s"
            ) from error
        finally:
            del self._replies[identity]

    def _await_writable(self) -> None:
        control = self._control
        if control is None or control.ended:
            return
        if control.unsent and not self._writing:
            self._writing = True
            self._loop.add_writer(control.fileno(), self._on_writable)
        elif not control.unsent and self._writing:
            self._writing = False
            self._loop.remove_writer(control.fileno())

    def _on_writable(self) -> None:
        if self._control is not None:
            self._control.flush()
            self._await_writable()

    def _on_readable(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            messages = control.receive()
        except DataServerError as error:
            self._end(str(error))
            return
        for message in messages:
            body = message.body
            if body.get("event") == "ready":
                process = self._process
                self.pids = (process.pid if process else 0, *body["pids"])
                if not self._ready.done():
                    self._ready.set_result(None)
            elif body.get("event") == "died":
                self._end(str(body["reason"]))
            else:
                reply = self._replies.get(int(body["reply"]))
                if reply is None or reply.done():
                    continue  # its time was over
                if "error" in body:
                    reply.set_exception(DataServerError(body["error"]))
                else:
                    reply.set_result(body["results"])
        if control.ended:
            self._end("the native data server's supervisor ended unexpectedly")

    def _end(self, reason: str) -> None:
        """Tell everybody who waits that the tree is no more."""
        control = self._control
        if control is not None:
            self._loop.remove_reader(control.fileno())
            self._loop.remove_writer(control.fileno())
            self._writing = False
            control.close()
            self._control = None
        if not self.ended.done():
            self.ended.set_result(reason)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(DataServerError(reason))

    async def close(self) -> None:
        """End the processes: the supervisor ends when its control socket does."""
        self._end("stopped")
        process = self._process
        if process is None:
            return
        self._process = None
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await _exit_of(process)
        except TimeoutError:
            logger.warning("the native data server does not end: killed")
            # its workers end when it does: their control sockets close
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _exit_of(process: subprocess.Popen[bytes]) -> None:
    """Return when `process` has ended."""
    if process.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
