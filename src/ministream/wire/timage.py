"""The FlatBuffers table ``TImage`` (namespace MONA.TraceDS): what carries frames and volumes, as bytes.

Fields in the order of their vtable slots: ``seq:int``, ``dims:Dim3`` (struct of int z, y, x),
``rotation:float`` (degrees), ``center:float``, ``uniqueId:int``, ``itype:byte``, ``tdata:[ubyte]`` (raw
little-endian pixels, row-major). The pixel type is not on the wire. This is the format of the APS streaming
mini-apps, so that their programs and ours understand each other.

Reading checks every offset against the buffer: any bytes give a value or a `ProtocolError`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from ministream.errors import InputError, ProtocolError
from ministream.frames import PIXEL_TYPES, Frame, FrameKind

Buffer = bytes | bytearray | memoryview

_VOLUME = 0
_FLAT_RESET = 4
_DARK_RESET = 5
_RESETS = {_FLAT_RESET: FrameKind.FLAT_FIELD, _DARK_RESET: FrameKind.DARK_FIELD}
_LITTLE_ENDIAN: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}
_INT32_MAX = 2**31 - 1
# a table of this kind is below 100 bytes without its pixels; enough that the builder need not grow
_OVERHEAD = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TImage:
    """One table, as it is on the wire.

    Parameters
    ----------
    sequence : int
        ``seq``.
    shape : tuple of int
        ``dims`` as (z, y, x).
    rotation_deg : float
    center : float
        Rotation centre; 0 says that it is not known.
    unique_id : int
    itype : int
        0 end of data or volume, 1 projection, 2 flat field, 3 dark field, 4 and 5 the same with reset.
    data : memoryview
        ``tdata``; on reading, a view into the message.
    """

    sequence: int
    shape: tuple[int, int, int]
    rotation_deg: float
    center: float
    unique_id: int
    itype: int
    data: memoryview


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeUpdate:
    """A worker's newest reconstruction.

    Parameters
    ----------
    slice_begin : int
        Where its first slice lies in the whole volume.
    volume : (slice, y, x) float32
    projections : int
        How many projections it rests on.
    rotation_center : float or None
    """

    slice_begin: int
    volume: npt.NDArray[np.float32]
    projections: int
    rotation_center: float | None


# --- frames and volumes --------------------------------------------------------------------------------


def encode(frame: Frame, rotation_center: float | None = None) -> memoryview:
    """Return `frame` as the bytes of a ``TImage``; the pixels are copied once.

    Parameters
    ----------
    frame : Frame
    rotation_center : float or None
        A column index, where the sender knows it.

    Raises
    ------
    InputError
        The pixels are not of a type that can be sent, or not two-dimensional.
    """
    dtype = _LITTLE_ENDIAN.get(frame.pixels.dtype.name)
    if dtype is None or frame.pixels.ndim != 2:
        raise InputError(
            f"frame {frame.sequence}: pixels of type {frame.pixels.dtype} and shape {frame.pixels.shape} "
            f"cannot be sent; rows and columns of {', '.join(PIXEL_TYPES)} are needed"
        )
    itype = int(frame.kind)
    if frame.resets and frame.kind is FrameKind.FLAT_FIELD:
        itype = _FLAT_RESET
    elif frame.resets and frame.kind is FrameKind.DARK_FIELD:
        itype = _DARK_RESET
    rows, columns = frame.pixels.shape
    return write(
        TImage(
            sequence=frame.sequence,
            shape=(1, rows, columns),
            rotation_deg=math.degrees(frame.angle_rad),
            center=rotation_center or 0.0,
            unique_id=frame.sequence,
            itype=itype,
            data=_raw(frame.pixels, dtype),
        )
    )


def decode(buffer: Buffer, pixel_type: str) -> Frame:
    """Return the frame in `buffer`.

    Parameters
    ----------
    buffer : bytes-like
    pixel_type : str
        One of `ministream.frames.PIXEL_TYPES`; the wire does not say it.

    Returns
    -------
    Frame
        Its pixels are a read-only view into `buffer`; a copy where the buffer's alignment forbids one.

    Raises
    ------
    ProtocolError
        The bytes are not a ``TImage`` that holds a frame of this pixel type.
    """
    image = read(buffer)
    kind = _RESETS.get(image.itype)
    resets = kind is not None
    if kind is None:
        try:
            kind = FrameKind(image.itype)
        except ValueError:
            raise ProtocolError(f"itype {image.itype} is not that of a frame (1 to 5)") from None
    depth, rows, columns = image.shape
    if depth not in (0, 1):
        raise ProtocolError(f"a frame has one layer of pixels, not {depth}")
    if image.sequence < 0:
        raise ProtocolError(f"frame number {image.sequence} is negative")
    if not math.isfinite(image.rotation_deg):
        raise ProtocolError(f"frame {image.sequence} has the angle {image.rotation_deg}")
    return Frame(
        sequence=image.sequence,
        kind=kind,
        pixels=_pixels(image, _LITTLE_ENDIAN[pixel_type], (rows, columns)),
        angle_rad=math.radians(image.rotation_deg),
        resets=resets,
    )


def encode_volume(
    volume: npt.NDArray[np.float32],
    *,
    slice_begin: int,
    projections: int,
    rotation_center: float | None = None,
) -> memoryview:
    """Return a reconstruction as the bytes of a ``TImage``, as workers publish it; it is copied once.

    Parameters
    ----------
    volume : (slice, y, x) float32
    slice_begin, projections : int
        As in `VolumeUpdate`.
    rotation_center : float or None

    Raises
    ------
    InputError
        The volume has another type or not three axes.
    """
    if volume.dtype != np.float32 or volume.ndim != 3:
        raise InputError(f"a volume is (slice, y, x) float32, not {volume.dtype} of shape {volume.shape}")
    return write(
        TImage(
            sequence=projections,
            shape=(volume.shape[0], volume.shape[1], volume.shape[2]),
            rotation_deg=0.0,
            center=rotation_center or 0.0,
            unique_id=slice_begin,
            itype=_VOLUME,
            data=_raw(volume, _LITTLE_ENDIAN["float32"]),
        )
    )


def decode_volume(buffer: Buffer) -> VolumeUpdate:
    """Return the reconstruction in `buffer`; its volume is a read-only view as in `decode`.

    Raises
    ------
    ProtocolError
        The bytes are not a ``TImage`` that holds a volume.
    """
    image = read(buffer)
    if image.itype != _VOLUME:
        raise ProtocolError(f"itype {image.itype} is not that of a volume (0)")
    return VolumeUpdate(
        slice_begin=image.unique_id,
        volume=_pixels(image, _LITTLE_ENDIAN["float32"], image.shape),
        projections=image.sequence,
        rotation_center=image.center if math.isfinite(image.center) and image.center != 0 else None,
    )


def _raw(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8).data


def _pixels(image: TImage, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if min(shape) < 1 or math.prod(shape) * dtype.itemsize != len(image.data):
        raise ProtocolError(
            f"image {image.sequence} has {len(image.data)} bytes of pixels; "
            f"{' x '.join(map(str, shape))} of {dtype.name} are {math.prod(shape) * dtype.itemsize}"
        )
    pixels = np.frombuffer(image.data, dtype=dtype).reshape(shape)
    if not pixels.flags.aligned:
        pixels = pixels.copy()
    pixels.flags.writeable = False
    return pixels


# --- the table -----------------------------------------------------------------------------------------


def write(image: TImage) -> memoryview:
    """Return the FlatBuffer of `image`; its data are copied once.

    Raises
    ------
    InputError
        A number does not fit its field.
    """
    for name, value in (("seq", image.sequence), ("uniqueId", image.unique_id), ("dims", max(image.shape))):
        if not 0 <= value <= _INT32_MAX:
            raise InputError(f"{name} {value} does not fit a signed 32-bit integer")
    builder = flatbuffers.Builder(len(image.data) + _OVERHEAD)
    data = _add_bytes(builder, image.data)
    builder.StartObject(7)
    builder.PrependInt32Slot(0, image.sequence, 0)
    # a struct lies in the table itself and is written backwards, last field first
    builder.Prep(4, 12)
    for extent in reversed(image.shape):
        builder.PrependInt32(extent)
    builder.PrependStructSlot(1, builder.Offset(), 0)
    builder.PrependFloat32Slot(2, image.rotation_deg, 0.0)
    builder.PrependFloat32Slot(3, image.center, 0.0)
    builder.PrependInt32Slot(4, image.unique_id, 0)
    builder.PrependInt8Slot(5, image.itype, 0)
    builder.PrependUOffsetTRelativeSlot(6, data, 0)
    builder.Finish(builder.EndObject())
    # Builder.Output() would copy all of it once more
    return memoryview(builder.Bytes)[builder.Head() :]


def _add_bytes(builder: flatbuffers.Builder, data: memoryview) -> int:
    """Add a vector of bytes and return its offset; the builder's own ways copy twice or take bytes only."""
    builder.StartVector(1, len(data), 1)
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    offset: int = builder.EndVector()
    return offset


