"""One process of a program: started with the session's listening sockets, heard, ended with its children.

It is the leader of a session and process group of its own, and gets SIGTERM when this process dies. When it
ends, whatever is left of its group is killed: this process is their "subreaper", so that the kernel makes it
their parent and none is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from scistream.dataserver.programs.output import Output
from scistream.dataserver.programs.plan import FIRST_DESCRIPTOR
from scistream.dataserver.programs.running import Environment, RunningProgram
from scistream.dataserver.tree.exits import describe_exit
from scistream.errors import DataServerError

END_LIMIT_S = 3.0
"""How long the kernel may take to end a group that was killed."""

_POLL_S = 0.002
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Be the parent of all descendants whose own parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class ProgramProcess(RunningProgram):
    """A program as a child of this process.

    Parameters
    ----------
    arguments : sequence of str
        The program's file and its arguments.
    environment : callable
        Returns its environment, from its pid.
    folder : Path
        Its working directory.
    descriptors : sequence of int
        What it has open besides, from `FIRST_DESCRIPTOR` on.
    on_line : callable
        Called with each line that it writes, on either output.

    Raises
    ------
    DataServerError
        There can be no more processes.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        on_line: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()
        self._output = Output(on_line)
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError as error:
            self._output.close()
            raise DataServerError(f"{arguments[0]} does not start: {error.strerror}") from error
        if self.pid == 0:
            _become(arguments, environment, folder, descriptors, self._output.writing_end, parent)
        self._output.started()
        self._descriptor = os.pidfd_open(self.pid)
        self._loop.add_reader(self._descriptor, self._on_end)
        self._clearing: asyncio.Task[None] | None = None

    def signal(self, signum: signal.Signals) -> None:
        """Send the program a signal; one that has ended needs none."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signum)

    async def kill(self) -> None:
        """End it and all it has started, at once."""
        self.signal(signal.SIGKILL)
        await asyncio.shield(self.ended)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        # before it is waited for: until then its number is nobody else's
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._clearing = self._loop.create_task(self._clear_away(describe_exit(status)))

    async def _clear_away(self, how: str) -> None:
        """See the rest of the group end, and hear its last words."""
        deadline = self._loop.time() + END_LIMIT_S
        while self._has_orphans() and self._loop.time() < deadline:  # noqa: ASYNC110 - other processes decide
            await asyncio.sleep(_POLL_S)
        self._output.close()
        os.close(self._descriptor)
        self.ended.set_result(how)

    def _has_orphans(self) -> bool:
        try:
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True


def _become(
    arguments: Sequence[str],
    environment: Environment,
    folder: Path,
    descriptors: Sequence[int],
    output: int,
    parent: int,
) -> NoReturn:
    """Become the program, in the new process."""
    try:
        os.setsid()
        os.umask(0o077)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it has died before it could be watched
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        end = FIRST_DESCRIPTOR + len(descriptors)
        # out of the way first: one's present place may be another's future one
        copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, end) for descriptor in descriptors]
        for number, copy in enumerate(copies, FIRST_DESCRIPTOR):
            os.dup2(copy, number)
        os.closerange(end, os.sysconf("SC_OPEN_MAX"))
        os.chdir(folder)
        os.execve(arguments[0], list(arguments), dict(environment(os.getpid())))  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - whatever it is: this process ends here
        os.write(2, f"{arguments[0]} cannot be executed: {error}\n".encode())
    finally:
        os._exit(127)
