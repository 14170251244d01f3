"""Volumes from workers to whoever wants to see them: the newest, without slowing the worker down.

ZeroMQ PUB and SUB; a message is a `TImage` of dimensions (slice, y, x) with float32 pixels, or the end
marker. Unlike projections, volumes may be left out: a viewer that is slow misses some. One that comes late
gets the newest at once, and every viewer that is there gets the last one, and then the marker.

A volume of more than `MESSAGE_BYTES` travels in pieces, each with the number of its first slice. So neither
end needs room for the whole, and none is larger than a `TImage` can be. Without viewers nothing is made.

A worker may be started again at the same address, and slices may move from one worker to another: the newest
volume that holds a slice counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import zmq
from zmq.utils.monitor import recv_monitor_message

from ministream.errors import ConnectionFailed, PortInUse, ProtocolError
from ministream.transport.link_key import Doorkeeper, LinkKey
from ministream.transport.sockets import bound_address
from ministream.wire.timage import VolumeUpdate, decode_volume, encode_volume

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

END_OF_DATA = b"end_data"
"""The mini-app's marker."""
MESSAGE_BYTES = 64 << 20
"""Most pixels of a message, but for one slice that is larger."""
_QUEUE = 2
"""Messages that may wait for one viewer, on each side."""
_LAST_WORDS_S = 5.0
"""How long a slow viewer is waited for when the last volume goes out."""
COME_BACK_S = 20.0
"""How long a worker that has gone may take to be started again."""
_CONNECTED = zmq.EVENT_HANDSHAKE_SUCCEEDED
_GONE = zmq.EVENT_DISCONNECTED


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind a publisher's socket; return the address with the real port.

    Raises
    ------
    PortInUse
        Another program listens there.
    ConnectionFailed
        The address cannot be bound.
    """
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise PortInUse(
                f"cannot publish at {address}: another program listens there; choose another port, or 0"
            ) from error
        raise ConnectionFailed(f"cannot publish at {address}: {error.strerror}") from error
    return bound_address(socket)


class VolumePublisher:
    """A worker's end. A context manager.

    Parameters
    ----------
    address : str
        ``tcp://host:port``; port 0 takes a free one.
    interval_s : float
        Least time between two volumes.
    key : LinkKey or None
        Let only viewers in who have it, and encrypt; None for everybody, in the clear.

    Attributes
    ----------
    address : str
        With the real port.

    Raises
    ------
    PortInUse
        Another program listens there.
    ConnectionFailed
        The address cannot be bound.
    """

    def __init__(self, address: str, *, interval_s: float = 0.5, key: LinkKey | None = None) -> None:
        self._interval_s = interval_s
        self._published_at = float("-inf")
        self._viewers = False
        self._turn = 0
        self._context = zmq.Context()
        self._doorkeeper = Doorkeeper(self._context, key)
        # XPUB, because it tells when somebody subscribes, and when somebody is too slow
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        self._socket.setsockopt(zmq.LINGER, int(_LAST_WORDS_S * 1000))
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        if key is not None:
            key.protect_listening(self._socket)
        try:
            self.address = bind(self._socket, address)
        except ConnectionFailed:
            self._doorkeeper.close()
            self._context.destroy(linger=0)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close(linger=0 if kind else int(_LAST_WORDS_S * 1000))
        self._doorkeeper.close()
        self._context.term()

    def offer(
        self,
        volumes: Sequence[FloatArray],
        *,
        slice_begin: int,
        projections: int,
        rotation_center: float,
        due: bool | None = None,
    ) -> None:
        """Publish a volume if it is time for one, or somebody has come. Does not wait.

        Of a volume in pieces those that viewers are too slow for come first next time.

        Parameters
        ----------
        volumes : sequence of (slice, y, x) float32
            In the order of their slices; copied.
        slice_begin : int
            Where the first slice lies in the whole volume.
        projections : int
            How many it is made from.
        rotation_center : float
            Column index.
        due : bool or None
            Whether it is time for one; None goes by `interval_s`.
        """
        if due is None:
            due = time.monotonic() - self._published_at >= self._interval_s
        came = self._somebody_came()
        if not self._viewers or not (came or due):
            return
        self._published_at = time.monotonic()
        pieces = _pieces(volumes, slice_begin)
        for place in range(len(pieces)):
            begin, piece = pieces[(self._turn + place) % len(pieces)]
            message = encode_volume(
                piece, slice_begin=begin, projections=projections, rotation_center=rotation_center
            )
            if not self._send(message, timeout_s=0):
                self._turn = (self._turn + place) % len(pieces)
                return

    def finish(
        self, volumes: Sequence[FloatArray], *, slice_begin: int, projections: int, rotation_center: float
    ) -> None:
        """Publish the last volume, and that it is the last."""
        self._somebody_came()
        for begin, piece in _pieces(volumes, slice_begin) if self._viewers else ():
            message = encode_volume(
                piece, slice_begin=begin, projections=projections, rotation_center=rotation_center
            )
            self._send(message, timeout_s=_LAST_WORDS_S)
        self._send(END_OF_DATA, timeout_s=_LAST_WORDS_S)

    def _somebody_came(self) -> bool:
        """Read the notes that somebody has come or gone; tell whether somebody has come."""
        somebody = False
        while self._socket.poll(0, zmq.POLLIN):
            # it tells of everybody who comes, and of the last one who goes
            self._viewers = self._socket.recv()[:1] == b"\x01"
            somebody |= self._viewers
        return somebody

    def _send(self, message: bytes | memoryview, *, timeout_s: float) -> bool:
        """Send a message; tell whether no viewer was too slow for it."""
        self._socket.setsockopt(zmq.SNDTIMEO, int(timeout_s * 1000))
        try:
            self._socket.send(message)
        except zmq.Again:
            logger.debug("a viewer is slow: a volume is left out")
            return False
        return True


def _pieces(volumes: Sequence[FloatArray], slice_begin: int) -> list[tuple[int, FloatArray]]:
    """Return the first slice and the slices of each message; volumes are views, unless all is one message."""
    if sum(volume.nbytes for volume in volumes) <= MESSAGE_BYTES:
        return [(slice_begin, volumes[0] if len(volumes) == 1 else np.concatenate(volumes))]
    return list(_cut(volumes, slice_begin))


def _cut(volumes: Sequence[FloatArray], begin: int) -> Iterator[tuple[int, FloatArray]]:
    for volume in volumes:
        at_once = max(1, MESSAGE_BYTES // (volume.nbytes // len(volume)))
        for first in range(0, len(volume), at_once):
            yield begin + first, volume[first : first + at_once]
        begin += len(volume)


class _Source:
    """One worker, as its viewer sees it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, key: LinkKey | None) -> None:
        self.address = address
        self.connected = False
        self.ended = False
        self.pieces: list[tuple[float, VolumeUpdate]] = []  # and when they came; the newest last
        self.gone_at_s: float | None = None
        self.socket = context.socket(zmq.SUB)
        self.monitor = self.socket.get_monitor_socket(_CONNECTED | _GONE)
        self.socket.setsockopt(zmq.RCVHWM, _QUEUE)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        if key is not None:
            key.protect_connecting(self.socket)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            raise ConnectionFailed(f"cannot connect to {address}: {error.strerror}") from error

    def drain(self) -> bool:
        """Take what has come; tell whether a volume has."""
        gone = False
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)
            self.connected |= event["event"] == _CONNECTED
            gone = event["event"] == _GONE
            if not gone:
                self.gone_at_s = None
        news = False
        while not self.ended and self.socket.poll(0):
            received = self.socket.recv()
            if received == END_OF_DATA:
                self.ended = True
            else:
                self._take(decode_volume(received))
                news = True
        if gone and self.connected and not self.ended and self.gone_at_s is None:
            logger.warning("%s has gone before its last volume", self.address)
            self.gone_at_s = time.monotonic()
        return news

    def _take(self, update: VolumeUpdate) -> None:
        """Keep a piece, and those before it that it does not cover."""
        end = update.slice_begin + len(update.volume)
        self.pieces = [
            (came_s, piece)
            for came_s, piece in self.pieces
            if piece.slice_begin < update.slice_begin or piece.slice_begin + len(piece.volume) > end
        ]
        self.pieces.append((time.monotonic(), update))

    @property
    def over(self) -> bool:
        """Whether nothing more will come, or nobody has come back for a while."""
        away = self.gone_at_s is not None and time.monotonic() - self.gone_at_s > COME_BACK_S
        return self.ended or away

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)


