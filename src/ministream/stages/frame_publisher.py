"""Frames to the distributors of the APS streaming mini-app: ZeroMQ PUB, a ``TImage`` a message.

Its distributors subscribe, say so with an empty request at a second address, and get an empty reply; after
the last frame comes the marker ``end_data``. There are no acknowledgements. But a subscriber whose queue is
full is waited for, unlike at the mini-app, which drops what does not fit, or queues without end.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

import zmq

from ministream.errors import ConnectionFailed
from ministream.frames import Frame
from ministream.stages.broadcast import END_OF_DATA, bind
from ministream.wire import encode
from ministream.wire.tmq import EDGE_TO_MIDDLE

logger = logging.getLogger(__name__)

SEND_QUEUE = 64
"""Frames that may wait for one subscriber here, where the user says nothing else."""
_SEND_TIMEOUT_MS = 200
_SUBSCRIBE, _UNSUBSCRIBE = b"\x01", b"\x00"


class FramePublisher:
    """The sending end. A context manager.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` to publish at; ``*`` is every interface, port 0 a free one.
    synch_address : str or None
        Where subscribers say that they are there; None to count subscriptions alone.
    subscribers : int
        How many to wait for.
    send_queue : int
        Frames that may wait for one of them.

    Attributes
    ----------
    address : str
    synch_address : str or None
        With the real ports.

    Raises
    ------
    PortInUse, ConnectionFailed
        An address cannot be bound.
    """

    def __init__(
        self, address: str, *, synch_address: str | None, subscribers: int, send_queue: int = SEND_QUEUE
    ) -> None:
        self._wanted = subscribers
        self._there = 0
        self._synchronised = 0
        self._context = zmq.Context()
        # like PUB, but it tells who subscribes, and does not drop what a subscriber cannot take yet
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket.setsockopt(zmq.SNDHWM, send_queue)
        self._socket.setsockopt(zmq.SNDTIMEO, _SEND_TIMEOUT_MS)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._synch: zmq.Socket[bytes] | None = None
        self.synch_address: str | None = None
        try:
            self.address = bind(self._socket, address)
            if synch_address is not None:
                self._synch = self._context.socket(zmq.REP)
                self._synch.setsockopt(zmq.LINGER, 0)
                self.synch_address = bind(self._synch, synch_address)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def complete(self) -> bool:
        """Whether all who are wanted have subscribed, and said so where they have to."""
        return self._there >= self._wanted and (self._synch is None or self._synchronised >= self._wanted)

    def serve(self, timeout_s: float) -> None:
        """Answer subscribers for so long at most.

        Raises
        ------
        ConnectionFailed
            All who had subscribed have gone.
        """
        poller = zmq.Poller()
        for socket in filter(None, (self._socket, self._synch)):
            poller.register(socket, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000))
        while self._socket.poll(0):
            self._note(self._socket.recv())
        while self._synch is not None and self._synch.poll(0):
            self._synch.recv()
            self._synch.send(b"")
            self._synchronised += 1
            logger.info("subscriber %d of %d has said that it is there", self._synchronised, self._wanted)

    def _note(self, message: bytes) -> None:
        was_complete = self.complete
        if message[:1] == _SUBSCRIBE:
            self._there += 1
            logger.info("%d of %d have subscribed", self._there, self._wanted)
        elif message[:1] == _UNSUBSCRIBE:
            self._there -= 1
            if was_complete:
                logger.warning("a subscriber has gone; %d are left", self._there)
            if was_complete and self._there <= 0:
                raise ConnectionFailed("every subscriber has gone before the end of the scan")

    def send(self, frame: Frame, rotation_center: float | None) -> bool:
        """Publish a frame; False where a subscriber's queue is still full after a moment: try again.

        Parameters
        ----------
        frame : Frame
        rotation_center : float or None
            A column, counted from the middle of the first one. The mini-app counts from its edge, so half a
            column more is sent; without one its default, half the columns.
        """
        center = frame.pixels.shape[1] / 2 if rotation_center is None else rotation_center + EDGE_TO_MIDDLE
        return self._send(encode(frame, center))

    def _send(self, message: bytes | memoryview) -> bool:
        try:
            self._socket.send(message)
        except zmq.Again:
            return False
        return True

    def finish(self, stop: threading.Event) -> None:
        """Send the end marker; return when all has been given to the network, or soon after `stop`."""
        while not stop.is_set() and not self._send(END_OF_DATA):
            self.serve(0)
        # only the end of its context tells that ZeroMQ has sent everything
        self._socket.close(linger=-1)
        if self._synch is not None:
            self._synch.close(linger=0)
        ending = threading.Thread(target=self._context.term, name="publisher", daemon=True)
        ending.start()
        warn_at_s = time.monotonic() + 10
        while ending.is_alive() and not stop.is_set():
            ending.join(0.1)
            if time.monotonic() > warn_at_s:
                logger.warning("a subscriber has not taken the last frames yet; waiting for it")
                warn_at_s = float("inf")

    def close(self) -> None:
        """Close, with what is not sent yet. Idempotent."""
        if not self._socket.closed:
            self._context.destroy(linger=0)
