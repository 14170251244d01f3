"""The time limits that the reverse channels of one worker share."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from scistream.dataserver.native.loop import end_step

if TYPE_CHECKING:
    from scistream.dataserver.native.loop import Deadlines, Loop

ANSWER_LIMIT_S = 3.0
"""How long the producer's side may take to begin; then another connection of it is tried."""
LOOK_S = 0.05
"""How often it is looked whether another worker has a connection of the producer's side, while some wait."""
PATIENCE_S = 0.5
"""How often it is looked whether who waits for one is there still, and has not waited too long."""
READY_TIMEOUT_S = 20.0
"""How long the peer of a connection that is ready may leave everything unanswered: less than that of a
stream, for nothing is lost with it, and whoever gets a dead one has to wait."""
SURPLUS_S = 10.0
"""How long connections beyond the usual number are kept ready after the last need."""

_STEPS = 4
"""Per doubling: one of so many is drawn by lot."""
_DOUBLINGS = 5
RETRIES_S = tuple(0.1 * 2 ** (step / _STEPS) for step in range((_DOUBLINGS + 1) * _STEPS))
"""When a gateway that cannot be reached is dialled again: after 0.1 s at first, every 3 to 5 s in the end."""


class ReverseTimes:
    """Those of one worker."""

    def __init__(self, loop: Loop) -> None:
        self.answers = loop.deadlines(ANSWER_LIMIT_S, lambda spare: spare.too_late(), end_step)
        self.looks = loop.deadlines(LOOK_S, lambda room: room.look(), end_step)
        self.patience = loop.deadlines(PATIENCE_S, lambda pairing: pairing.look_again(), end_step)
        self.surplus = loop.deadlines(SURPLUS_S, lambda dialler: dialler.shrink(), end_step)
        self._retries = [
            loop.deadlines(wait_s, lambda dialler: dialler.try_again(), end_step) for wait_s in RETRIES_S
        ]

    def retry_after(self, failures: int) -> Deadlines[Any]:
        """Return when to dial again after so many failures in a row."""
        return self._retries[min(failures, _DOUBLINGS) * _STEPS + secrets.randbelow(_STEPS)]
