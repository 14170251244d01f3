"""Being served by a distributor of the APS streaming mini-app: one projection per round trip.

The other end of `ministream.transport.ranks`: ZeroMQ REQ, at the distributor's port plus the rank. The
protocol cannot go on after a connection was lost: what was asked, or answered, is gone.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import zmq

from ministream.errors import ConnectionFailed, InputError, ProtocolError
from ministream.transport.flow import Deadline
from ministream.transport.sockets import ConnectionMonitor, make_request_socket
from ministream.wire import tmq

_POLL_STEP_S = 0.5
_LINGER_S = 2.0


class RankClient:
    """One rank at a distributor of the mini-app. A context manager; for one thread.

    Parameters
    ----------
    host : str
    port : int
        Of rank 0.
    rank, ranks : int
        Which one of how many this is.
    connect_timeout_s : float
        How long the distributor may take to answer the first message. It answers when all ranks are there.

    Raises
    ------
    InputError
        There is no such rank or port.
    ConnectionFailed
        The address cannot be one.
    """

    def __init__(
        self, host: str, port: int, *, rank: int, ranks: int, connect_timeout_s: float = 30.0
    ) -> None:
        if not 0 <= rank < ranks:
            raise InputError(f"there is no rank {rank} of {ranks}; they are numbered from 0 to {ranks - 1}")
        if not 1 <= port + rank <= 0xFFFF:
            raise InputError(f"port {port} and rank {rank}: there is no port {port + rank}")
        self.address = f"tcp://{f'[{host}]' if ':' in host else host}:{port + rank}"
        self.share: tmq.Share | None = None
        """What this rank gets; None until the distributor has told."""
        self._sequence = 0
        self._waiting = self._established = self._finished = False
        self._deadline = Deadline(connect_timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket = make_request_socket(self._context, self.address)
        except BaseException:
            self._context.term()
            raise
        self._monitor = ConnectionMonitor(self._socket)
        self._send(tmq.Hello(rank=rank, ranks=ranks))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self) -> None:
        """Ask for the next projection, after the last one: it need not be sent again."""
        self._send(tmq.Next())

    def receive(self, timeout_s: float) -> tmq.Share | tmq.View | tmq.Fin | None:
        """Return the answer; None if it does not come within `timeout_s`. After the end always `Fin`.

        Raises
        ------
        ConnectionFailed
            The distributor does not answer at first, or was lost.
        ProtocolError
            It answers what cannot be understood, or something else than was asked.
        """
        if self._finished:
            return tmq.Fin()
        deadline = Deadline(timeout_s)
        while True:
            lost = self._is_lost()
            # what came before it was lost
            if self._socket.poll(0):
                return self._take(self._socket.recv())
            if lost:
                raise ConnectionFailed(
                    f"{self.address}: the connection was lost; the mini-app's protocol cannot go on then"
                )
            if self.share is None and self._deadline.is_over:
                raise ConnectionFailed(
                    f"{self.address}: no answer after {self._connect_timeout_s:g} s; is the mini-app's "
                    "distributor there, and are all ranks?"
                )
            if deadline.is_over:
                return None
            poller = zmq.Poller()
            poller.register(self._socket, zmq.POLLIN)
            poller.register(self._monitor.socket, zmq.POLLIN)
            poller.poll(int(min(deadline.remaining_s, _POLL_STEP_S) * 1000) + 1)

    def close(self) -> None:
        """Close the connection, after what was sent. Idempotent."""
        if not self._socket.closed:
            self._monitor.close()
            # to a distributor that is not there nothing can be sent
            self._socket.close(linger=int(_LINGER_S * 1000) if self._established else 0)
            self._context.term()

    def _is_lost(self) -> bool:
        lost = False
        for came in self._monitor.events():
            lost = lost or (self._established and not came)
            self._established = self._established or came
        return lost

    def _take(self, data: bytes) -> tmq.Share | tmq.View | tmq.Fin:
        try:
            sequence, message = tmq.parse(data)
        except ProtocolError as error:
            raise ProtocolError(f"{self.address}: {error}") from error
        if sequence != self._sequence:
            raise ProtocolError(
                f"{self.address}: message {sequence} has come, and {self._sequence} is the next one"
            )
        self._sequence, self._waiting = sequence + 1, False
        match message:
            case tmq.Share() if self.share is None and message.count:
                self.share = message
            case tmq.View() if self.share is not None:
                pass
            case tmq.Fin() if self.share is not None:
                self._send(tmq.Fin())
                self._finished = True
            case _:
                raise ProtocolError(
                    f"{self.address}: message {sequence} is {message!r}, which is no answer to what was asked"
                )
        return message

    def _send(self, message: tmq.Message) -> None:
        if self._waiting or self._finished:
            raise ConnectionFailed(f"{self.address}: the answer to the last message has not come yet")
        # with the padding that the mini-app's workers send
        data = tmq.encode(self._sequence, message, slack=True)
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise ConnectionFailed(f"{self.address}: cannot send: {error.strerror}") from error
        self._sequence, self._waiting = self._sequence + 1, True
