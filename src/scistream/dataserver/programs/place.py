"""Where a gateway's programs run: on this machine as they are installed there, or in containers.

All that a `Program` or a session wants of the machine it asks its place for.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from scistream.dataserver.programs.find import find_binary, output_of
from scistream.dataserver.programs.process import ProgramProcess, become_subreaper
from scistream.dataserver.programs.running import Environment, RunningProgram
from scistream.errors import DataServerError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C"}
"""Of every program, which needs nothing of ours."""
KEPT_LINES = 20


class Place(ABC):
    """Where programs run.

    Attributes
    ----------
    scratch : str
        A folder where they can write: its path and a slash; nothing where the session's is one.
    """

    scratch: ClassVar[str]

    @abstractmethod
    def find(self, name: str, package: str) -> str:
        """Return by which name or path the program is executed.

        Raises
        ------
        DataServerError
            It is not there; the message says what to type.
        """

    @abstractmethod
    def called(self, binary: str) -> str:
        """Return how messages name the program."""

    @abstractmethod
    def remedy(self, package: str) -> str:
        """Return what an operator can do who needs another program than the one here."""

    @abstractmethod
    def output_of(self, arguments: Sequence[str]) -> str:
        """Return what a program says of itself, on both outputs. Blocks.

        Raises
        ------
        DataServerError
            It cannot be executed, or does not end.
        """

    @abstractmethod
    def is_file(self, path: str) -> bool:
        """Return whether programs find a file there. Blocks."""

    @abstractmethod
    def enter(self) -> None:
        """Make this process one that can start programs there."""

    async def leave(self) -> None:  # noqa: B027 - most leave nothing
        """Clear away, not for long, what programs that have ended have left there."""

    @abstractmethod
    def start(
        self,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        on_line: Callable[[str], None],
        label: str,
    ) -> RunningProgram:
        """Return a program that is being started.

        Parameters
        ----------
        arguments : sequence of str
            What `find` returned, and its arguments.
        environment : callable
            Returns its environment, from its pid.
        folder : Path
            Its working directory, which it finds at the same path.
        descriptors : sequence of int
            What it has open besides, from `FIRST_DESCRIPTOR` on; duplicated here as needed.
        on_line : callable
            Called with each line that it writes, on either output.
        label : str
            Whose it is.

        Raises
        ------
        DataServerError
            That cannot be.
        """

    async def run_to_end(
        self,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        limit_s: float,
        label: str,
        kept_lines: int = KEPT_LINES,
    ) -> tuple[str, list[str]]:
        """Run a program that ends by itself; return how it has ended and the last lines that it has written.

        Raises
        ------
        DataServerError
            It does not end in time.
        """
        lines: list[str] = []

        def keep(line: str) -> None:
            lines.append(line)
            del lines[:-kept_lines]

        process = self.start(arguments, environment, folder, descriptors, keep, label)
        try:
            async with asyncio.timeout(limit_s):
                how = await asyncio.shield(process.ended)
        except TimeoutError as error:
            raise DataServerError(f"{' '.join(arguments)} does not end within {limit_s:g} s") from error
        finally:
            await process.kill()
        return how, lines


class ThisMachine(Place):
    """Programs as they are installed here, as children of this process.

    Parameters
    ----------
    binary : str or None
        The program's file; None looks for it where the system has its programs.
    """

    scratch = ""

    def __init__(self, binary: str | None = None) -> None:
        self._given = binary

    def find(self, name: str, package: str) -> str:
        """Return the program's path."""
        return find_binary(name, package, self._given)

    def called(self, binary: str) -> str:
        """Return its path."""
        return binary

    def remedy(self, package: str) -> str:
        """Return what to install."""
        return f"apt install {package}, put the folder of another one on PATH"

    def output_of(self, arguments: Sequence[str]) -> str:
        """Return what a program says of itself."""
        return output_of(arguments, ENVIRONMENT)

    def is_file(self, path: str) -> bool:
        """Return whether it is one."""
        return Path(path).is_file()

    def enter(self) -> None:
        """Be the parent of all that programs leave."""
        become_subreaper()

    def start(
        self,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        on_line: Callable[[str], None],
        label: str,
    ) -> RunningProgram:
        """Return a child process."""
        del label
        return ProgramProcess(arguments, environment, folder, descriptors, on_line)
