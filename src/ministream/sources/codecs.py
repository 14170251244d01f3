"""Pixels of compressed NTNDArrays: the codecs of areaDetector, decoded by libraries that are here anyway.

``blosc``, ``lz4``, ``lz4hdf5`` and ``bslz4`` are what HDF5 has filters for (hdf5plugin): the compressed
frame becomes the one chunk of a dataset in memory, and reading it decodes it. ``jpeg`` is Pillow's.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ministream.errors import InputError
from ministream.sources.stack import reason

# the block size that bitshuffle chooses by itself, in bytes; areaDetector leaves it the choice
_BITSHUFFLE_TARGET = 8192
_BITSHUFFLE_MULTIPLE = 8
_BITSHUFFLE_LEAST = 128
# LZ4 writes a number of literals up to 14 into a token, and beyond that adds bytes up to one below 255
_LZ4_MANY = 15
_LZ4_MORE = 255


def decompress(codec: str, data: npt.NDArray[np.uint8], dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """Return the pixels of a compressed frame, (pixel,) of `dtype`.

    Parameters
    ----------
    codec : str
        As areaDetector names it.
    data : (byte,) uint8
    dtype : numpy.dtype
        Of the pixels before they were compressed.
    count : int
        How many they were.

    Raises
    ------
    InputError
        The codec is not known, or the bytes are not what it makes.
    """
    if codec == "jpeg":
        return _jpeg(data, dtype, count)
    if codec not in _FILTERS:
        raise InputError(
            f"frames are compressed by {codec!r}, which cannot be decoded here; "
            f"{', '.join(SUPPORTED)} and no compression can: choose one of them at the detector"
        )
    if codec == "lz4" and len(data) == count * dtype.itemsize:
        return _lz4_of_equal_size(data, dtype)
    head, options = _FILTERS[codec](dtype, count, len(data))
    # a file in memory alone: nothing is written
    with h5py.File("frame", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("pixels", (count,), dtype, chunks=(count,), **options)
        try:
            dataset.id.write_direct_chunk((0,), head + data.tobytes())
            return np.asarray(dataset[()])
        except (OSError, RuntimeError) as error:
            raise InputError(f"{len(data)} bytes cannot be decoded as {codec}: {reason(error)}") from error


def _lz4_of_equal_size(data: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the pixels of a frame that LZ4 has made neither smaller nor larger.

    HDF5's filter takes such a block for one that was not compressed. With more literal bytes in front of the
    first sequence it is the same block otherwise, and larger than its pixels.
    """
    block, at = data.tobytes(), 1
    literals = block[0] >> 4
    if literals == _LZ4_MANY:
        while at < len(block):
            literals += block[at]
            at += 1
            if block[at - 1] != _LZ4_MORE:
                break
    more, rest = divmod(literals + _LZ4_MORE - _LZ4_MANY, _LZ4_MORE)
    token = bytes([_LZ4_MANY << 4 | block[0] & 15])
    longer = token + bytes([_LZ4_MORE] * more + [rest]) + bytes(_LZ4_MORE) + block[at:]
    size = len(block) + _LZ4_MORE
    whole = decompress("lz4", np.frombuffer(longer, np.uint8), np.dtype(np.uint8), size)
    return whole[_LZ4_MORE:].view(dtype)


def _jpeg(data: npt.NDArray[np.uint8], dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(
            f"a frame of {len(data)} bytes cannot be decoded as jpeg: {reason(error)}"
        ) from error
    if pixels.size != count:
        raise InputError(f"a frame by jpeg holds {pixels.size} pixels, {count} were announced")
    return pixels.reshape(-1).view(dtype) if dtype.itemsize == 1 else pixels.reshape(-1).astype(dtype)


_Filter = tuple[bytes, Any]


def _blosc(dtype: np.dtype[Any], count: int, size: int) -> _Filter:  # noqa: ARG001 - one signature
    return b"", hdf5plugin.Blosc()


def _lz4(dtype: np.dtype[Any], count: int, size: int) -> _Filter:
    whole = dtype.itemsize * count
    # HDF5's filter puts sizes in front: of all, of a block, of the one block when compressed
    return struct.pack(">QII", whole, whole, size), hdf5plugin.LZ4()


def _lz4hdf5(dtype: np.dtype[Any], count: int, size: int) -> _Filter:  # noqa: ARG001
    return b"", hdf5plugin.LZ4()


def _bslz4(dtype: np.dtype[Any], count: int, size: int) -> _Filter:  # noqa: ARG001
    block = _BITSHUFFLE_TARGET // dtype.itemsize // _BITSHUFFLE_MULTIPLE * _BITSHUFFLE_MULTIPLE
    block = max(block, _BITSHUFFLE_LEAST)
    head = struct.pack(">QI", dtype.itemsize * count, block * dtype.itemsize)
    return head, hdf5plugin.Bitshuffle(cname="lz4")


_FILTERS: dict[str, Callable[[np.dtype[Any], int, int], _Filter]] = {
    "blosc": _blosc,
    "lz4": _lz4,
    "lz4hdf5": _lz4hdf5,
    "bslz4": _bslz4,
}
SUPPORTED = (*_FILTERS, "jpeg")