def read(buffer: Buffer) -> TImage:
    """Return the table in `buffer`; its data are a view.

    Raises
    ------
    ProtocolError
        An offset leads out of the buffer, or the buffer ends too early.
    """
    table = _Table(memoryview(buffer).cast("B"))
    return TImage(
        sequence=table.scalar(0, "<i"),
        shape=table.dims(1),
        rotation_deg=table.scalar(2, "<f"),
        center=table.scalar(3, "<f"),
        unique_id=table.scalar(4, "<i"),
        itype=table.scalar(5, "<b"),
        data=table.byte_vector(6),
    )


class _Table:
    """A FlatBuffers root table whose every access is checked.

    Layout: at 0 the table's offset (u32); at the table the distance back to its vtable (i32); in the vtable
    its size, the table's size, and each field's offset in the table (u16; 0: absent, has its default).
    """

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self._start: int = self._get("<I", 0)
        vtable = self._start - self._get("<i", self._start)
        self._vtable_size: int = self._get("<H", vtable)
        self._size: int = self._get("<H", vtable + 2)
        self._vtable = vtable
        if self._vtable_size < 4 or vtable + self._vtable_size > len(buffer):
            raise ProtocolError(f"not a TImage: its vtable of {self._vtable_size} bytes leaves the message")
        if self._size < 4 or self._start + self._size > len(buffer):
            raise ProtocolError(f"not a TImage: its table of {self._size} bytes leaves the message")

    def _get(self, form: str, position: int) -> int:
        # unpack_from would take a negative position as one from the end
        if not 0 <= position <= len(self._buffer) - struct.calcsize(form):
            raise ProtocolError(
                f"not a TImage: offset {position} leaves the message of {len(self._buffer)} bytes"
            )
        value: int = struct.unpack_from(form, self._buffer, position)[0]
        return value

    def _field(self, slot: int, size: int) -> int | None:
        """Return where the field of `size` bytes lies, or None if it is absent."""
        entry = 4 + 2 * slot
        if entry + 2 > self._vtable_size:
            return None
        offset = self._get("<H", self._vtable + entry)
        if offset == 0:
            return None
        if not 4 <= offset <= self._size - size:
            raise ProtocolError(f"not a TImage: field {slot} lies outside its table")
        return self._start + offset

    def scalar(self, slot: int, form: str) -> int:
        position = self._field(slot, struct.calcsize(form))
        return 0 if position is None else self._get(form, position)

    def dims(self, slot: int) -> tuple[int, int, int]:
        position = self._field(slot, 12)
        if position is None:
            return 0, 0, 0
        z, y, x = struct.unpack_from("<iii", self._buffer, position)
        return z, y, x

    def byte_vector(self, slot: int) -> memoryview:
        position = self._field(slot, 4)
        if position is None:
            return memoryview(b"")
        vector = position + self._get("<I", position)
        length = self._get("<I", vector)
        if vector + 4 + length > len(self._buffer):
            raise ProtocolError(
                f"a TImage of {length} bytes of pixels in a message of {len(self._buffer)} bytes"
            )
        return self._buffer[vector + 4 : vector + 4 + length]
