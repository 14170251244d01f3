"""One process of a program, in a container of its own.

`first_process` calls back over a Unix socket in the folder that the container sees; by that socket the
program gets its descriptors, and its end is told. The kernel says which processes of this machine are at the
other end; they are watched, told and ended by that, without the engine. It ends with this process, however
that ends: the first process sees its socket end, and with it the container ends.

Nothing here waits for the engine for long: a worker that waits answers nobody, and is taken for a hung one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from scistream.dataserver.containers.engine import Engine, Order
from scistream.dataserver.containers.first_process import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES
from scistream.dataserver.containers.removal import REMOVED_WAIT_S, Removals, in_thread
from scistream.dataserver.programs.output import Output
from scistream.dataserver.programs.running import NOT_STARTED, Environment, RunningProgram
from scistream.dataserver.tree.exits import describe_exit
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

CALLED_LIMIT_S = 5.0
"""How long a container may take to call; less than its session waits."""
KILLED_LIMIT_S = 1.0
"""How long the kernel may take to end a container's processes."""
_ASK_S = 0.5
"""How often the engine is asked meanwhile whether it still runs."""
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: unix(7)


class ContainedProcess(RunningProgram):
    """A program in a container.

    Parameters
    ----------
    engine : Engine
        Which makes the container.
    removals : Removals
        Of that engine.
    image : str
        What it is made from.
    arguments : sequence of str
        The program, as found in the image, and its arguments.
    environment : callable
        Returns its environment, from its pid in the container.
    folder : Path
        All that it sees of this machine's files; its working directory.
    descriptors : sequence of int
        What it has open besides.
    on_line : callable
        Called with each line that it writes.
    label : str
        Whose it is.
    capabilities : sequence of str
        All that it may do as root.
    max_tasks : int
        Threads and processes that it may have.
    """

    def __init__(
        self,
        engine: Engine,
        removals: Removals,
        image: str,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        on_line: Callable[[str], None],
        *,
        label: str,
        capabilities: Sequence[str],
        max_tasks: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        name = f"scistream-{Path(arguments[0]).name}-{uuid.uuid4().hex[:12]}"
        self._engine = engine
        self._removals = removals
        self._arguments = list(arguments)
        self._environment = environment
        self._order = Order(
            name=name,
            image=image,
            argument=f"{name}.socket",
            folder=folder,
            label=label,
            capabilities=capabilities,
            max_tasks=max_tasks,
        )
        self.pid = 0
        self.ended = loop.create_future()
        self._processes: dict[int, int] = {}
        """pid → pidfd: the first process, and then the program."""
        self._starting: asyncio.Future[None] | None = None
        self._removed: asyncio.Event | None = None
        self._descriptors = [os.dup(descriptor) for descriptor in descriptors]
        self._output = Output(on_line)
        self._life = loop.create_task(self._live())
        self._living = loop.create_task(self._see_it_end())

    def signal(self, signum: signal.Signals) -> None:
        """Send the program a signal."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._processes[self.pid], signum)

    async def kill(self) -> None:
        """End the container; see that the engine has removed it, if it does so soon."""
        if self.pid:
            self._kill_first()
        else:
            self._life.cancel()
        await asyncio.shield(self.ended)
        if self._removed is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REMOVED_WAIT_S):
                    await self._removed.wait()

    def pids_of(self, own: Collection[int]) -> Collection[int]:
        """Return its processes' numbers here, from those in its container."""
        return [pid for pid in _descendants(self.pid) if _number_inside(pid) in own]

    def _kill_first(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(next(iter(self._processes.values())), signal.SIGKILL)

    async def _see_it_end(self) -> None:
        """Say how it has ended, once nothing of it runs; what the engine keeps of it goes later."""
        how = "was given up by a fault of ours"
        try:
            how = await self._life
        except asyncio.CancelledError:
            how = "was ended before it had started"
        except DataServerError as error:
            how = f"{NOT_STARTED}: {error}"
        except Exception:
            logger.exception("container %s is given up", self._order.name)
        finally:
            try:
                await self._end_processes()
                self._output.close()
                for descriptor in self._descriptors:
                    os.close(descriptor)
                self._descriptors.clear()
            finally:
                self._removed = self._removals.add(self._order.name, self._starting)
                self.ended.set_result(how)

    async def _end_processes(self) -> None:
        """See all processes end that are known, as the first one's end is that of all; forget them."""
        if self._processes:
            self._kill_first()
            try:
                async with asyncio.timeout(KILLED_LIMIT_S):
                    await _readable(next(iter(self._processes.values())))
            except TimeoutError:
                logger.warning("container %s was killed and does not end", self._order.name)
        self.pid = 0
        # their numbers are others' from now on
        descriptors = list(self._processes.values())
        self._processes.clear()
        for descriptor in descriptors:
            os.close(descriptor)

    async def _live(self) -> str:
        """Have the container made, give the program what is its, and return how it has ended."""
        with contextlib.closing(_listening(self._order.folder, self._order.argument)) as listener:
            try:
                control = await self._called(listener)
            finally:
                (self._order.folder / self._order.argument).unlink(missing_ok=True)
        with control:
            try:
                await self._hand_over(control)
            except OSError as error:
                raise DataServerError(
                    f"a container of {self._order.image} is lost before its program starts: {error.strerror}"
                ) from error
            first = next(iter(self._processes.values()))
            await _readable(first)
            return self._last_words(control)

    async def _called(self, listener: socket.socket) -> socket.socket:
        """Return the connection to the first process.

        Raises
        ------
        DataServerError
            There will be none.
        """
        loop = asyncio.get_running_loop()
        self._starting = in_thread(self._engine.start, self._order)
        calling = asyncio.ensure_future(loop.sock_accept(listener))
        try:
            async with asyncio.timeout(CALLED_LIMIT_S):
                await asyncio.shield(self._starting)
                while not (await asyncio.wait({calling}, timeout=_ASK_S))[0]:
                    if not await in_thread(self._engine.is_running, self._order.name):
                        raise DataServerError(f"a container of {self._order.image} ends before it calls back")
            return calling.result()[0]
        except TimeoutError as error:
            raise DataServerError(
                f"a container of {self._order.image} does not call back within {CALLED_LIMIT_S:g} s; is the "
                "Docker Engine on this machine, and does it answer?"
            ) from error
        finally:
            calling.cancel()
            await asyncio.wait({calling})  # it watches the listener

    async def _hand_over(self, control: socket.socket) -> None:
        """Give the program its arguments, environment and descriptors."""
        loop = asyncio.get_running_loop()
        first, uid, _ = _CREDENTIALS.unpack(
            control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self._see(first, uid)
        await _readable(control.fileno())
        data, ancillary, _, _ = control.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not data or not ancillary:
            raise DataServerError(f"a container of {self._order.image} ends before its program starts")
        program, uid, _ = _CREDENTIALS.unpack(ancillary[0][2])
        self._see(program, uid)
        self.pid = program
        descriptors = [*self._descriptors, self._output.writing_end]
        order = {
            "arguments": self._arguments,
            "environment": dict(self._environment(int(json.loads(data)["pid"]))),
            "descriptors": len(descriptors),
        }
        await loop.sock_sendall(control, json.dumps(order).encode())
        while descriptors:
            # there is room for some hundred thousand bytes, and these are few
            socket.send_fds(control, [b"\0"], descriptors[:MAX_DESCRIPTORS])
            del descriptors[:MAX_DESCRIPTORS]
        self._output.started()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _see(self, pid: int, uid: int) -> None:
        """Watch a process of the container.

        Raises
        ------
        DataServerError
            It is not to be seen from here, or not ours.
        """
        if not pid:
            raise DataServerError(
                "the containers' processes are not to be seen from here: run s2cs on the machine"
            )
        if uid != os.geteuid():
            raise DataServerError(f"containers run as user {uid} here, not as {os.geteuid()}")
        self._processes[pid] = os.pidfd_open(pid)

    @staticmethod
    def _last_words(control: socket.socket) -> str:
        """Return how the program has ended, as the first process has said."""
        try:
            message = control.recv(MAX_MESSAGE_BYTES)
        except OSError:
            message = b""
        if message:
            return describe_exit(int(json.loads(message)["status"]))
        return "was ended with its container"


def _listening(folder: Path, name: str) -> socket.socket:
    """Return a socket in `folder`, whose path may be longer than a socket's address may be."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        finally:
            os.close(descriptor)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise DataServerError(f"no socket can be made in {folder}: {error.strerror}") from error
    return listener


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


def _descendants(pid: int) -> list[int]:
    """Return a process and all that it has started (proc_pid_task_children(5))."""
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text(encoding="ascii")
            left += map(int, children.split())
    return found


def _number_inside(pid: int) -> int:
    """Return a process's number in its container (proc_pid_status(5)); 0 if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0
