"""The sessions of a tree as its supervisor knows them, and the requests that concern them.

It passes requests on to all workers, and keeps what a new worker or a new control server needs (`kept`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from scistream.dataserver.tree.children import Children
from scistream.dataserver.tree.controller import Controller
from scistream.dataserver.tree.fanout import Fanout, Request, nobody
from scistream.dataserver.tree.kept import KeptSession
from scistream.dataserver.tree.messages import Message
from scistream.dataserver.tree.work import Work
from scistream.errors import DataServerError

logger = logging.getLogger(__name__)


class Service:
    """What a tree does for its control server.

    Parameters
    ----------
    work : Work
        What the workers do.
    children : Children
        The workers.
    controller : Controller
        Whoever asks, and is told.
    end : callable
        Ends the tree.
    """

    def __init__(
        self, work: Work, children: Children, controller: Controller, end: Callable[[], None]
    ) -> None:
        self._work = work
        self._children = children
        self._controller = controller
        self._end = end
        self._sessions: dict[int, KeptSession] = {}
        self._next_key = 1
        self._fanout = Fanout(children, self._on_result)
        self.on_reply = self._fanout.on_reply
        self.left_s = self._fanout.left_s
        self.kill_hung = self._fanout.kill_hung

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._sessions)

    def description(self) -> dict[str, Any]:
        """Return what a new control server has to know; it is told once."""
        return {
            "next_key": self._next_key,
            "sessions": [session.description() for session in self._sessions.values()],
        }

    def close(self) -> None:
        """Close this process's copies of all listening sockets."""
        for session in self._sessions.values():
            session.close()

    def on_request(self, message: Message) -> None:
        """Handle what the control server asks; whoever takes the message's descriptors keeps them."""
        body, link = message.body, self._controller.link

        def reply(results: Sequence[Any], error: str | None = None, descriptors: Sequence[int] = ()) -> None:
            if self._controller.link is link:
                answer = {"reply": body.get("id"), "results": results}
                self._controller.tell(answer if error is None else {**answer, "error": error}, descriptors)

        operation = body.get("operation")
        if operation == "start":
            self._start(KeptSession(body, message.descriptors), reply)
            return
        for descriptor in message.descriptors:
            os.close(descriptor)
        if operation == "attach":
            try:
                self._controller.attach(body)
            except DataServerError as error:
                reply([], str(error))
            else:
                reply([])
        elif operation == "end":
            self._end()
        elif operation == "stop":
            self._stop(int(body["key"]), lambda request: reply([], request.error))
        else:
            session = self._sessions.get(int(body["key"]))
            if session is None or session.ended:
                reply([], session.ended if session else f"no session with key {body['key']} is here")
            elif operation == "listeners":
                reply([], None, session.descriptors)
            else:
                self._fanout.ask(body, partial(self._answered, session, reply))

    def _start(self, session: KeptSession, reply: Callable[..., None]) -> None:
        self._sessions[session.key] = session
        self._next_key = max(self._next_key, session.key + 1)

        def started(request: Request) -> None:
            if request.error is not None and self._sessions.get(session.key) is session:
                self._stop(session.key, nobody)
            reply([], request.error)

        self._fanout.ask(session.start, started, session.descriptors)

    def _stop(self, key: int, answered: Callable[[Request], None]) -> None:
        session = self._sessions.pop(key, None)
        self._fanout.ask({"operation": "stop", "key": key}, answered)
        if session is not None:
            session.close()

    def _answered(self, session: KeptSession, reply: Callable[..., None], request: Request) -> None:
        """Pass on what all workers said of a session that has been started."""
        if request.error is None and request.body["operation"] == "retarget":
            session.retarget(request.body)
        reply(session.figures() if request.body["operation"] == "statistics" else [], request.error)

    def _on_result(self, body: dict[str, Any], index: int, result: Any) -> None:
        """Remember what a worker has carried, in case that it is asked no more."""
        session = self._sessions.get(int(body["key"]))
        if body["operation"] == "statistics" and session is not None:
            session.last[index] = result

    # --- a worker's death -------------------------------------------------------------------------------

    def worker_died(self, index: int) -> None:
        """Keep what it had carried; its connections are gone."""
        for session in self._sessions.values():
            session.worker_died(index)
            self._work.forget(session.slot, index)

    def worker_replaced(self, index: int, reason: str) -> None:
        """Give the worker in its place every session, and what the dead one owed."""
        owed = self._fanout.owed_by(index)
        starting = {request.body["key"] for request in owed if request.body["operation"] == "start"}
        for session in self._sessions.values():
            if session.key not in starting and not session.ended:
                restarted = partial(self._restarted, session, reason)
                self._fanout.ask(session.start, restarted, session.descriptors, only=index)
        for request in owed:
            kept = self._sessions.get(request.body["key"])
            if request.body["operation"] == "start" and (kept is None or kept.ended):
                self._fanout.settle(request, index)  # stopped meanwhile
            else:
                self._fanout.send(self._children[index], request)

    def _restarted(self, session: KeptSession, reason: str, request: Request) -> None:
        """Tell that a session is forwarded by all workers again; or that it cannot be, and so by none."""
        if self._sessions.get(session.key) is not session or session.ended:
            return
        if request.error is None:
            self._tell_restarted(session, reason)
        else:
            self._give_up(session, f"{reason}, and the one in its place cannot forward: {request.error}")

    # --- what a worker says of itself -------------------------------------------------------------------

    def on_event(self, body: dict[str, Any]) -> None:
        """Take it that a worker has started a session anew, or cannot forward it any more."""
        session = self._sessions.get(int(body["key"]))
        if session is None or session.ended:
            return
        if body["event"] == "restarted":
            self._tell_restarted(session, str(body["reason"]))
        elif body["event"] == "ended":
            self._give_up(session, str(body["reason"]))

    def _tell_restarted(self, session: KeptSession, reason: str) -> None:
        if not self._controller.tell({"event": "restarted", "key": session.key, "reason": reason}):
            session.notices.append(reason)

    def _give_up(self, session: KeptSession, reason: str) -> None:
        session.ended = reason
        logger.error("session %s: %s", session.start["uid"], reason)
        self._fanout.ask({"operation": "stop", "key": session.key})
        self._controller.tell({"event": "ended", "key": session.key, "reason": reason})
