"""Requests to several workers at once, and what each has answered.

Requests have numbers of their own here, whoever asks: an answer that comes when the asking control server is
gone finds its request, and nobody else's. What a worker owes when it dies is asked of the one in its place.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scistream.dataserver.tree.children import Child, Children
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)

ANSWER_LIMIT_S = 8.0
"""A worker that takes longer is hung, and is replaced."""


@dataclass(slots=True, eq=False)
class Request:
    """What workers have been asked.

    Attributes
    ----------
    missing : dict of int to float
        Who has not answered yet, and since when it has been asked, by the monotonic clock.
    answered : callable
        Called with the request when nobody is missing any more.
    error : str or None
        The first refusal.
    """

    body: dict[str, Any] = field(repr=False)
    descriptors: tuple[int, ...]
    missing: dict[int, float]
    answered: Callable[[Request], None]
    error: str | None = None


def nobody(_request: Request) -> None:
    """Take an answer that nobody waits for."""


class Fanout:
    """All requests that workers have not answered.

    Parameters
    ----------
    children : Children
        Who is asked.
    on_result : callable
        Called with the request's body, the worker's index and its result, as soon as that comes.
    """

    def __init__(self, children: Children, on_result: Callable[[dict[str, Any], int, Any], None]) -> None:
        self._children = children
        self._on_result = on_result
        self._requests: dict[int, Request] = {}
        self._number = 0

    def ask(
        self,
        body: dict[str, Any],
        answered: Callable[[Request], None] = nobody,
        descriptors: tuple[int, ...] = (),
        *,
        only: int | None = None,
    ) -> None:
        """Ask all workers, or one only."""
        self._number += 1
        indices = [child.index for child in self._children] if only is None else [only]
        request = Request(
            {**body, "id": self._number}, descriptors, dict.fromkeys(indices, math.inf), answered
        )
        self._requests[self._number] = request
        for index in indices:
            self.send(self._children[index], request)

    def send(self, child: Child, request: Request) -> None:
        """Ask one worker what it has not been asked yet."""
        request.missing[child.index] = time.monotonic()
        try:
            child.control.send(request.body, request.descriptors)
        except DataServerError as error:
            child.kill(str(error))

    def on_reply(self, index: int, body: dict[str, Any]) -> None:
        """Take a worker's answer."""
        request = self._requests[int(body["reply"])]
        if "error" in body:
            request.error = request.error or str(body["error"])
        else:
            self._on_result(request.body, index, body["result"])
        self.settle(request, index)

    def settle(self, request: Request, index: int) -> None:
        """Expect no answer of this worker any more."""
        request.missing.pop(index, None)
        if not request.missing:
            del self._requests[request.body["id"]]
            request.answered(request)

    def owed_by(self, index: int) -> list[Request]:
        """Return what this worker has not answered, in the order in which it was asked."""
        return [request for request in self._requests.values() if index in request.missing]

    def left_s(self, now_s: float) -> float:
        """Return how long it takes until `kill_hung` has something to do, if nobody answers."""
        return max(0.0, min(self._asked().values(), default=math.inf) + ANSWER_LIMIT_S - now_s)

    def kill_hung(self, now_s: float) -> None:
        """End every worker that owes an answer for too long; it is replaced like any that has died."""
        for index, asked_s in self._asked().items():
            if asked_s + ANSWER_LIMIT_S <= now_s:
                self._children[index].kill(f"it has not answered for {ANSWER_LIMIT_S:g} s")

    def _asked(self) -> dict[int, float]:
        """Return since when workers owe their oldest answers; of those that are killed none comes."""
        asked: dict[int, float] = {}
        for request in self._requests.values():
            for index, asked_s in request.missing.items():
                if not self._children[index].killed:
                    asked[index] = min(asked_s, asked.get(index, math.inf))
        return asked
