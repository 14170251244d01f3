"""When a worker makes a checkpoint, and what it makes of the one that it finds.

What could not be used costs only time, as the distributor has everything: a checkpoint that is damaged, or
does not fit, is told, and the slices begin anew; one that cannot be written is told, and reconstruction goes
on. But other options are an error: whoever gave them should decide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ministream.errors import InputError, MiniStreamError, OutputError
from ministream.stages.assignment import Assignment
from ministream.stages.blocks import Block
from ministream.stages.checkpoint import Checkpoint, Saved
from ministream.stages.reconstruction import Reconstruction

logger = logging.getLogger(__name__)

_SHARE = 0.1
"""Of a worker's time, at most, for checkpoints; unless each projection is to have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a worker is, beside its slices.

    Parameters
    ----------
    worker : str
        Its name.
    assignment : Assignment
        What the distributor has told it last.
    updates : int
        How often arriving projections have led to an update.
    first_update_at : float
        Unix time.
    """

    worker: str
    assignment: Assignment
    updates: int
    first_update_at: float


class Keeper:
    """Keeps a worker's checkpoints in a folder. A context manager.

    Parameters
    ----------
    folder : Path
    every_s : float
        Time between checkpoints, longer where they take long; 0 makes one whenever it is asked.
    settings : mapping
        What another reconstruction would come of if it were different; JSON.

    Raises
    ------
    OutputError
        The folder cannot be used, or another worker uses it.
    """

    def __init__(self, folder: Path, *, every_s: float, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._every_s = every_s
        self._settings = dict(settings)
        self._checkpoint = Checkpoint(folder)
        self._due_s = time.monotonic() + every_s
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpoint.__exit__(kind, error, trace)

    def find(
        self,
        check: Callable[[Assignment, int], None],
        make: Callable[[Assignment, int], Reconstruction],
    ) -> tuple[Progress, list[Block]] | None:
        """Return where an earlier worker was; None if there is nothing that can be used.

        Parameters
        ----------
        check : callable
            Told of how many slices there are, before anything is made; raises if they are too many.
        make : callable
            Returns a new reconstruction of so many slices.

        Raises
        ------
        InputError
            It is that of other options; or what `check` raises.
        OutputError
            The folder cannot be read.
        """
        saved = self._checkpoint.load()
        if saved is None:
            return None
        try:
            progress = _progress(saved)
            sizes = [int(part.values["slices"][1]) - int(part.values["slices"][0]) for part in saved.parts]
            settings = dict(saved.values["settings"])
        except (KeyError, TypeError, ValueError, MiniStreamError) as error:
            self._begin_anew(error)
            return None
        others = sorted(name for name in settings if settings[name] != self._settings.get(name))
        if others:
            raise InputError(
                f"the checkpoint in {self._folder} was made with other options: "
                + ", ".join(f"{name} {settings[name]}" for name in others)
                + "; give the same, or another --checkpoint, or remove it"
            )
        check(progress.assignment, sum(sizes))
        try:
            blocks = [
                Block.from_part(part, lambda slices: make(progress.assignment, slices))
                for part in saved.parts
            ]
        except (KeyError, TypeError, ValueError, MiniStreamError) as error:
            self._begin_anew(error)
            return None
        return progress, blocks

    def _begin_anew(self, error: Exception) -> None:
        logger.warning(
            "the checkpoint in %s cannot be used (%s: %s): the slices begin anew",
            *(self._folder, type(error).__name__, error),
        )

    def keep(
        self, progress: Progress, blocks: Sequence[Block], alive: Callable[[], None], *, now: bool = False
    ) -> None:
        """Make a checkpoint if one is due, or `now`; `alive` is called now and then, as it may take long."""
        began_s = time.monotonic()
        if not now and began_s < self._due_s:
            return
        values = {
            "worker": progress.worker,
            "settings": self._settings,
            "assignment": progress.assignment.as_message(),
            "updates": progress.updates,
            "first_update_at": progress.first_update_at,
        }
        try:
            self._checkpoint.save(values, [block.part() for block in blocks], alive)
        except OutputError as error:
            if not self._failed:
                logger.warning(
                    "no checkpoint, and reconstruction goes on; whoever is started in place of this worker "
                    "goes on from an earlier one, or begins anew: %s",
                    error,
                )
            self._failed = True
        else:
            if self._failed:
                logger.warning("there is a checkpoint again")
            self._failed = False
        ended_s = time.monotonic()
        pause_s = max(self._every_s, (ended_s - began_s) / _SHARE) if self._every_s else 0.0
        self._due_s = ended_s + pause_s

    def remove(self) -> None:
        """Remove the checkpoint: the scan has ended."""
        self._checkpoint.remove()


def _progress(saved: Saved) -> Progress:
    return Progress(
        worker=str(saved.values["worker"]),
        assignment=Assignment.parse(saved.values["assignment"]),
        updates=int(saved.values["updates"]),
        first_update_at=float(saved.values["first_update_at"]),
    )
