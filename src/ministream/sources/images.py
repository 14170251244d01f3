"""Images and volumes to be judged: slices in HDF5, TIFF or NumPy files, whoever wrote them.

``FILE.h5`` is the dataset that this project and APS Data Exchange (``/exchange/data``), the APS streaming
mini-app (``/data``) or NeXus (``/entry/data/data``) write, or else the only one that can be meant;
``FILE.h5:/PATH`` names one. ``FOLDER`` and ``FILE.tif`` are TIFF, ``FILE.npy`` is NumPy's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters of other programs
import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.sources.stack import reason
from ministream.sources.tiff import TiffStack, is_tiff, tiff_files

FloatArray = npt.NDArray[np.float32]

_USUAL = ("/exchange/data", "/data", "/entry/data/data", "/entry1/tomo_entry/data/data")


def read_images(name: str) -> FloatArray:
    """Return the slices in a file, (slice, y, x) float32; one image is one slice.

    Values are taken as they are: nothing is rescaled, so that whole numbers of a TIFF stay what they are.

    Parameters
    ----------
    name : str
        File or folder; of an HDF5 file also ``FILE:/DATASET``.

    Raises
    ------
    InputError
        It cannot be read, holds no image, or does not say which of several is meant.
    """
    path, _, dataset = name.partition(":/")
    if dataset and not Path(name).exists():
        return _hdf5(Path(path), "/" + dataset)
    found = Path(name)
    if not found.exists():
        raise InputError(f"{name} cannot be read: no such file or folder")
    if is_tiff(found):
        return _tiff(found)
    if found.suffix.lower() == ".npy":
        return _numpy(found)
    return _hdf5(found, None)


def _hdf5(path: Path, wanted: str | None) -> FloatArray:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} is not an HDF5 file, or damaged: {reason(error)}; others are .tif, .tiff, .npy"
        ) from error
    with file:
        dataset = _choose(file, path, wanted)
        try:
            return _slices(dataset[()], f"{path}:{dataset.name}")
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}:{dataset.name} cannot be read: {reason(error)}") from error


def _choose(file: h5py.File, path: Path, wanted: str | None) -> h5py.Dataset:
    found: dict[str, h5py.Dataset] = {}

    def look(name: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset) and entry.ndim in (2, 3) and entry.dtype.kind in "iuf":
            found["/" + name] = entry

    file.visititems(look)
    for name in (wanted,) if wanted else _USUAL:
        # links are followed here, not by the visit
        entry = file.get(name)
        if isinstance(entry, h5py.Dataset) and entry.ndim in (2, 3) and entry.dtype.kind in "iuf":
            return entry
    if wanted is None and len(found) == 1:
        return next(iter(found.values()))
    there = ", ".join(f"{name} {dataset.shape}" for name, dataset in list(found.items())[:8]) or "none"
    raise InputError(
        f"{path}: no image or volume at {wanted}; there are: {there}"
        if wanted
        else f"{path} does not tell which dataset is meant; {path}:/NAME does. There are: {there}"
    )


def _tiff(path: Path) -> FloatArray:
    files = tiff_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: there are no TIFF files (.tif, .tiff) in it")
    stack = TiffStack(files)
    try:
        return _slices(np.stack([stack.read(index) for index in range(stack.shape[0])]), str(path))
    finally:
        stack.close()


def _numpy(path: Path) -> FloatArray:
    try:
        return _slices(np.load(path, allow_pickle=False), str(path))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a NumPy array: {reason(error)}") from error


def _slices(values: npt.NDArray[Any], name: str) -> FloatArray:
    if values.ndim not in (2, 3) or values.size == 0 or values.dtype.kind not in "iuf":
        raise InputError(
            f"{name} holds {values.dtype} of shape {values.shape}; numbers (y, x) or (slice, y, x) are needed"
        )
    stack: FloatArray = values.reshape(-1, *values.shape[-2:]).astype(np.float32)
    return stack
