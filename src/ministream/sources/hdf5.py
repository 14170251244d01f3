"""Scans in HDF5 files, read frame by frame: APS Data Exchange, and any stack that the user names.

Data Exchange has ``/exchange/data`` (projection, row, column), ``/exchange/data_white``,
``/exchange/data_dark``, ``/exchange/theta``. Where files leave something out, ``/process/acquisition`` may
have it: the rotation's start, step and number of angles, and one value for all flat or dark fields.
Compressed datasets are read with the filters of hdf5plugin. Nothing is repaired silently: what is not as it
should be is an `InputError`. NeXus files are in `ministream.sources.nexus`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers its compression filters with HDF5
import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import FrameKind
from ministream.sources import angles
from ministream.sources.options import SourceOptions
from ministream.sources.scan import Part, StackScan
from ministream.sources.stack import ConstantStack, Hdf5Stack, Stack, reason

FloatArray = npt.NDArray[np.float64]

_DATA = "/exchange/data"
_FLAT = "/exchange/data_white"
_DARK = "/exchange/data_dark"
_THETA = "/exchange/theta"
_PROCESS = "/process/acquisition"
_KEYS = {0: FrameKind.PROJECTION, 1: FrameKind.FLAT_FIELD, 2: FrameKind.DARK_FIELD}
"""NXtomo's ``image_key``; anything else is invalid."""
_MOST_NAMED = 10
_WORDS = {FrameKind.FLAT_FIELD: "flat", FrameKind.DARK_FIELD: "dark"}


