"""Containers as the place where programs run."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scistream.dataserver.containers.engine import CALL_LIMIT_S, SCRATCH, Engine
from scistream.dataserver.containers.process import ContainedProcess
from scistream.dataserver.containers.removal import Removals
from scistream.dataserver.programs.place import ENVIRONMENT, Place
from scistream.dataserver.programs.program import connection_limit
from scistream.dataserver.programs.running import NOT_STARTED, Environment, RunningProgram
from scistream.errors import DataServerError

_SAID_LINES = 500
_SAID_LIMIT_S = 12.0
"""How long a program may take to say its version; less than the control server waits."""
_LEAVE_LIMIT_S = 1.5
"""How long a worker's end waits for the engine; less than it may take before it is killed."""
_NOT_FOUND = "ended with code 127"
_TASKS = 1000
_IS_FILE = "import os, sys; sys.exit(not os.path.isfile(sys.argv[1]))"


class ContainerPlace(Place):
    """One image, of which each process of the program has a container.

    Parameters
    ----------
    settings : mapping
        Those of `ContainerBackend`.
    capabilities : sequence of str
        What the program cannot do without as root.
    thread_per_connection : bool
        Whether it needs one.
    """

    scratch = f"{SCRATCH}/"

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        capabilities: Sequence[str] = (),
        thread_per_connection: bool = False,
    ) -> None:
        self._image = str(settings["image"])
        self._engine = Engine(str(settings["engine"]))
        self._removals = Removals(self._engine)
        self._capabilities = tuple(capabilities)
        self._thread_per_connection = thread_per_connection

    def find(self, name: str, package: str) -> str:
        """Return the program's name: in the image it is looked for where programs are."""
        del package
        self._engine.open()
        self._engine.check_image(self._image)
        return name

    def called(self, binary: str) -> str:
        """Return its name with that of its image."""
        return f"{binary} of the image {self._image}"

    def remedy(self, package: str) -> str:
        """Return how to give another image."""
        del package
        return "give another image by --container-image"

    def output_of(self, arguments: Sequence[str]) -> str:
        """Return what a program says of itself."""
        how, said = self._run(arguments)
        if how == _NOT_FOUND:
            raise DataServerError(f"the image {self._image} has no {arguments[0]}: {' / '.join(said)}")
        if how.startswith(NOT_STARTED):
            raise DataServerError(f"{self.called(arguments[0])} {how}")
        return "\n".join(said)

    def is_file(self, path: str) -> bool:
        """Return whether the image has it."""
        return self._run([*self._engine.interpreter.command, "-c", _IS_FILE, path])[0] == "ended with code 0"

    def enter(self) -> None:
        """Have removals of its own: the engine starts programs."""
        self._removals = Removals(self._engine)

    async def leave(self) -> None:
        """See the last containers removed."""
        await self._removals.wait(_LEAVE_LIMIT_S)

    def _run(self, arguments: Sequence[str]) -> tuple[str, list[str]]:
        async def run() -> tuple[str, list[str]]:
            self._removals = Removals(self._engine)  # those of this loop
            try:
                return await self.run_to_end(
                    arguments, lambda _: ENVIRONMENT, folder, [], _SAID_LIMIT_S, "", kept_lines=_SAID_LINES
                )
            finally:
                await self._removals.wait(CALL_LIMIT_S)  # no thread is to be there when workers are forked

        folder = Path(tempfile.mkdtemp(prefix="scistream-container-"))
        try:
            return asyncio.run(run())
        finally:
            shutil.rmtree(folder)

    def start(
        self,
        arguments: Sequence[str],
        environment: Environment,
        folder: Path,
        descriptors: Sequence[int],
        on_line: Callable[[str], None],
        label: str,
    ) -> RunningProgram:
        """Return a process in a container of its own."""
        return ContainedProcess(
            self._engine,
            self._removals,
            self._image,
            arguments,
            environment,
            folder,
            descriptors,
            on_line,
            label=label,
            capabilities=self._capabilities,
            max_tasks=_TASKS + (connection_limit(1) if self._thread_per_connection else 0),
        )
