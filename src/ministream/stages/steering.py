"""Ask a DAQ to end its scan early: because somebody who sees the reconstruction says that it is enough.

One request and one reply over ZeroMQ (REQ, REP), in JSON: ``{"command": "finish", "reason": "..."}`` and
``{"accepted": true}`` or ``{"accepted": false, "reason": "..."}``. Asking twice has the effect of asking
once.

Who reaches the address can end the scan. So no DAQ listens unless it is told where; let that be the loopback
address, and bring the request there by a channel of the session, whose ends prove who they are.
"""

from __future__ import annotations

import json
import logging
from types import TracebackType
from typing import Any, Self

import zmq

from ministream.errors import ConnectionFailed, ProtocolError
from ministream.stages.broadcast import bind

logger = logging.getLogger(__name__)

ENDED_EARLY = "ended_early"
"""Kind of the notice, with a ``reason``, by which a DAQ tells its consumers that no more were wanted."""

_FINISH = "finish"
_LONGEST = 4096
"""Bytes of a message."""


class SteeringListener:
    """The DAQ's end. A context manager.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``; port 0 takes a free one.

    Attributes
    ----------
    address : str
        With the real port.
    reason : str or None
        Why the scan is to end; None as long as nobody has asked.

    Raises
    ------
    PortInUse, ConnectionFailed
        The address cannot be bound.
    """

    def __init__(self, address: str) -> None:
        self.reason: str | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST)
        try:
            self.address = bind(self._socket, address)
        except ConnectionFailed:
            self._context.destroy(linger=0)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._context.term()

    def serve(self, *, playing: bool) -> None:
        """Answer who has asked. Does not wait.

        Parameters
        ----------
        playing : bool
            Whether there is a scan that could end.
        """
        while self._socket.poll(0):
            self._socket.send_json(self._answer(self._socket.recv(), playing=playing))

    def _answer(self, message: bytes, *, playing: bool) -> dict[str, Any]:
        try:
            request = json.loads(message)
            command, reason = request["command"], str(request.get("reason", "no reason given"))[:200]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            logger.warning("a steering request of %d bytes cannot be understood", len(message))
            return {"accepted": False, "reason": 'a JSON object {"command": "finish"} is needed'}
        if command != _FINISH:
            return {"accepted": False, "reason": f"unknown command {str(command)[:40]!r}; known is finish"}
        if not playing:
            return {"accepted": False, "reason": "the scan has not begun"}
        if self.reason is None:
            self.reason = reason
            logger.info("asked to end the scan: %s", reason)
        return {"accepted": True}


def ask_to_finish(address: str, reason: str, *, timeout_s: float = 10.0) -> None:
    """Ask the DAQ at `address` to send no more projections.

    Raises
    ------
    ConnectionFailed
        The address is none, or nobody answers in time.
    ProtocolError
        The DAQ does not do it, or the answer cannot be understood.
    """
    context = zmq.Context()
    try:
        socket = context.socket(zmq.REQ)
        socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise ConnectionFailed(f"cannot connect to {address}: {error.strerror}") from error
        socket.send_json({"command": _FINISH, "reason": reason}, zmq.NOBLOCK)
        if not socket.poll(int(timeout_s * 1000)):
            raise ConnectionFailed(
                f"the DAQ at {address} has not answered for {timeout_s:g} s; was it started with --steer?"
            )
        answer = socket.recv()
    except zmq.Again as error:
        raise ConnectionFailed(f"nobody takes steering requests at {address}") from error
    finally:
        context.destroy(linger=0)
    try:
        reply = json.loads(answer)
        accepted, why = reply["accepted"], reply.get("reason")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"what answers at {address} is no DAQ") from error
    if accepted is not True:
        raise ProtocolError(f"the DAQ at {address} does not end the scan: {why}")
