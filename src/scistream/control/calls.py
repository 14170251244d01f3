"""Who waits for an answer of this control server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scistream.core.commands import Accepted, Refuse, Reply
from scistream.errors import SciStreamError


class Calls:
    """The calls without an answer yet, by their numbers."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._told: dict[int, Callable[[], None]] = {}

    def next(self) -> int:
        """Return a number for one call; none is used twice."""
        return next(self._numbers)

    @contextmanager
    def waiting(
        self, call: int, accepted: Callable[[], None] | None = None
    ) -> Iterator[asyncio.Future[Reply]]:
        """Let the call wait; return where its answer will be. `accepted` is called when its REQ is taken."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[call] = answer
        if accepted is not None:
            self._told[call] = accepted
        try:
            yield answer
        finally:
            del self._waiting[call]
            self._told.pop(call, None)

    def accept(self, command: Accepted) -> None:
        """Tell the call that its REQ is taken, if anybody wants to know."""
        if (tell := self._told.pop(command.call, None)) is not None:
            tell()

    def answer(self, command: Reply | Refuse) -> None:
        """Answer the call, if anybody waits for that still."""
        answer = self._waiting.get(command.call)
        if answer is None or answer.done():
            return
        if isinstance(command, Reply):
            answer.set_result(command)
        else:
            answer.set_exception(command.error)

    def refuse_all(self, kind: type[SciStreamError], reason: str) -> None:
        """Answer all calls that wait with an error."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(kind(reason))
