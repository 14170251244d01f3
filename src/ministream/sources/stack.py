"""Stacks of frames: what reads one frame after the other, in the order that is asked for.

A chunk of an HDF5 dataset often holds several frames, and has to be decompressed whole for one of them.
Read as measured, a slab of frames as deep as the chunks is kept, and each chunk is decompressed once. In a
scattered order that would decompress nearly every chunk for every frame: then whatever a slab holds is laid
into a temporary file when its first frame is asked for, and still each chunk is decompressed once.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from ministream.errors import InputError, OutputError
from ministream.sources.pixels import type_for

logger = logging.getLogger(__name__)

_SLAB_BYTES = 128 << 20
"""Largest slab that is kept in memory."""


class Stack(Protocol):
    """Frames of one shape and type."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frame, row, column)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels, as they are stored."""

    def where(self, index: int) -> str:
        """Return what messages call a frame."""

    def prepare(self, indices: Sequence[int]) -> None:
        """Get ready for `read` in this order."""

    def read(self, index: int) -> npt.NDArray[Any]:
        """Return a frame, (row, column).

        Raises
        ------
        InputError
            It cannot be read.
        """

    def close(self) -> None:
        """Free what is held. Idempotent."""


class ConstantStack:
    """One frame with the same count everywhere, in place of fields that are not there.

    Parameters
    ----------
    value : float
    shape : (int, int)
        Rows and columns.
    """

    def __init__(self, value: float, shape: tuple[int, int]) -> None:
        self._value = value
        self.shape = (1, *shape)
        self.dtype: np.dtype[Any] = np.dtype(type_for(value))

    def where(self, index: int) -> str:  # noqa: ARG002 - there is only one
        """Return what messages call it."""
        return f"the value {self._value:g}"

    def prepare(self, indices: Sequence[int]) -> None:
        """Nothing is to be done."""

    def read(self, index: int) -> npt.NDArray[Any]:  # noqa: ARG002
        """Return the frame."""
        return np.full(self.shape[1:], self._value, self.dtype)

    def close(self) -> None:
        """Nothing is held."""


class Hdf5Stack:
    """The frames of an HDF5 dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        (frame, row, column), or (row, column) for one frame.
    name : str
        What messages call it: file and dataset.
    """

    def __init__(self, dataset: h5py.Dataset, name: str) -> None:
        self._dataset = dataset
        self._name = name
        self._single = dataset.ndim == 2
        frames, rows, columns = (1, *dataset.shape) if self._single else dataset.shape
        self.shape: tuple[int, int, int] = (frames, rows, columns)
        self.dtype: np.dtype[Any] = dataset.dtype
        chunks = None if self._single else dataset.chunks
        self._depth = int(chunks[0]) if chunks else 1
        self._chunk_rows = int(chunks[1]) if chunks else rows
        self._slab: tuple[int, npt.NDArray[Any]] | None = None
        self._keeps_slab = False
        self._spool: _Spool | None = None

    def where(self, index: int) -> str:
        """Return what messages call a frame."""
        return f"{self._name}[{index}]"

    def prepare(self, indices: Sequence[int]) -> None:
        """Choose how to read in this order, so that no chunk is decompressed again and again.

        Raises
        ------
        OutputError
            There is no room for the temporary file that a scattered order needs.
        """
        self._forget()
        if self._depth == 1 or not indices:
            return
        slabs = np.asarray(indices) // self._depth
        changes = 1 + np.count_nonzero(np.diff(slabs))
        frame_bytes = self.shape[1] * self.shape[2] * self.dtype.itemsize
        # fields in front may lead back once
        in_order = changes <= 2 * len(np.unique(slabs))
        if in_order and self._depth * frame_bytes <= _SLAB_BYTES:
            self._keeps_slab = True
        else:
            self._spool = _Spool(self)

    def read(self, index: int) -> npt.NDArray[Any]:
        """Return a frame, (row, column)."""
        if self._spool is not None:
            return self._spool.read(index)
        if not self._keeps_slab:
            only: npt.NDArray[Any] = self.part(index, index + 1)[0]
            return only
        first = index - index % self._depth
        if self._slab is None or self._slab[0] != first:
            self._slab = first, self.part(first, first + self._depth)
        frame: npt.NDArray[Any] = self._slab[1][index - first]
        return frame

    def part(self, begin: int, end: int, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """Return some rows of successive frames, (frame, row, column), as they are stored."""
        try:
            if self._single:
                return np.asarray(self._dataset[rows])[np.newaxis]
            return np.asarray(self._dataset[begin:end, rows])
        except (OSError, RuntimeError) as error:
            name = self.where(begin) if end == begin + 1 else f"{self._name}[{begin}:{end}]"
            raise InputError(f"{name} cannot be read: {reason(error)}") from error

    @property
    def depth(self) -> int:
        """Frames in a chunk."""
        return self._depth

    @property
    def rows_at_once(self) -> int:
        """Rows of a slab that are read at once: whole chunks, within the limit of memory."""
        row_bytes = min(self._depth, self.shape[0]) * self.shape[2] * self.dtype.itemsize
        chunks = max(1, _SLAB_BYTES // (row_bytes * self._chunk_rows))
        return min(self.shape[1], chunks * self._chunk_rows)

    def close(self) -> None:
        """Free what is held; the file is its opener's."""
        self._forget()

    def _forget(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._spool = self._slab = None
        self._keeps_slab = False


class _Spool:
    """A stack without chunks and compression in a temporary file, filled as it is asked for."""

    def __init__(self, stack: Hdf5Stack) -> None:
        self._stack = stack
        size = int(np.prod(stack.shape)) * stack.dtype.itemsize
        self._file = tempfile.TemporaryFile(prefix="ministream-")  # noqa: SIM115 - closed by `close`
        try:
            # a mapped file that runs out of room would end the process
            os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError as error:
            self._file.close()
            raise OutputError(
                f"{stack.where(0)} and the others need {size / 1e9:.1f} GB in {tempfile.gettempdir()} for "
                f"this order of views: {error.strerror}; set TMPDIR to one with room, or play as measured"
            ) from error
        logger.info("a temporary file of %.1f GB holds the frames, for this order of views", size / 1e9)
        self._frames = np.memmap(self._file, stack.dtype, "r+", shape=stack.shape)
        self._filled: set[int] = set()

    def read(self, index: int) -> npt.NDArray[Any]:
        slab = index // self._stack.depth
        if slab not in self._filled:
            self._fill(slab)
            self._filled.add(slab)
        return np.array(self._frames[index])

    def _fill(self, slab: int) -> None:
        begin = slab * self._stack.depth
        end = min(begin + self._stack.depth, self._stack.shape[0])
        for row in range(0, self._stack.shape[1], self._stack.rows_at_once):
            rows = slice(row, row + self._stack.rows_at_once)
            self._frames[begin:end, rows] = self._stack.part(begin, end, rows)

    def close(self) -> None:
        del self._frames
        self._file.close()


def reason(error: Exception) -> str:
    """Return HDF5's own message in one line."""
    return " ".join(str(error).split())[:200]
