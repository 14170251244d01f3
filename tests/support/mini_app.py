"""A distributor of the APS streaming mini-app, as its wire is described: nothing of ours is used.

PUB/SUB, one FlatBuffers table ``TImage`` a message, read slot by slot; an empty REQ and REP before; the eight
bytes ``end_data`` after the last frame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import zmq

END, PROJECTION, WHITE, DARK, WHITE_RESET, DARK_RESET = range(6)


@dataclass(frozen=True)
class Image:
    """The fields of a ``TImage``, in the order of their slots."""

    seq: int
    dims: tuple[int, int, int]
    rotation: float
    center: float
    unique_id: int
    itype: int
    tdata: bytes

    def pixels(self, dtype: str) -> np.ndarray:
        return np.frombuffer(self.tdata, dtype).reshape(self.dims[1:])


def parse(message: bytes) -> Image:
    """Follow a message's offsets: root, table, vtable, fields."""
    (root,) = struct.unpack_from("<I", message, 0)
    (distance,) = struct.unpack_from("<i", message, root)
    vtable = root - distance
    (size,) = struct.unpack_from("<H", message, vtable)
    slots = struct.unpack_from(f"<{(size - 4) // 2}H", message, vtable + 4)

    def field(slot: int, form: str) -> tuple:
        offset = slots[slot] if slot < len(slots) else 0
        if offset == 0:
            return (0,) * len(form.strip("<"))
        return struct.unpack_from(form, message, root + offset)

    vector = root + slots[6] + field(6, "<I")[0]
    (length,) = struct.unpack_from("<I", message, vector)
    return Image(
        seq=field(0, "<i")[0],
        dims=field(1, "<iii"),
        rotation=field(2, "<f")[0],
        center=field(3, "<f")[0],
        unique_id=field(4, "<i")[0],
        itype=field(5, "<b")[0],
        tdata=message[vector + 4 : vector + 4 + length],
    )


class Distributor:
    """A subscriber. A context manager."""

    def __init__(self, publisher: str, synch: str | None = None, *, queue: int = 1000) -> None:
        self._context = zmq.Context()
        self._subscriber = self._context.socket(zmq.SUB)
        self._subscriber.setsockopt(zmq.RCVHWM, queue)
        self._subscriber.connect(publisher)
        self._subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self._request = None
        if synch is not None:
            self._request = self._context.socket(zmq.REQ)
            self._request.connect(synch)

    def __enter__(self) -> Distributor:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def synchronise(self) -> None:
        assert self._request is not None
        self._request.send(b"")
        assert self._request.poll(10_000), "no reply"
        assert self._request.recv() == b""

    def message(self, timeout_s: float = 20) -> bytes | None:
        """Return the next message; None when none comes."""
        return self._subscriber.recv() if self._subscriber.poll(int(timeout_s * 1000)) else None

    def images(self) -> list[Image]:
        """Return everything to the end."""
        found = []
        while (message := self.message()) != b"end_data":
            assert message is not None, "no end of data"
            found.append(parse(message))
        return found
