"""Reconstructed volumes in HDF5 files: ``/exchange/data`` (slice, y, x) float32, chunked and compressed.

The layout is that of APS Data Exchange, so its readers open the result. Attributes of the dataset tell where
it comes from. A file appears under its name when it is complete, and its attribute ``complete`` says so: one
that is being written (`ministream.sinks.live`) has the same name, and is not taken for a result.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.sinks.atomic import output_error, replacing
from ministream.sinks.steady_file import SteadyFile

Attribute = str | int | float | bool | None
FloatArray = npt.NDArray[np.float32]

DATASET = "/exchange/data"
COMPLETE = "complete"
COMPRESSIONS = ("gzip", "zstd", "lz4", "none")
"""All lossless. gzip: what every HDF5 reader can undo; zstd, lz4: faster, readers need hdf5plugin."""
DEFAULT_COMPRESSION = "gzip"
_SLICE_BEGIN = "slice_begin"
_SLAB_BYTES = 64 << 20


class VolumeWriter:
    """Writes a volume slab by slab; a context manager whose end puts the file in place.

    Parameters
    ----------
    path : str or path
    shape : tuple of int
        (slice, y, x) of the whole volume.
    attributes : mapping
        Provenance; None values are left out.
    compression : str
        One of `COMPRESSIONS`.
    dataset : str
        Where the volume is in the file.

    Raises
    ------
    InputError
        Shape or compression cannot be used.
    OutputError
        The file cannot be written: disk full, no permission, no such folder.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "volume.h5"
    >>> with VolumeWriter(path, (2, 4, 4), attributes={"source": "phantom"}) as writer:
    ...     writer.write(0, np.zeros((2, 4, 4), np.float32))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int, int],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        compression: str = DEFAULT_COMPRESSION,
        dataset: str = DATASET,
    ) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"a volume is (slice, y, x), not of shape {tuple(shape)}")
        self._filters = filters(compression)
        self._name = dataset
        self._path = Path(path)
        self._shape = shape
        self._attributes = dict(attributes or {})
        self._stack = ExitStack()

    def __enter__(self) -> VolumeWriter:
        with ExitStack() as stack:
            draft = stack.enter_context(replacing(self._path))
            with self._errors():
                self._below = SteadyFile(draft)
                stack.callback(self._below.close)
                self._file = h5py.File(self._below, "w", libver=("earliest", "v110"))
            stack.callback(self._close_quietly)
            with self._errors():
                self._prepare()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with self._errors():
                    # much is written only now
                    self._file.close()
                    self._below.close()
                    self._below.check()
        except BaseException as failure:
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def write(self, begin: int, slices: FloatArray) -> None:
        """Write `slices` (slice, y, x) float32 from slice `begin` on.

        Raises
        ------
        InputError
            They do not fit into the volume.
        OutputError
            They cannot be written.
        """
        if (
            slices.ndim != 3
            or slices.shape[1:] != self._shape[1:]
            or not 0 <= begin <= self._shape[0] - slices.shape[0]
        ):
            raise InputError(
                f"slices of shape {slices.shape} from {begin} on do not fit a volume of {self._shape}"
            )
        with self._errors():
            self._dataset[begin : begin + slices.shape[0]] = slices
            self._below.check()

    def _prepare(self) -> None:
        self._dataset = make_dataset(
            self._file,
            self._name,
            self._shape,
            {**self._attributes, COMPLETE: True},
            **self._filters,
        )

    def _close_quietly(self) -> None:
        # after a failed write HDF5 may fail to close as well; the first error is the one to tell
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(self._path, error) from error
        except RuntimeError as error:
            # what h5py makes of some failures of the file system
            raise output_error(self._path, OSError(str(error))) from error


