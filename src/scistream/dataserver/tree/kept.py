"""What the supervisor keeps of each session, so that a worker or a control server can be replaced.

It holds the session's keys and targets, in memory only, and its listening sockets.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from typing import Any

MAX_NOTICES = 100
"""Restarts that are remembered while no control server is there to be told."""

Figures = list[list[int]]
"""Per channel, in the order of `ChannelStatistics`."""
_LASTING = 5
"""What comes later in a channel's figures goes with its worker."""


@dataclass(slots=True, eq=False)
class KeptSession:
    """One session of the tree.

    Attributes
    ----------
    start : dict
        The message that starts it in a worker, with its present targets and credentials.
    descriptors : tuple of int
        Its listening sockets.
    last : dict
        What each worker said last of its statistics.
    lost : list
        What workers that are dead had carried, as far as they had said.
    notices : deque of str
        Why it was restarted, as long as no control server knows.
    ended : str
        Why it is forwarded no more although nobody has stopped it; empty while it is.
    """

    start: dict[str, Any] = field(repr=False)
    descriptors: tuple[int, ...]
    last: dict[int, Figures] = field(default_factory=dict)
    lost: Figures = field(default_factory=list)
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))
    ended: str = ""

    @property
    def key(self) -> int:
        """Its name within the tree."""
        return int(self.start["key"])

    @property
    def slot(self) -> int:
        """Its place in the memory that workers share."""
        return int(self.start["slot"])

    def retarget(self, body: dict[str, Any]) -> None:
        """Remember the targets and credentials that the workers use now."""
        changed = ("targets", "dials", "tls")
        self.start = {**self.start, **{name: body[name] for name in changed}}

    def figures(self) -> list[Figures]:
        """Return what all workers have carried, those that are dead included."""
        return [*self.last.values(), *([self.lost] if self.lost else [])]

    def worker_died(self, index: int) -> None:
        """Keep what it had carried; its connections are gone."""
        last = self.last.pop(index, None)
        if last is None:
            return
        last = [[0, *figures[1:_LASTING]] for figures in last]
        before = self.lost or [[0] * len(figures) for figures in last]
        self.lost = [
            [sum(pair) for pair in zip(old, new, strict=True)] for old, new in zip(before, last, strict=True)
        ]

    def description(self) -> dict[str, Any]:
        """Return what a control server that finds it needs to know, its notices for the only time."""
        notices = list(self.notices)
        self.notices.clear()
        return {
            "key": self.key,
            "slot": self.slot,
            "uid": self.start["uid"],
            "channels": self.start["channels"],
            "waits": self.start["waits"],
            "notices": notices,
            "ended": self.ended,
        }

    def close(self) -> None:
        """Close the listening sockets."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()
