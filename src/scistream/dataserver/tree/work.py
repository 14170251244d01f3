"""What the workers of a tree do: the part in which kinds of data servers differ.

A worker answers ``start``, ``stop``, ``retarget`` and ``statistics`` on its control socket; `data_server`
says what they hold. It may say unasked that a session was ``restarted`` on the same listeners, or ``ended``.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from pathlib import Path

MAX_SESSIONS = 1 << 14
"""How many slots there are: each session of a tree has one, which others have used before it."""


class Work(ABC):
    """What all workers of one tree have in common. It is made in the supervisor's process.

    Attributes
    ----------
    directory : Path or None
        The tree's own, where it is found again; None if it ends with its control server. Set before
        `prepare`.
    """

    directory: Path | None = None

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many there are."""

    @abstractmethod
    def prepare(self) -> None:
        """Load what workers share, once, before the first is forked.

        Raises
        ------
        SciStreamError
            Something is missing; the tree does not start.
        """

    @abstractmethod
    def run(self, index: int, control: socket.socket) -> None:
        """Be worker `index` in this process, until `control` ends."""

    @abstractmethod
    def forget(self, slot: int, index: int) -> None:
        """Worker `index` has died: it has no connection of the session in `slot` any more."""

    @abstractmethod
    def close(self) -> None:
        """Close, in the supervisor, what workers share."""
