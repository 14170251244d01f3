"""Requests to a supervisor and what it says unasked, over one Unix socket; asyncio, nothing that blocks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scistream.dataserver.tree.messages import Message, MessageSocket
from scistream.errors import DataServerError

REQUEST_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What the supervisor answers; whoever gets it owns the descriptors."""

    results: list[Any]
    descriptors: tuple[int, ...]


class Unanswered(DataServerError):
    """The tree is there, but does not answer: it hangs."""


class Connection:
    """A control server's end.

    Parameters
    ----------
    sock : socket.socket
        Connected; the connection owns it.
    on_event : callable
        Called with everything that is no answer.
    on_lost : callable
        Called once when the other end is gone, with the reason if that is more than just that.
    """

    def __init__(
        self, sock: socket.socket, on_event: Callable[[dict[str, Any]], None], on_lost: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = MessageSocket(sock)
        self._on_event = on_event
        self._on_lost = on_lost
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0
        self._writing = False
        self._open = True
        self._loop.add_reader(sock.fileno(), self._on_readable)

    async def request(self, body: dict[str, Any], descriptors: Sequence[int] = ()) -> Reply:
        """Ask; return the answer.

        Raises
        ------
        Unanswered
            The tree does not answer in time.
        DataServerError
            It has ended, or refuses.
        """
        if not self._open:
            raise DataServerError("the data server is not running")
        self._number += 1
        number = self._number
        reply: asyncio.Future[Reply] = self._loop.create_future()
        self._replies[number] = reply
        try:
            self._link.send({**body, "id": number}, descriptors)
            self._await_writable()
            async with asyncio.timeout(REQUEST_LIMIT_S):
                return await reply
        except TimeoutError as error:
            raise Unanswered(
                f"the data server does not answer {body['operation']!r} within {REQUEST_LIMIT_S:g} s"
            ) from error
        finally:
            del self._replies[number]

    def tell(self, body: dict[str, Any]) -> None:
        """Send what has no answer, if that works at once."""
        if self._open:
            self._link.send(body)

    def _await_writable(self) -> None:
        link = self._link
        if link.unsent and not self._writing:
            self._writing = True
            self._loop.add_writer(link.fileno(), self._on_writable)
        elif not link.unsent and self._writing:
            self._writing = False
            self._loop.remove_writer(link.fileno())

    def _on_writable(self) -> None:
        self._link.flush()
        self._await_writable()

    def _on_readable(self) -> None:
        reason = ""
        try:
            for message in self._link.receive():
                self._on_message(message)
        except DataServerError as error:
            reason = str(error)
            self._link.ended = True
        if self._open and self._link.ended:
            self.close()
            self._on_lost(reason)

    def _on_message(self, message: Message) -> None:
        body = message.body
        if "reply" not in body:
            self._on_event(body)
        else:
            reply = self._replies.get(int(body["reply"]))
            if reply is not None and not reply.done():  # else its time was over
                if "error" not in body:
                    reply.set_result(Reply(body["results"], message.descriptors))
                    return
                reply.set_exception(DataServerError(body["error"]))
        for descriptor in message.descriptors:
            os.close(descriptor)

    def fail(self, reason: str) -> None:
        """Tell everybody who waits for an answer that none will come."""
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(DataServerError(reason))

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._link.fileno())
            self._loop.remove_writer(self._link.fileno())
            self._link.close()
