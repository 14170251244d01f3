"""Scans in HDF5 files of the APS Data Exchange layout, read one projection at a time.

``/exchange/data`` (projection, row, column), ``/exchange/data_white``, ``/exchange/data_dark``,
``/exchange/theta``. Where files leave something out, ``/process/acquisition`` may have it: the rotation's
start, step and number of angles, and one value for all flat or dark fields. Compressed datasets are read with
the filters of hdf5plugin. Nothing is repaired silently: what is not as it should be is an `InputError`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers its compression filters with HDF5
import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.sources.base import Source
from ministream.sources.order import ViewOrder, view_order

logger = logging.getLogger(__name__)

_DATA = "/exchange/data"
_FLAT = "/exchange/data_white"
_DARK = "/exchange/data_dark"
_THETA = "/exchange/theta"
_PROCESS = "/process/acquisition"
_CHUNK_CACHE_BYTES = 64 << 20
# beyond one turn, with a little room, a number without unit cannot be in radians
_ONE_TURN_RAD = 2 * math.pi * 1.01


class DataExchangeFile(Source):
    """A scan in an HDF5 file.

    Parameters
    ----------
    path : str or path
    flat_value, dark_value : float, optional
        Counts of all flat or dark fields, for a file that has none of them.

    Raises
    ------
    InputError
        The file cannot be read, or what it holds is no scan; the message names the dataset and the shapes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        flat_value: float | None = None,
        dark_value: float | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._file = _open(self._path)
        try:
            self._data = self._projections()
            self._angles_rad = self._angles()
            shape = self._data.shape[1:]
            self._flats = self._fields(_FLAT, "flat", flat_value, shape)
            self._darks = self._fields(_DARK, "dark", dark_value, shape)
            stacks: list[h5py.Dataset | npt.NDArray[Any]] = [self._data, self._flats, self._darks]
            self._pixel_type = self._common_type(stacks)
        except BaseException:
            self._file.close()
            raise

    @property
    def angles_rad(self) -> npt.NDArray[np.float64]:
        """Angles of the projections as measured, (projection,) float64."""
        return self._angles_rad

    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""
        projections, rows, columns = self._data.shape
        return ScanDescription(
            name=Path(self._path).name,
            rows=rows,
            columns=columns,
            pixel_type=self._pixel_type,
            projections=projections,
            flat_fields=len(self._flats),
            dark_fields=len(self._darks),
        )

    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield dark fields, flat fields, projections.

        Raises
        ------
        InputError
            A frame cannot be read, or holds NaN, infinity, or a number that its pixel type cannot hold.
        """
        sequence = 0
        for kind, name, stack in (
            (FrameKind.DARK_FIELD, _DARK, self._darks),
            (FrameKind.FLAT_FIELD, _FLAT, self._flats),
        ):
            for index in range(len(stack)):
                yield Frame(sequence=sequence, kind=kind, pixels=self._read(stack, name, index))
                sequence += 1
        for index in view_order(len(self._angles_rad), order):
            yield Frame(
                sequence=sequence,
                kind=FrameKind.PROJECTION,
                pixels=self._read(self._data, _DATA, int(index)),
                angle_rad=float(self._angles_rad[index]),
            )
            sequence += 1

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    # ------------------------------------------------------------------ what the file holds

    def _dataset(self, name: str) -> h5py.Dataset | None:
        try:
            found = self._file.get(name)
        except (OSError, RuntimeError, KeyError) as error:
            raise self._error(f"{name} cannot be opened: {_reason(error)}") from error
        if found is not None and not isinstance(found, h5py.Dataset):
            raise self._error(f"{name} is a group, not a dataset")
        return found

    def _projections(self) -> h5py.Dataset:
        data = self._dataset(_DATA)
        if data is None:
            raise self._error(
                f"there is no {_DATA}, where an APS Data Exchange file has its projections; "
                f"at its top are {', '.join(self._file) or 'no entries'}"
            )
        if data.ndim != 3 or min(data.shape) < 1 or data.shape[2] < 2:
            raise self._error(f"{_DATA} has the shape {data.shape}; (projection, row, column) is needed")
        return data

    def _fields(
        self, name: str, word: str, value: float | None, shape: tuple[int, ...]
    ) -> h5py.Dataset | npt.NDArray[Any]:
        """Return the flat or dark fields, (frame, row, column)."""
        fields = self._dataset(name)
        if fields is None or 0 in fields.shape:
            if value is None:
                value = self._scalar(f"{_PROCESS}/{word}_fields/{word}_field_value")
            if value is None:
                raise self._error(
                    f"there is no {name}: {word} fields are needed for the correction; "
                    f"--{word}-value COUNTS takes one value for all pixels instead"
                )
            if not math.isfinite(value):
                raise self._error(f"the value {value} for {word} fields is no count")
            return np.full((1, *shape), value, _type_for(value))
        if fields.shape == shape:
            return _array(fields)[np.newaxis]
        if fields.shape[1:] != shape:
            raise self._error(
                f"{name} has the shape {fields.shape}, which does not fit {_DATA} with {self._data.shape}; "
                "rows and columns must be the same"
            )
        return fields

    def _angles(self) -> npt.NDArray[np.float64]:
        count = self._data.shape[0]
        theta = self._dataset(_THETA)
        if theta is None:
            return self._angles_from_steps(count)
        if theta.shape != (count,):
            raise self._error(
                f"{_THETA} has the shape {theta.shape}, {_DATA} has {self._data.shape}: "
                f"{count} angles are needed"
            )
        if theta.dtype.kind not in "iuf":
            raise self._error(f"{_THETA} holds {theta.dtype}, not numbers")
        angles = _array(theta).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(angles))
        if bad.size:
            raise self._error(f"{_THETA}[{bad[0]}] is {angles[bad[0]]}; every angle must be a finite number")
        return np.radians(angles) if self._in_degrees(theta, angles) else angles

    def _in_degrees(self, theta: h5py.Dataset, angles: npt.NDArray[np.float64]) -> bool:
        units = theta.attrs.get("units", "")
        text = (units.decode(errors="replace") if isinstance(units, bytes) else str(units)).strip().lower()
        if text.startswith(("deg", "°")):
            return True
        if text.startswith("rad"):
            return False
        degrees = bool(np.ptp(angles) > _ONE_TURN_RAD)
        logger.warning(
            "%s: %s has no units of angle (%r); taken as %s, because of its range",
            self._path,
            _THETA,
            text,
            "degrees" if degrees else "radians",
        )
        return degrees

    def _angles_from_steps(self, count: int) -> npt.NDArray[np.float64]:
        rotation = f"{_PROCESS}/rotation"
        start = self._scalar(f"{rotation}/rotation_start")
        step = self._scalar(f"{rotation}/rotation_step")
        number = self._scalar(f"{rotation}/num_angles")
        if start is None or step is None or not math.isfinite(start) or not math.isfinite(step) or step == 0:
            raise self._error(
                f"there is neither {_THETA} nor a rotation_start and rotation_step in {rotation}: "
                "the angles are not known"
            )
        if number is not None and number != count:
            raise self._error(f"{rotation}/num_angles is {number:g}, {_DATA} has {count} projections")
        angles_rad: npt.NDArray[np.float64] = np.radians(start + step * np.arange(count))
        return angles_rad

    def _scalar(self, name: str) -> float | None:
        dataset = self._dataset(name)
        if dataset is None:
            return None
        if dataset.size != 1 or dataset.dtype.kind not in "iuf":
            raise self._error(f"{name} is not one number")
        return float(_array(dataset).reshape(-1)[0])

    # ------------------------------------------------------------------ pixels

    def _common_type(self, stacks: Sequence[h5py.Dataset | npt.NDArray[Any]]) -> str:
        """Return the pixel type that holds all frames."""
        for name, stack in zip((_DATA, _FLAT, _DARK), stacks, strict=True):
            if stack.dtype.kind not in "iuf" or stack.dtype.itemsize > 8:
                raise self._error(
                    f"{name} holds {stack.dtype}; pixels are integers or floating-point numbers"
                )
            if stack.dtype.kind == "f" and stack.dtype.itemsize > 4:
                logger.info("%s: %s holds %s, sent as float32", self._path, name, stack.dtype)
        if any(stack.dtype.kind == "f" for stack in stacks):
            return "float32"
        return "uint8" if all(stack.dtype == np.uint8 for stack in stacks) else "uint16"

    def _read(self, stack: h5py.Dataset | npt.NDArray[Any], name: str, index: int) -> npt.NDArray[Any]:
        try:
            pixels = np.asarray(stack[index])
        except (OSError, RuntimeError) as error:
            raise self._error(f"{name}[{index}] cannot be read: {_reason(error)}") from error
        if pixels.dtype.kind in "iu":
            # what fits 16 bits is exact in float32 too
            if pixels.dtype.name not in ("uint8", "uint16") and (pixels.min() < 0 or pixels.max() > 65535):
                raise self._error(
                    f"{name}[{index}] holds counts from {pixels.min()} to {pixels.max()}; "
                    "integers must lie in 0 to 65535"
                )
        elif not np.isfinite(pixels).all():
            row, column = np.argwhere(~np.isfinite(pixels))[0]
            raise self._error(
                f"{name}[{index}] holds {pixels[row, column]} at row {row}, column {column}; "
                "every count must be a finite number"
            )
        with np.errstate(over="ignore"):
            converted = pixels.astype(self._pixel_type, copy=False)
        if pixels.dtype.itemsize > 4 and not np.isfinite(converted).all():
            raise self._error(f"{name}[{index}] holds numbers beyond the range of float32")
        return converted

    def _error(self, text: str) -> InputError:
        return InputError(f"{self._path}: {text}")


def _open(path: str) -> h5py.File:
    try:
        # HDF5's own messages do not tell these apart
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path!r} is not a path: {error}") from error
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file, or damaged: {_reason(error)}") from error


def _array(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    try:
        return np.asarray(dataset[()])
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{dataset.file.filename}: {dataset.name} cannot be read: {_reason(error)}"
        ) from error


def _type_for(value: float) -> type[np.generic]:
    return np.uint16 if value.is_integer() and 0 <= value <= 65535 else np.float32


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
