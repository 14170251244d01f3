"""The supervisor's end of the connection to its control server: there is one, or the tree is an orphan.

A tree that may not outlive its control server has the one connection that it was born with. Another one
listens besides at its meeting place, greets whoever comes while it is an orphan, and refuses a second.
Lines of the log that nobody can be told are kept for the next control server.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from scistream.dataserver.tree.logs import MAX_KEPT_LINES, MAX_WAITING
from scistream.dataserver.tree.messages import Message, MessageSocket
from scistream.dataserver.tree.rendezvous import PROTOCOL, MeetingPlace
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)


class Controller:
    """Whoever controls this tree at present.

    Parameters
    ----------
    control : MessageSocket
        The connection to the control server that has started the tree.
    place : MeetingPlace or None
        Where others come when that one is gone; None if the tree ends then.
    greeting : callable
        Returns what a new control server has to know.
    """

    def __init__(
        self, control: MessageSocket, place: MeetingPlace | None, greeting: Callable[[], dict[str, Any]]
    ) -> None:
        self.link: MessageSocket | None = control
        self._place = place
        self._greeting = greeting
        self._pid = 0
        self._attached = False
        self._orphan_limit_s = math.inf
        self._orphan_since: float | None = None
        self._lines: deque[dict[str, Any]] = deque(maxlen=MAX_KEPT_LINES)

    def greet(self) -> None:
        """Tell the control server what is here."""
        self.tell({"event": "hello", "protocol": PROTOCOL, **self._greeting()})
        while self._lines and self.link is not None:
            self.tell(self._lines.popleft())

    def tell(self, body: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
        """Send it; return False if nobody is there."""
        link = self.link
        if link is None:
            return False
        try:
            link.send(body, descriptors)
        except DataServerError:
            # it reads no more, or this is too much for it: it finds out by the connection's end
            link.ended = True
        return not link.ended

    def log(self, line: dict[str, Any]) -> None:
        """Send a line of the log, or keep it for the next control server."""
        if self.link is None or self.link.ended:
            self._lines.append(line)
        elif self.link.unsent < MAX_WAITING:
            self.tell(line)

    def receive(self) -> list[Message]:
        """Return what has been asked; `link.ended` says that nothing more comes."""
        link = self.link
        if link is None:
            return []
        try:
            messages = link.receive()
        except DataServerError as error:
            logger.warning("the connection to the control server is given up: %s", error)
            link.ended = True
            return []
        return messages

    def attach(self, body: dict[str, Any]) -> None:
        """Take the greeting's answer.

        Raises
        ------
        DataServerError
            It speaks another protocol.
        """
        if body.get("protocol") != PROTOCOL:
            raise DataServerError(f"this tree speaks protocol {PROTOCOL}, not {body.get('protocol')}")
        self._attached = True
        self._orphan_since = None
        self._orphan_limit_s = float(body["orphan_limit_s"])

    def lose(self) -> bool:
        """Take note that the control server is gone; return whether another one may come.

        Whoever came and never attached does not change since when the tree is an orphan.
        """
        if self.link is not None:
            self.link.close()
            self.link = None
        self._pid = 0
        if self._place is None or not self._attached:
            return False
        if self._orphan_since is None:
            self._orphan_since = time.monotonic()
        return True

    def meet(self) -> MessageSocket | None:
        """Look who comes to the meeting place; return the new control server's connection if it is one."""
        place = self._place
        met = place.accept() if place is not None else None
        if met is None:
            return None
        sock, pid = met
        newcomer = MessageSocket(sock)
        if self.link is not None:
            who = f" (process {self._pid})" if self._pid else ""
            with contextlib.suppress(DataServerError):
                newcomer.send(
                    {"event": "refused", "reason": f"another control server{who} is connected: stop it first"}
                )
            newcomer.close()
            return None
        self.link, self._pid = newcomer, pid
        self.greet()
        return newcomer

    def orphan_left_s(self, now: float) -> float:
        """Return how long the tree goes on without a control server; infinity while it has one."""
        if self._orphan_since is None:
            return math.inf
        return self._orphan_since + self._orphan_limit_s - now

    def close(self) -> None:
        """Send what is still to be sent if that works at once, and close."""
        if self.link is not None:
            with contextlib.suppress(OSError):
                self.link.flush()
            self.link.close()
            self.link = None
