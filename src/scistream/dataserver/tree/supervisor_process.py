"""The supervisor's process as seen by a control server: started by it, or found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from scistream.dataserver.tree.exits import describe_exit, has_ended
from scistream.errors import DataServerError

#: All that the tree gets of our environment: what Python and the loader need, no secrets.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_ENVIRONMENT_PREFIXES = ("PYTHON", "OPENSSL", "SCISTREAM_MARK")
"""The last one: marks by which whoever has started us finds all that descends from it."""

_CONTROL_FD = 3


class SupervisorProcess:
    """A process that may be a child of this one or not.

    Raises
    ------
    ProcessLookupError
        There is none with this `pid`.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._exit = ""

    @classmethod
    def start(cls, control: socket.socket, module: str, arguments: Sequence[str]) -> SupervisorProcess:
        """Start `module` as a tree that serves `control`; it says there when it is ready.

        Raises
        ------
        DataServerError
            The interpreter does not start.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
        }
        command = [sys.executable, "-P", "-m", module]
        try:
            pid = os.posix_spawn(
                sys.executable,
                [*command, "--control-fd", str(_CONTROL_FD), *arguments],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, control.fileno(), _CONTROL_FD),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                ],
                setsid=True,  # a terminal's Ctrl-C and hang-up are for the control server alone
                setsigdef=[signal.SIGPIPE],
            )
        except OSError as error:
            raise DataServerError(f"the data server does not start: {error}") from error
        return cls(pid)

    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return has_ended(self._descriptor)

    async def ended(self) -> None:
        """Return when it has ended."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # a duplicate, so that several may wait
        descriptor = os.dup(self._descriptor)
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def reap(self) -> str:
        """Return how it ended, once it has; empty where that is not known, as it was another's child."""
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(self.pid, os.WNOHANG)
            self._exit = describe_exit(status)
        return self._exit

    def kill(self) -> None:
        """End it and its workers at once, also those that hang; they are one process group."""
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Forget it. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
