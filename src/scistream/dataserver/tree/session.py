"""What a control server knows of each session in a tree: its name there, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class TreeSession:
    """One session of a tree: `key` is never used again there, `slot` is.

    Attributes
    ----------
    restarted : callable or None
        Who is told when a worker of it was replaced; the reasons wait in `notices` while that is nobody.
    ended : asyncio.Future of str
        Why the tree has given up this session.
    waits : bool
        Whether it dials no target, as the other side dials it.
    """

    key: int
    slot: int
    uid: str
    channels: int
    ended: asyncio.Future[str]
    waits: bool = False
    restarted: Callable[[str], None] | None = None
    notices: list[str] = field(default_factory=list)

    def tell(self, restarted: Callable[[str], None] | None) -> None:
        """Call `restarted` from now on, at first with what nobody was told."""
        self.restarted = restarted
        notices, self.notices = self.notices, []
        for reason in notices:
            self.on_restarted(reason)

    def on_restarted(self, reason: str) -> None:
        """Tell it, or keep it."""
        if self.restarted is None:
            self.notices.append(reason)
        else:
            self.restarted(reason)