class Hdf5File:
    """An open HDF5 file whose content is asked for by name.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    InputError
        It cannot be read, or is not HDF5.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.file = _open(self.path)

    def dataset(self, name: str) -> h5py.Dataset | None:
        """Return a dataset; None where there is none.

        Raises
        ------
        InputError
            There is a group of that name, or a link to a file that cannot be opened.
        """
        try:
            link = self.file.get(name, getlink=True)
            found = self.file.get(name)
        except (OSError, RuntimeError, KeyError) as error:
            raise self.error(f"{name} cannot be opened: {reason(error)}") from error
        if found is None and isinstance(link, h5py.ExternalLink):
            raise self.error(
                f"{name} is a link to {link.path} in {link.filename}, which cannot be opened; is that file "
                f"where it belongs, beside {Path(self.path).name}?"
            )
        if found is not None and not isinstance(found, h5py.Dataset):
            raise self.error(f"{name} is a group, not a dataset")
        return found

    def needed(self, name: str, *, axes: int = 3) -> h5py.Dataset:
        """Return a dataset that the user has named, of so many axes as far as that can be.

        Raises
        ------
        InputError
            There is none.
        """
        found = self.dataset(name)
        if found is None:
            raise self.error(f"there is no {name}; {self._what_there_is(axes)}")
        return found

    def _what_there_is(self, axes: int) -> str:
        """Return in words what a user may have meant."""
        found: list[str] = []

        def note(name: str, entry: h5py.Dataset | h5py.Group) -> None:
            if isinstance(entry, h5py.Dataset) and entry.ndim == axes and entry.dtype.kind in "iuf":
                found.append(f"{name} {entry.shape}")

        # links are not followed
        self.file.visititems(note)
        if found:
            more = f" and {len(found) - _MOST_NAMED} others" if len(found) > _MOST_NAMED else ""
            return f"with {axes} axes there are {', '.join(found[:_MOST_NAMED])}{more}"
        return f"at its top are {', '.join(self.file) or 'no entries'}"

    def numbers(self, name: str, dataset: h5py.Dataset) -> npt.NDArray[Any]:
        """Return a small dataset of numbers.

        Raises
        ------
        InputError
            It cannot be read, or holds something else.
        """
        if dataset.dtype.kind not in "iuf":
            raise self.error(f"{name} holds {dataset.dtype}, not numbers")
        try:
            return np.asarray(dataset[()])
        except (OSError, RuntimeError) as error:
            raise self.error(f"{name} cannot be read: {reason(error)}") from error

    def scalar(self, name: str) -> float | None:
        """Return one number; None where there is none."""
        dataset = self.dataset(name)
        if dataset is None:
            return None
        if dataset.size != 1 or dataset.dtype.kind not in "iuf":
            raise self.error(f"{name} is not one number")
        return float(self.numbers(name, dataset).reshape(-1)[0])

    def stack(self, name: str, dataset: h5py.Dataset) -> Hdf5Stack:
        """Return the frames of a dataset.

        Raises
        ------
        InputError
            Its shape or type is not that of frames.
        """
        if dataset.ndim != 3 or min(dataset.shape) < 1 or dataset.shape[2] < 2:
            raise self.error(f"{name} has the shape {dataset.shape}; (projection, row, column) is needed")
        if dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
            raise self.error(f"{name} holds {dataset.dtype}; pixels are integers or floating-point numbers")
        return Hdf5Stack(dataset, f"{self.path}: {name}")

    def fields(self, kind: FrameKind, name: str, data: Stack, value: float | None) -> Stack | None:
        """Return the flat or dark fields in dataset `name`, or of one `value`; None where there are none."""
        dataset = self.dataset(name) if name else None
        shape = data.shape[1:]
        if dataset is None or 0 in dataset.shape:
            if value is None:
                return None
            if not math.isfinite(value):
                raise self.error(f"the value {value} for {_WORDS[kind]} fields is no count")
            return ConstantStack(value, shape)
        if dataset.shape not in (shape, (dataset.shape[0], *shape)):
            raise self.error(
                f"{name} has the shape {dataset.shape}, not fitting the projections' {data.shape}: "
                "rows and columns must be the same"
            )
        if dataset.dtype.kind not in "iuf":
            raise self.error(f"{name} holds {dataset.dtype}; pixels are integers or floating-point numbers")
        return Hdf5Stack(dataset, f"{self.path}: {name}")

    def no_fields(self, kind: FrameKind, where: str) -> InputError:
        """Return the error that a kind of field is missing."""
        word = _WORDS[kind]
        return self.error(
            f"{where}: {word} fields are needed for the correction; "
            f"--{word}-value COUNTS takes one value for all pixels instead"
        )

    def chosen_angles(self, options: SourceOptions, count: int) -> FloatArray | None:
        """Return the angles that the user has named, for `count` projections; None where none are.

        Raises
        ------
        InputError
            There are too few or too many of them, or they are no angles.
        """
        text = options.angles
        if text is None:
            return None
        dataset = None if angles.parse_range(text) else self.dataset(text)
        if dataset is None:
            return angles.from_text(text, options.angle_units, count)
        return self.angles(text, dataset, options.angle_units, count)

    def angles(self, name: str, dataset: h5py.Dataset, units: str, count: int) -> FloatArray:
        """Return the angles in a dataset in radians, one for each of `count` projections."""
        if dataset.shape != (count,):
            raise self.error(
                f"{name} has the shape {dataset.shape}, but there are {count} projections: "
                f"{count} angles are needed"
            )
        given = self.numbers(name, dataset)
        return angles.in_radians(given, f"{self.path}: {name}", dataset.attrs.get("units"), units)

    def error(self, text: str) -> InputError:
        """Return an error that names the file."""
        return InputError(f"{self.path}: {text}")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.file.close()


_Content = tuple[list[Part], FloatArray]


class _Hdf5Scan(StackScan):
    """A scan in an HDF5 file, which is closed with it, and at once when it is refused."""

    def __init__(self, file: Hdf5File, content: Callable[[], _Content]) -> None:
        try:
            super().__init__(Path(file.path).name, *content())
        except BaseException:
            file.close()
            raise
        self._hdf5 = file

    def close(self) -> None:
        """Close the file. Idempotent."""
        super().close()
        self._hdf5.close()


class DataExchangeFile(_Hdf5Scan):
    """A scan in a Data Exchange file.

    Parameters
    ----------
    path : str, path or Hdf5File
        An open file is closed with the scan, and at once when it is refused.
    options : SourceOptions, optional

    Raises
    ------
    InputError
        The file cannot be read, or what it holds is no scan; the message names the dataset and the shapes.
    """

    def __init__(self, path: str | os.PathLike[str] | Hdf5File, options: SourceOptions | None = None) -> None:
        file = path if isinstance(path, Hdf5File) else Hdf5File(path)
        super().__init__(file, lambda: _exchange(file, options or SourceOptions()))


class StackFile(_Hdf5Scan):
    """A scan whose stack, fields and angles are where the user, or a layout, says.

    Parameters
    ----------
    file : Hdf5File
        Closed with the scan, and at once when it is refused.
    options : SourceOptions
        Its `dataset` names the stack.
    image_key : str or None
        What each frame of the stack is: 0 projection, 1 flat field, 2 dark field; others are left out.
    image_key_control : str or None
        Like it; -1 marks views that were taken to align others, and are left out.
    angles_name : str or None
        The dataset with the angles, one for each projection or for each frame.

    Raises
    ------
    InputError
        Something is missing, or does not fit.
    """

    def __init__(
        self,
        file: Hdf5File,
        options: SourceOptions,
        *,
        image_key: str | None = None,
        image_key_control: str | None = None,
        angles_name: str | None = None,
    ) -> None:
        def content() -> _Content:
            name = options.dataset or ""
            data = file.stack(name, file.needed(name))
            kinds = _kinds(file, data, image_key, image_key_control)
            parts = _with_fields(file, options, data, kinds)
            return parts, _stack_angles(file, options, angles_name, kinds)

        super().__init__(file, content)


def _exchange(file: Hdf5File, options: SourceOptions) -> _Content:
    found = file.dataset(_DATA)
    if found is None:
        raise file.error(
            f"there is no {_DATA}, where an APS Data Exchange file has its projections, and no NXtomo's "
            f"image_key; --dataset names another stack; at its top are {', '.join(file.file) or 'no entries'}"
        )
    data = file.stack(_DATA, found)
    count = data.shape[0]
    angles_rad = file.chosen_angles(options, count)
    if angles_rad is None:
        angles_rad = _theta(file, options.angle_units, count)
    parts = [
        _fields(file, FrameKind.DARK_FIELD, options.darks or _DARK, data, options.dark_value),
        _fields(file, FrameKind.FLAT_FIELD, options.flats or _FLAT, data, options.flat_value),
        Part.whole(data, FrameKind.PROJECTION),
    ]
    return parts, angles_rad


def _with_fields(
    file: Hdf5File, options: SourceOptions, data: Stack, kinds: list[FrameKind | None]
) -> list[Part]:
    """Return the stack with what stands for fields that it does not have; `kinds` is changed in place."""
    parts = [Part(data, kinds)]
    for kind, given, value in (
        (FrameKind.FLAT_FIELD, options.flats, options.flat_value),
        (FrameKind.DARK_FIELD, options.darks, options.dark_value),
    ):
        if given is not None:
            # in place of those in the stack
            file.needed(given)
            kinds[:] = [None if found is kind else found for found in kinds]
        elif kind in kinds:
            continue
        fields = file.fields(kind, given or "", data, value)
        if fields is None:
            raise file.no_fields(kind, f"{options.dataset} has no {_WORDS[kind]} fields, and none are named")
        parts.insert(0, Part.whole(fields, kind))
    return parts


def _stack_angles(
    file: Hdf5File, options: SourceOptions, name: str | None, kinds: list[FrameKind | None]
) -> FloatArray:
    angles_rad = file.chosen_angles(options, kinds.count(FrameKind.PROJECTION))
    if angles_rad is not None:
        return angles_rad
    if name is None:
        raise file.error(
            f"the angles of {options.dataset} are not known; --angles 0:180 spreads the views over a half "
            "turn, --angles DATASET or FILE names them"
        )
    return _angles_of(file, name, options.angle_units, kinds)


def _fields(file: Hdf5File, kind: FrameKind, name: str, data: Stack, value: float | None) -> Part:
    fields = file.fields(kind, name, data, value)
    if fields is None:
        word = _WORDS[kind]
        value = file.scalar(f"{_PROCESS}/{word}_fields/{word}_field_value")
        fields = file.fields(kind, name, data, value)
    if fields is None:
        raise file.no_fields(kind, f"there is no {name}")
    return Part.whole(fields, kind)


def _theta(file: Hdf5File, units: str, count: int) -> FloatArray:
    theta = file.dataset(_THETA)
    if theta is not None:
        return file.angles(_THETA, theta, units, count)
    rotation = f"{_PROCESS}/rotation"
    start = file.scalar(f"{rotation}/rotation_start")
    step = file.scalar(f"{rotation}/rotation_step")
    number = file.scalar(f"{rotation}/num_angles")
    if start is None or step is None or not math.isfinite(start) or not math.isfinite(step) or step == 0:
        raise file.error(
            f"there is neither {_THETA} nor a rotation_start and rotation_step in {rotation}: "
            "the angles are not known; --angles 0:180 spreads the views over a half turn"
        )
    if number is not None and number != count:
        raise file.error(f"{rotation}/num_angles is {number:g}, {_DATA} has {count} projections")
    angles_rad: FloatArray = np.radians(start + step * np.arange(count))
    return angles_rad


def _kinds(
    file: Hdf5File, data: Stack, image_key: str | None, image_key_control: str | None
) -> list[FrameKind | None]:
    count = data.shape[0]
    if image_key is None:
        return [FrameKind.PROJECTION] * count
    keys = _per_frame(file, image_key, count)
    kinds = [_KEYS.get(int(key)) for key in keys]
    if image_key_control is not None:
        control = _per_frame(file, image_key_control, count)
        kinds = [None if key < 0 else kind for key, kind in zip(control, kinds, strict=True)]
    if FrameKind.PROJECTION not in kinds:
        raise file.error(f"{image_key} marks none of the {count} frames as a projection (0)")
    return kinds


def _per_frame(file: Hdf5File, name: str, count: int) -> npt.NDArray[Any]:
    keys = file.numbers(name, file.needed(name, axes=1))
    if keys.shape != (count,) or keys.dtype.kind not in "iu":
        raise file.error(
            f"{name} has the shape {keys.shape} of {keys.dtype}; a whole number is needed for each of "
            f"{count} frames"
        )
    return keys


def _angles_of(file: Hdf5File, name: str, units: str, kinds: list[FrameKind | None]) -> FloatArray:
    """Return the angles of the projections in a dataset with one for each of them, or for each frame."""
    dataset = file.needed(name)
    count = kinds.count(FrameKind.PROJECTION)
    if dataset.shape != (len(kinds),):
        return file.angles(name, dataset, units, count)
    of_projections = np.array([kind is FrameKind.PROJECTION for kind in kinds])
    given = file.numbers(name, dataset)[of_projections]
    return angles.in_radians(given, f"{file.path}: {name}, projections", dataset.attrs.get("units"), units)


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
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file, or damaged: {reason(error)}") from error
