"""What the worker of a program's tree is given: the program, and a private folder for its sessions' files."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from pathlib import Path

from scistream.dataserver.programs.program import Program
from scistream.dataserver.programs.render import remove_folder
from scistream.dataserver.programs.worker import Worker
from scistream.dataserver.tree.work import Work
from scistream.errors import DataServerError

_FOLDER = "programs"


class ProgramWork(Work):
    """Running a program per session, by one worker: all it does is start, watch and ask.

    Parameters
    ----------
    program : Program
        Which one.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._folder: Path | None = None

    @property
    def workers(self) -> int:
        """How many there are."""
        return 1

    def prepare(self) -> None:
        """Find the program; make the folder, and remove what a tree that was killed has left there.

        Raises
        ------
        DataServerError
            The program is missing or too old, or the folder cannot be made.
        """
        self._program.find()
        try:
            if self.directory is None:
                self._folder = Path(tempfile.mkdtemp(prefix=f"scistream-{self._program.name}-"))
            else:
                self._folder = self.directory / _FOLDER
                if self._folder.exists():
                    shutil.rmtree(self._folder)
                self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise DataServerError(
                f"{error.filename}: no folder for configurations can be made there: {error.strerror}"
            ) from error

    def run(self, index: int, control: socket.socket) -> None:
        """Be the worker."""
        del index
        if self._folder is None:
            raise DataServerError("the work is not prepared")
        if asyncio.run(Worker(control, self._program, self._folder).run()):
            self.close()  # the supervisor may have been killed

    def forget(self, slot: int, index: int) -> None:
        """Do nothing: connections are counted by the program."""

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            remove_folder(self._folder)