def filters(compression: str) -> dict[str, Any]:
    """Return what h5py must be told for a compression.

    Raises
    ------
    InputError
        It is unknown.
    """
    match compression:
        case "gzip":
            # shuffling makes floats compressible
            return {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        case "zstd":
            return {"compression": hdf5plugin.Bitshuffle(cname="zstd", clevel=3)}
        case "lz4":
            return {"compression": hdf5plugin.Bitshuffle(cname="lz4")}
        case "none":
            return {}
        case _:
            raise InputError(f"compression {compression!r} is not one of {', '.join(COMPRESSIONS)}")


def make_dataset(
    file: h5py.File, name: str, shape: tuple[int, int, int], attributes: Mapping[str, Attribute], **how: Any
) -> h5py.Dataset:
    """Make the dataset of a volume, a chunk a slice, with the attributes that say what it is."""
    if name == DATASET:
        file["implements"] = "exchange"
    dataset = file.create_dataset(name, shape=shape, dtype="<f4", chunks=(1, *shape[1:]), **how)
    described: dict[str, Attribute] = {
        "axes": "slice:y:x",
        "description": "reconstructed attenuation",
        "units": "1/pixel",
        "created_by": f"ministream {metadata.version('ministream')}",
        **attributes,
    }
    for attribute, value in described.items():
        if value is not None:
            dataset.attrs[attribute] = value
    return dataset


def write_volume(
    path: str | os.PathLike[str],
    volume: FloatArray | Sequence[FloatArray],
    *,
    attributes: Mapping[str, Attribute] | None = None,
    compression: str = DEFAULT_COMPRESSION,
    dataset: str = DATASET,
) -> None:
    """Write a whole volume (slice, y, x) float32 with `attributes`; an older file of that name is replaced.

    A worker's part has the attribute ``slice_begin``, by which `merge_volumes` finds its place.

    Parameters
    ----------
    path : str or path
    volume : (slice, y, x) float32, or a sequence of them
        Several are written one behind the other.
    attributes : mapping
    compression, dataset : str
        As for `VolumeWriter`.

    Raises
    ------
    InputError
        It has not three axes.
    OutputError
        The file cannot be written.
    """
    volumes = [volume] if isinstance(volume, np.ndarray) else list(volume)
    if not volumes or any(one.ndim != 3 or one.shape[1:] != volumes[0].shape[1:] for one in volumes):
        raise InputError(f"a volume is (slice, y, x), not of shape {[one.shape for one in volumes]}")
    shape = (sum(len(one) for one in volumes), volumes[0].shape[1], volumes[0].shape[2])
    with VolumeWriter(path, shape, attributes=attributes, compression=compression, dataset=dataset) as writer:
        begin = 0
        for one in volumes:
            for offset in range(0, len(one), slab := _slab(shape)):
                writer.write(begin + offset, one[offset : offset + slab])
            begin += len(one)


def read_volume(path: str | os.PathLike[str]) -> tuple[FloatArray, dict[str, Any]]:
    """Return a volume (slice, y, x) float32 and its attributes.

    Raises
    ------
    InputError
        The file cannot be read, or holds no volume.
    """
    with _reading(Path(path)) as dataset:
        return dataset.astype(np.float32)[()], _attributes(dataset)


def volume_attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the attributes of the volume in a file.

    Raises
    ------
    InputError
        The file cannot be read, or holds no volume.
    """
    with _reading(Path(path)) as dataset:
        return _attributes(dataset)


def merge_volumes(
    path: str | os.PathLike[str],
    parts: Sequence[str | os.PathLike[str]],
    *,
    attributes: Mapping[str, Attribute] | None = None,
) -> None:
    """Put the workers' parts together into one volume, slab by slab.

    Parameters
    ----------
    path : str or path
        The result; an older file of that name is replaced.
    parts : sequence of path
        In any order; the attribute ``slice_begin`` of each (0 if it is alone) says where it belongs.
    attributes : mapping
        Provenance of the whole.

    Raises
    ------
    InputError
        A part cannot be read, or they do not make one volume without gap or overlap.
    OutputError
        The result cannot be written.
    """
    with ExitStack() as stack:
        found = [(stack.enter_context(_reading(Path(part))), Path(part)) for part in parts]
        if not found:
            raise InputError(f"there are no parts to make {path} of")
        placed = sorted(
            ((_begin(dataset, part), dataset, part) for dataset, part in found), key=lambda entry: entry[0]
        )
        columns = placed[0][1].shape[1:]
        end = 0
        for begin, dataset, part in placed:
            if begin != end or dataset.shape[1:] != columns:
                raise InputError(
                    f"{part} holds slices from {begin} on, of shape {dataset.shape[1:]}; "
                    f"slices from {end} on, of shape {columns}, come next"
                )
            end += dataset.shape[0]
        shape = (end, columns[0], columns[1])
        with VolumeWriter(path, shape, attributes=attributes) as writer:
            slab = _slab(shape)
            for begin, dataset, part in placed:
                for offset in range(0, dataset.shape[0], slab):
                    writer.write(begin + offset, _slices(dataset, offset, slab, part))


def _slab(shape: tuple[int, int, int]) -> int:
    """Return how many slices make a piece of bounded size."""
    return max(1, _SLAB_BYTES // (shape[1] * shape[2] * 4))


def _slices(dataset: h5py.Dataset, begin: int, count: int, path: Path) -> FloatArray:
    try:
        slices: FloatArray = dataset.astype(np.float32)[begin : begin + count]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {DATASET} cannot be read: {error}") from error
    return slices


def _begin(dataset: h5py.Dataset, path: Path) -> int:
    begin = dataset.attrs.get(_SLICE_BEGIN, 0)
    if not isinstance(begin, int | np.integer):
        raise InputError(f"{path}: {_SLICE_BEGIN} is {begin!r}, not a whole number")
    return int(begin)


def _attributes(dataset: h5py.Dataset) -> dict[str, Any]:
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in dataset.attrs.items()
    }


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[h5py.Dataset]:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "SWMR" in str(error) or "already open" in str(error):
            raise InputError(_not_complete(path)) from error
        raise InputError(f"{path} is not an HDF5 file, or damaged: {error}") from error
    with file:
        dataset = file.get(DATASET)
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 3 or dataset.dtype.kind not in "iuf":
            raise InputError(f"{path} has no volume (slice, y, x) at {DATASET}")
        if not dataset.attrs.get(COMPLETE, True):
            raise InputError(_not_complete(path))
        yield dataset


def _not_complete(path: Path) -> str:
    return (
        f"{path} is not complete: its worker still writes it, or was ended before its time. To look at it "
        "all the same, open it with h5py and swmr=True"
    )
