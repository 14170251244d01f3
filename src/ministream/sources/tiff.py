"""Scans in TIFF files: a folder of them, or one with many pages; read page by page.

In a folder, fields lie in folders of their own (``flats``, ``darks``; ``--flats``, ``--darks`` name others),
or their files' names begin like that. Files follow each other as people number them: ``view_9`` before
``view_10``. TIFF knows no angles: the user says them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from ministream.errors import InputError
from ministream.frames import FrameKind
from ministream.sources import angles
from ministream.sources.options import SourceOptions
from ministream.sources.scan import Part, StackScan
from ministream.sources.stack import ConstantStack, Stack

_SUFFIXES = (".tif", ".tiff")
_NAMES = {
    FrameKind.FLAT_FIELD: ("flat", "flat_field", "flatfield", "white", "data_white", "bright", "ref", "ob"),
    FrameKind.DARK_FIELD: ("dark", "dark_field", "darkfield", "data_dark", "df"),
    FrameKind.PROJECTION: ("proj", "projection", "tomo", "data", "view", "sample", "image"),
}
_OPTIONS = {FrameKind.FLAT_FIELD: "flat", FrameKind.DARK_FIELD: "dark"}
# what tifffile raises for files that are damaged or cut
_DAMAGED = (OSError, ValueError, struct.error, IndexError, KeyError, TypeError)


def is_tiff(path: Path) -> bool:
    """Whether it is a folder, or a file with a name of TIFF."""
    return path.is_dir() or path.suffix.lower() in _SUFFIXES


class TiffStack:
    """The pages of some TIFF files, one after the other.

    Parameters
    ----------
    files : sequence of Path
        At least one.

    Raises
    ------
    InputError
        A file cannot be read, or its pages differ in shape or type from those of the first.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._pages: list[tuple[Path, int]] = []
        self._open: tuple[Path, tifffile.TiffFile] | None = None
        first: tuple[Any, ...] | None = None
        for path in files:
            with _opened(path) as file:
                page = file.pages.first
                kind = page.shape, page.dtype
                count = len(file.pages)
            first = first or kind
            if kind != first:
                raise InputError(
                    f"{path} has {kind[0]} pixels of {kind[1]}, {files[0]} has {first[0]} of {first[1]}; "
                    "all frames must be alike"
                )
            self._pages += [(path, number) for number in range(count)]
        if first is None or len(first[0]) != 2 or first[0][1] < 2:
            shape = first[0] if first else ()
            raise InputError(
                f"{files[0]} has pages of the shape {shape}; (row, column) without colours is needed"
            )
        self.shape: tuple[int, int, int] = (len(self._pages), *first[0])
        self.dtype: np.dtype[Any] = first[1]

    def where(self, index: int) -> str:
        """Return what messages call a page."""
        path, page = self._pages[index]
        return f"{path}, page {page}" if page else str(path)

    def prepare(self, indices: Sequence[int]) -> None:
        """Nothing is to be done: every page stands alone."""

    def read(self, index: int) -> npt.NDArray[Any]:
        """Return a page, (row, column)."""
        path, number = self._pages[index]
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, _opened(path)
        try:
            pixels = self._open[1].pages[number].asarray()
        except _DAMAGED as error:
            raise _error(self.where(index), error) from error
        if pixels.shape != self.shape[1:] or pixels.dtype != self.dtype:
            raise InputError(
                f"{self.where(index)} has {pixels.shape} pixels of {pixels.dtype}, the first page has "
                f"{self.shape[1:]} of {self.dtype}; all frames must be alike"
            )
        return np.asarray(pixels)

    def close(self) -> None:
        """Close the file that was read last. Idempotent."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def open_tiff(path: Path, options: SourceOptions) -> StackScan:
    """Return the scan in a folder of TIFF files, or in one.

    Raises
    ------
    InputError
        A file cannot be read, nothing says the angles, or there are no fields.
    """
    options.refuse("a TIFF scan", "dataset", "image_key")
    found = _sort(path)
    if not found[FrameKind.PROJECTION]:
        raise InputError(f"{path}: there are no TIFF files (.tif, .tiff) of projections in it")
    data = TiffStack(found[FrameKind.PROJECTION])
    if options.angles is None:
        raise InputError(
            f"{path}: TIFF files do not tell angles; --angles 0:180 spreads the {data.shape[0]} views over a "
            "half turn, --angles FILE has one a line"
        )
    parts = [
        Part.whole(
            _fields(path, FrameKind.DARK_FIELD, options.darks, found, options.dark_value, data),
            FrameKind.DARK_FIELD,
        ),
        Part.whole(
            _fields(path, FrameKind.FLAT_FIELD, options.flats, found, options.flat_value, data),
            FrameKind.FLAT_FIELD,
        ),
        Part.whole(data, FrameKind.PROJECTION),
    ]
    angles_rad = angles.from_text(options.angles, options.angle_units, data.shape[0])
    return StackScan(path.resolve().name, parts, angles_rad)


def _fields(
    path: Path,
    kind: FrameKind,
    named: str | None,
    found: dict[FrameKind, list[Path]],
    value: float | None,
    data: Stack,
) -> Stack:
    files = found[kind]
    if named is not None:
        # within the folder, or anywhere
        there = path / named if path.is_dir() and (path / named).exists() else Path(named)
        files = tiff_files(there) if there.is_dir() else [there]
        if not files:
            raise InputError(f"{there}: there are no TIFF files (.tif, .tiff) in it")
    if files:
        return TiffStack(files)
    if value is None:
        word = _OPTIONS[kind]
        raise InputError(
            f"{path}: there are no {word} fields; --{word}s names their folder or file, "
            f"--{word}-value COUNTS takes one value for all pixels instead"
        )
    return ConstantStack(value, data.shape[1:])


def _sort(path: Path) -> dict[FrameKind, list[Path]]:
    """Return the files by what their folder or their own name says."""
    found: dict[FrameKind, list[Path]] = {kind: [] for kind in FrameKind}
    if not path.is_dir():
        found[FrameKind.PROJECTION] = [path]
        return found
    for file in tiff_files(path):
        found[_kind_of(file.name) or FrameKind.PROJECTION].append(file)
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        kind = _kind_of(folder.name)
        if kind is not None:
            found[kind] += tiff_files(folder)
    return found


def _kind_of(name: str) -> FrameKind | None:
    for kind, words in _NAMES.items():
        if re.match(rf"({'|'.join(words)})s?(?![a-z])", name.lower()):
            return kind
    return None


def tiff_files(folder: Path) -> list[Path]:
    """Return the TIFF files of a folder, as people number them.

    Raises
    ------
    InputError
        The folder cannot be read.
    """
    try:
        files = [entry for entry in folder.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file()]
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(files, key=lambda file: [_number(piece) for piece in re.split(r"(\d+)", file.name)])


def _number(piece: str) -> tuple[int, str]:
    return (int(piece), "") if piece.isdigit() else (-1, piece)


def _opened(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except _DAMAGED as error:
        raise _error(str(path), error) from error


def _error(where: str, error: Exception) -> InputError:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "imagecodecs" in text:
        return InputError(f"{where} is compressed in a way that needs more: pip install 'ministream[tiff]'")
    return InputError(f"{where} cannot be read as TIFF: {' '.join(str(text).split())[:200]}")
