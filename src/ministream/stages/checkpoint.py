"""What a worker keeps on disk, so that it goes on where it was when it was killed, or its host lost power.

``checkpoint.json``
    What the other files mean. It is replaced as a whole, and last: a worker that ends at any moment leaves
    the checkpoint before, or this one.
``views-KEY-NAME``
    An array of which views that are there never change: only new ones are appended.
``state-NUMBER``
    All other arrays, one after the other.

Everything is on the disk before ``checkpoint.json`` says so, with a CRC of each array. A checkpoint that is
damaged is told and forgotten: whoever has none begins anew, and loses only time.

What the arrays are is not known here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ministream.errors import OutputError
from ministream.sinks import output_error, replacing

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

_VERSION = 1
_INDEX = "checkpoint.json"
_LOCK = "lock"
_PIECE_BYTES = 8 << 20
"""Between two pieces the worker says that it is alive."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What is kept of some slices.

    Parameters
    ----------
    key : str
        A name that no other slices have had; letters and digits.
    values : mapping
        JSON.
    arrays : mapping
        Name -> array, of any shape.
    grown : mapping
        Name -> array whose first axis is that of the views; under one `key` those kept before are the same.
    """

    key: str
    values: Mapping[str, Any]
    arrays: Mapping[str, Array]
    grown: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """What a checkpoint holds; its arrays are read from the files when they are used."""

    values: Mapping[str, Any]
    parts: Sequence[Part]


class Checkpoint:
    """A folder with one checkpoint. A context manager: leaving it gives the folder back.

    Parameters
    ----------
    folder : Path
        Made if it is missing.

    Raises
    ------
    OutputError
        It cannot be used, or another worker uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._rows: dict[str, tuple[int, int]] = {}  # file of a grown array -> views in it, their CRC
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise output_error(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise OutputError(
                f"{folder} is in use by another worker; give each its own --checkpoint"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    # ------------------------------------------------------------------ reading

    def load(self) -> Saved | None:
        """Return what an earlier worker has left; None if there is nothing, or it is damaged.

        Raises
        ------
        OutputError
            The folder cannot be read.
        """
        try:
            text = (self._folder / _INDEX).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            self._forget(error)
            return None
        except OSError as error:
            raise output_error(self._folder, error) from error
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or content.get("version") != _VERSION:
                raise ValueError(f"it is not of version {_VERSION}")  # noqa: TRY301 - all damage is told once
            self._number = int(content["number"])
            parts = [self._part(entry) for entry in content["parts"]]
            return Saved(values=content["values"], parts=parts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._forget(error)
            return None

    def _forget(self, error: Exception) -> None:
        self._rows.clear()
        logger.warning(
            "the checkpoint in %s cannot be used (%s: %s): the slices begin anew, and the distributor sends "
            "everything again",
            *(self._folder, type(error).__name__, " ".join(str(error).split())[:200]),
        )

    def _part(self, entry: Mapping[str, Any]) -> Part:
        key = str(entry["key"])
        if not key.isalnum():
            raise ValueError(f"the key {key[:40]!r}")
        state = self._folder / f"state-{self._number}"
        arrays = {one["name"]: _mapped(state, one, int(one["offset"])) for one in entry["arrays"]}
        grown = {}
        for one in entry["grown"]:
            name = _grown_name(key, one["name"])
            grown[one["name"]] = _mapped(self._folder / name, one, 0)
            self._rows[name] = (int(one["shape"][0]), int(one["crc"]))
        return Part(key=key, values=entry["values"], arrays=arrays, grown=grown)

    # ------------------------------------------------------------------ writing

    def save(self, values: Mapping[str, Any], parts: Sequence[Part], alive: Callable[[], None]) -> None:
        """Replace the checkpoint.

        Parameters
        ----------
        values : mapping
            JSON.
        parts : sequence of Part
        alive : callable
            Called now and then, because it may take long.

        Raises
        ------
        OutputError
            It cannot be written; the checkpoint before is as it was.
        """
        number = self._number + 1
        state = self._folder / f"state-{number}"
        rows: dict[str, tuple[int, int]] = {}
        try:
            with _new_file(state) as descriptor:
                offset = 0
                entries = []
                for part in parts:
                    arrays = []
                    for name, array in part.arrays.items():
                        crc = _write(descriptor, offset, array, 0, alive)
                        arrays.append(_described(name, array, crc) | {"offset": offset})
                        offset += array.nbytes
                    grown = []
                    for name, array in part.grown.items():
                        file = _grown_name(part.key, name)
                        rows[file] = (len(array), self._append(file, array, alive))
                        grown.append(_described(name, array, rows[file][1]))
                    entries.append(
                        {"key": part.key, "values": dict(part.values), "arrays": arrays, "grown": grown}
                    )
            content = {"version": _VERSION, "number": number, "values": dict(values), "parts": entries}
            _sync_folder(self._folder)
            with replacing(self._folder / _INDEX) as draft:
                draft.write_text(json.dumps(content), encoding="utf-8")
            _sync_folder(self._folder)
        except OSError as error:
            self._discard(state)
            raise output_error(self._folder, error) from error
        except OutputError:
            self._discard(state)
            raise
        self._number, self._rows = number, rows
        self._tidy()

    def _append(self, file: str, array: Array, alive: Callable[[], None]) -> int:
        """Write the views that are not there yet; return the CRC of all."""
        there, crc = self._rows.get(file, (0, 0))
        descriptor = os.open(self._folder / file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            new = array[there:]
            crc = _write(descriptor, there * (array.nbytes // max(1, len(array))), new, crc, alive)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return crc

    def _discard(self, state: Path) -> None:
        # the room is needed for the checkpoint that follows
        with contextlib.suppress(OSError):
            state.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove what the checkpoint does not need."""
        needed = {_INDEX, _LOCK, f"state-{self._number}", *self._rows}
        for path in self._ours():
            if path.name not in needed:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _ours(self) -> Iterator[Path]:
        for pattern in ("state-*", "views-*", f".{_INDEX}.*.part", _INDEX):
            yield from self._folder.glob(pattern)

    def remove(self) -> None:
        """Remove the checkpoint: it is not needed any more. The folder stays if something else is in it."""
        with contextlib.suppress(OSError):
            # first: without it the others mean nothing
            (self._folder / _INDEX).unlink(missing_ok=True)
            for path in (*self._ours(), self._folder / _LOCK):
                path.unlink(missing_ok=True)
            self._folder.rmdir()
        self._rows.clear()


def _grown_name(key: str, name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"an array of the name {name[:40]!r}")
    return f"views-{key}-{name}"


def _described(name: str, array: Array, crc: int) -> dict[str, Any]:
    return {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "crc": crc}


def _mapped(path: Path, entry: Mapping[str, Any], offset: int) -> Array:
    """Return an array in a file, after a look at all of it."""
    dtype, shape = np.dtype(entry["dtype"]), tuple(int(extent) for extent in entry["shape"])
    if dtype.hasobject or min((*shape, offset), default=0) < 0:
        raise ValueError(f"an array of {dtype} and {shape}")
    if 0 in shape:
        return np.zeros(shape, dtype)
    array: Array = np.memmap(path, dtype, "r", offset=offset, shape=shape)
    crc = 0
    for piece in _pieces(array):
        crc = zlib.crc32(piece, crc)
    if crc != entry["crc"]:
        raise ValueError(f"{path.name}, {entry['name']}: its contents are not those that were written")
    return array


def _pieces(array: Array) -> Iterator[memoryview]:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for begin in range(0, data.size, _PIECE_BYTES):
        yield data[begin : begin + _PIECE_BYTES].data


def _write(descriptor: int, offset: int, array: Array, crc: int, alive: Callable[[], None]) -> int:
    """Write an array at `offset`; return the CRC, which goes on from `crc`."""
    for piece in _pieces(array):
        crc = zlib.crc32(piece, crc)
        rest = piece
        while rest:
            written = os.pwrite(descriptor, rest, offset)
            offset, rest = offset + written, rest[written:]
        alive()
    return crc


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Yield the descriptor of a new file, whose contents are on the disk in the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
