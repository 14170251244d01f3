"""A volume that others read while it grows: HDF5 with one writer and many readers (SWMR).

Readers open it with ``h5py.File(path, "r", swmr=True)``, and see each new state after ``refresh()``:

``/exchange/data`` (slice, y, x) float32
    The newest state of every slice, one chunk each. The attribute ``complete`` is false: the result takes
    the file's place when it is there, and has it true.
``/live/projections`` (slice,) int64
    How many projections each slice is made from.
``/live/serial`` (1,) int64
    Odd while the slices are being written. Who finds the same even number before and after reading has
    slices that belong together.

It is not compressed. A chunk that is written again with another size would get a new place, and with readers
around HDF5 never uses the old one again: the file would grow with each state. So every chunk has its place,
and all the room is taken at the beginning: a disk that is full is told then, and never in the middle of
writing, which HDF5 would not survive (see `ministream.sinks.steady_file`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ministream.errors import InputError
from ministream.sinks.atomic import output_error, replacing
from ministream.sinks.steady_file import SteadyFile
from ministream.sinks.volume import COMPLETE, DATASET, Attribute, FloatArray, make_dataset

logger = logging.getLogger(__name__)

PROJECTIONS = "/live/projections"
SERIAL = "/live/serial"


class LiveVolume:
    """The file, while it is written. Close it.

    Parameters
    ----------
    path : Path
        An older file of that name is replaced at once; who has it open keeps it.
    shape : tuple of int
        (slice, y, x).
    attributes : mapping
        Provenance; None values are left out.

    Raises
    ------
    OutputError
        The file cannot be made: disk full, no permission, no such folder.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], *, attributes: Mapping[str, Attribute] | None = None
    ) -> None:
        self._path = path
        self._shape = shape
        self._serial = 0
        with replacing(path) as draft:
            _prepare(draft, shape, {**(attributes or {}), COMPLETE: False})
        try:
            self._file = h5py.File(path, "r+", libver="latest")
            self._data = self._file[DATASET]
            self._projections = self._file[PROJECTIONS]
            self._serials = self._file[SERIAL]
            self._file.swmr_mode = True
        except (OSError, RuntimeError) as error:
            raise output_error(path, OSError(str(error))) from error

    def write(self, volumes: Sequence[FloatArray], projections: Sequence[int]) -> None:
        """Write the newest state.

        Parameters
        ----------
        volumes : sequence of (slice, y, x) float32
            In the order of their slices; together all of them.
        projections : sequence of int
            How many each of these is made from.

        Raises
        ------
        InputError
            They are other slices than those of the file.
        OutputError
            They cannot be written.
        """
        if sum(len(volume) for volume in volumes) != self._shape[0]:
            raise InputError(
                f"volumes of shapes {[one.shape for one in volumes]} for the {self._shape[0]} slices of "
                f"{self._path}"
            )
        try:
            self._mark()
            begin = 0
            for volume, count in zip(volumes, projections, strict=True):
                for offset, one in enumerate(volume):
                    self._data[begin + offset] = one
                self._projections[begin : begin + len(volume)] = count
                begin += len(volume)
            self._data.flush()
            self._projections.flush()
            self._mark()
        except (OSError, RuntimeError) as error:
            raise output_error(self._path, OSError(str(error))) from error

    def _mark(self) -> None:
        """Count on, for readers: what is flushed before is seen before."""
        self._serial += 1
        self._serials[0] = self._serial
        self._serials.flush()

    def close(self) -> None:
        """Close the file; it stays as it is. Idempotent."""
        try:
            self._file.close()
        except (OSError, RuntimeError) as error:
            logger.warning("%s could not be closed: %s", self._path, error)


def _prepare(draft: Path, shape: tuple[int, int, int], attributes: Mapping[str, Attribute]) -> None:
    """Make the file with all its room."""
    below = SteadyFile(draft)
    try:
        # version 3 of its structures: older ones know no readers beside a writer
        with contextlib.closing(h5py.File(below, "w", libver="latest")) as file:
            make_dataset(file, DATASET, shape, attributes, dcpl=_early())
            for name, extent in ((PROJECTIONS, shape[0]), (SERIAL, 1)):
                file.create_dataset(name, (extent,), np.int64, chunks=(extent,), dcpl=_early())
    finally:
        below.close()
    below.check()
    # what has been written as zeros may have no room yet on some file systems
    descriptor = os.open(draft, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _early() -> Any:
    """Return how a dataset is made that has all its room from the beginning, and zeros in it."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    return how
