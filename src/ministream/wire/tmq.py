"""The messages between distributor and workers of the APS streaming mini-app ("tmq"), as bytes.

Each is one ZeroMQ frame of little-endian C structs: a header of three 64-bit numbers (sequence, kind, size of
the whole frame), then what belongs to its kind:

===============  =========================================================================================
0x01, worker     rank, number of ranks (32 bits each)
0x02, reply      sinograms in all, the first of this rank, its number of them, columns (32 bits each)
0x10, worker     nothing: the next projection is wanted, and the last one has come
0x20, reply      projection (32 bits), angle in radians and rotation centre (float32), then the rows of this
                 rank, (sinogram, column) float32
0x00, both       nothing: this was all
===============  =========================================================================================

The sequence is one more with every message, in either direction. Some builds of the mini-app's programs send
eight bytes more than is said here (the struct's padding, counted in the size); they mean nothing.

The rotation centre counts columns from the *edge* of the first one: the mini-app's default is half the
columns. Everywhere else here it counts from the middle of the first column, and so is half a column less.

Nothing here knows sockets. Parsing takes any bytes and gives a message or a `ProtocolError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import ProtocolError
from ministream.wire.timage import Buffer

FloatArray = npt.NDArray[np.float32]

SLACK = 8
"""Bytes that may follow a message, and count in its size."""

_HEADER = struct.Struct("<QQQ")
_HELLO = struct.Struct("<II")
_SHARE = struct.Struct("<IIII")
_VIEW = struct.Struct("<iff")
_FIN_KIND, _HELLO_KIND, _SHARE_KIND, _NEXT_KIND, _VIEW_KIND = 0x00, 0x01, 0x02, 0x10, 0x20
EDGE_TO_MIDDLE = 0.5
"""Columns: the mini-app counts them from the edge of the first one, we from its middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A worker says which rank of how many it is; its first message."""

    rank: int
    ranks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What the rank gets of each projection: `count` of `total` sinograms from `begin` on."""

    total: int
    begin: int
    count: int
    columns: int


@dataclass(frozen=True, slots=True)
class Next:
    """The worker wants the next projection; it has the last one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A rank's rows of a projection.

    Parameters
    ----------
    projection : int
    angle_rad : float
    rotation_center : float
        Column, counted from the middle of the first one.
    data : bytes-like
        float32, little-endian; on reading with what may follow it, see `rows_of`.
    """

    projection: int
    angle_rad: float
    rotation_center: float
    data: Buffer


@dataclass(frozen=True, slots=True)
class Fin:
    """The end: nothing more will come. The worker answers with the same."""


Message = Hello | Share | Next | View | Fin


def encode(sequence: int, message: Message, *, slack: bool = False) -> bytes:
    """Return `message` as bytes, with the eight bytes more that a C++ worker sends if `slack`.

    Raises
    ------
    ValueError
        A number does not fit its field.
    """
    pixels: Buffer = b""
    try:
        match message:
            case Hello(rank=rank, ranks=ranks):
                kind, body = _HELLO_KIND, _HELLO.pack(rank, ranks)
            case Share(total=total, begin=begin, count=count, columns=columns):
                kind, body = _SHARE_KIND, _SHARE.pack(total, begin, count, columns)
            case Next():
                kind, body = _NEXT_KIND, b""
            case View():
                center = message.rotation_center + EDGE_TO_MIDDLE
                kind, body = _VIEW_KIND, _VIEW.pack(message.projection, message.angle_rad, center)
                pixels = message.data
            case Fin():
                kind, body = _FIN_KIND, b""
        more = SLACK if slack else 0
        header = _HEADER.pack(sequence, kind, _HEADER.size + len(body) + len(pixels) + more)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{message} cannot be message {sequence} of the mini-app's: {error}") from error
    return b"".join((header, body, pixels, bytes(more)))


def parse(data: Buffer) -> tuple[int, Message]:
    """Return sequence number and message.

    Raises
    ------
    ProtocolError
        The bytes are no message, or say another size than they have.
    """
    frame = memoryview(data).cast("B")
    if len(frame) < _HEADER.size:
        raise ProtocolError(
            f"{len(frame)} bytes are no message of the mini-app's: {_HEADER.size} are its header"
        )
    sequence, kind, size = _HEADER.unpack_from(frame)
    if size != len(frame):
        raise ProtocolError(f"message {sequence} says that it has {size} bytes, and has {len(frame)}")
    body = frame[_HEADER.size :]
    match kind:
        case 0x01:
            rank, ranks = _fixed(_HELLO, body, sequence, kind)
            if rank >= ranks:
                raise ProtocolError(f"message {sequence}: there is no rank {rank} of {ranks}")
            return sequence, Hello(rank=rank, ranks=ranks)
        case 0x02:
            total, begin, count, columns = _fixed(_SHARE, body, sequence, kind)
            if begin + count > total or columns == 0:
                raise ProtocolError(
                    f"message {sequence}: {count} of {total} sinograms from {begin} on, {columns} columns"
                )
            return sequence, Share(total=total, begin=begin, count=count, columns=columns)
        case 0x10:
            _fixed(None, body, sequence, kind)
            return sequence, Next()
        case 0x20:
            if len(body) < _VIEW.size:
                raise ProtocolError(f"message {sequence} is a projection of {len(body)} bytes")
            projection, angle_rad, center = _VIEW.unpack_from(body)
            return sequence, View(
                projection=projection,
                angle_rad=angle_rad,
                rotation_center=center - EDGE_TO_MIDDLE,
                data=body[_VIEW.size :],
            )
        case 0x00:
            _fixed(None, body, sequence, kind)
            return sequence, Fin()
        case _:
            raise ProtocolError(f"message {sequence} is of the unknown kind {kind:#x}")


def rows_of(view: View, count: int, columns: int) -> FloatArray:
    """Return the rows of `view`, (sinogram, column) float32; a view of its data.

    Raises
    ------
    ProtocolError
        They are not `count` rows of `columns` columns.
    """
    needed = 4 * count * columns
    if len(view.data) not in (needed, needed + SLACK):
        raise ProtocolError(
            f"projection {view.projection} has {len(view.data)} bytes of pixels; {count} rows of {columns} "
            f"columns of float32 are {needed}"
        )
    return np.frombuffer(view.data, "<f4", count * columns).reshape(count, columns)


def _fixed(form: struct.Struct | None, body: memoryview, sequence: int, kind: int) -> tuple[Any, ...]:
    """Return the numbers of a message without pixels."""
    size = 0 if form is None else form.size
    if len(body) not in (size, size + SLACK):
        raise ProtocolError(
            f"message {sequence} of kind {kind:#x} has {len(body)} bytes behind its header, not {size}"
        )
    return () if form is None else form.unpack_from(body)