class VolumeSubscriber:
    """A viewer's end: the newest volume of each of several workers. A context manager.

    Parameters
    ----------
    addresses : sequence of str
        Publishers, in any order.
    key : LinkKey or None
        Look only at publishers who have it; None at those that encrypt nothing.

    Raises
    ------
    ConnectionFailed
        An address is none.
    """

    def __init__(self, addresses: Sequence[str], *, key: LinkKey | None = None) -> None:
        self._context = zmq.Context()
        self._sources: list[_Source] = []
        try:
            for address in addresses:
                self._sources.append(_Source(self._context, address, key))
        except ConnectionFailed:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        for source in self._sources:
            source.close()
        self._context.destroy(linger=0)

    def receive(self, timeout_s: float) -> bool:
        """Wait for news for at most `timeout_s`; tell whether a volume has come.

        Raises
        ------
        ProtocolError
            What has come is no volume.
        """
        poller = zmq.Poller()
        for source in self._sources:
            poller.register(source.monitor, zmq.POLLIN)
            if not source.ended:
                poller.register(source.socket, zmq.POLLIN)
        poller.poll(int(timeout_s * 1000))
        news = [source.drain() for source in self._sources]
        return any(news)

    @property
    def missing(self) -> list[str]:
        """Addresses where nobody has answered yet."""
        return [source.address for source in self._sources if not source.connected]

    @property
    def all_connected(self) -> bool:
        """Whether every publisher has answered."""
        return not self.missing

    @property
    def ended(self) -> bool:
        """Whether every publisher has sent its last volume, or has gone and not come back."""
        return all(source.over for source in self._sources)

    @property
    def complete(self) -> bool:
        """Whether every publisher that is there has sent a volume, and together they have no gap."""
        if any(not source.pieces and not source.over for source in self._sources):
            return False
        pieces = sorted((piece for _, piece in self._pieces), key=lambda piece: piece.slice_begin)
        position = pieces[0].slice_begin if pieces else 0
        for piece in pieces:
            if piece.slice_begin > position:
                return False
            position = max(position, piece.slice_begin + len(piece.volume))
        return bool(pieces)

    @property
    def _pieces(self) -> list[tuple[float, VolumeUpdate]]:
        return [piece for source in self._sources for piece in source.pieces]

    def assemble(self) -> tuple[FloatArray, int]:
        """Return the slices, (slice, y, x) float32, and of how many projections the least advanced are made.

        They begin with the first that a publisher has.

        Raises
        ------
        ProtocolError
            The workers' slices differ in size.
        """
        pieces = [piece for _, piece in sorted(self._pieces, key=lambda entry: entry[0])]
        if len({piece.volume.shape[1:] for piece in pieces}) > 1:
            shapes = ", ".join(str(piece.volume.shape) for piece in pieces)
            raise ProtocolError(f"volumes of shapes {shapes} are not parts of one: are the addresses right?")
        slices = max(piece.slice_begin + len(piece.volume) for piece in pieces)
        first = min(piece.slice_begin for piece in pieces)
        whole = np.zeros((slices - first, *pieces[0].volume.shape[1:]), np.float32)
        projections = np.zeros(slices - first, np.int64)
        for piece in pieces:
            # the newest last
            part = slice(piece.slice_begin - first, piece.slice_begin - first + len(piece.volume))
            whole[part], projections[part] = piece.volume, piece.projections
        return whole, int(projections.min())
