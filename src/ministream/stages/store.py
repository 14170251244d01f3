"""What a distributor keeps of a scan: every corrected projection, and what it needs to go on after a kill.

Files that are mapped into memory: what has been written is the kernel's, and survives the process. Everything
is written before the number that says that it is there, so a process that is killed at any moment leaves a
store that is whole. Nothing grows: all the room is taken at the beginning.

The host is survived by what `ScanStore.sync` has put on the disk. Whether a store was left by a process or by
a host that went down, the kernel's boot id tells: after a kill everything counts, otherwise what was synced.

``scan.json``
    What the scan is, whose it is, and the name of the flow from the DAQ.
``attenuation``
    (projection, row, column) float32.
``views``
    For each projection: number of its frame, angle, pixels that were interpolated.
``fields``
    Sum, least and most of flat and dark fields, twice: one is valid while the other is written.
``counts``
    How many projections are there, which sums are valid, and how many fields they are of.
``durable.json``
    These counts as they were when everything that they count was on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import threading
import uuid
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError, OutputError, ProtocolError
from ministream.frames import ScanDescription
from ministream.sinks import output_error, replacing

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

_VERSION = 2
_VIEW = np.dtype([("sequence", "<i8"), ("angle_rad", "<f8"), ("invalid", "<i8")])
_PROJECTIONS, _GENERATION, _ENDED = 0, 1, 2
# for each of the two generations: flat fields, dark fields, number of the next frame
_FIELDS = 4
_COUNTS = _FIELDS + 2 * 3
_DURABLE = "durable.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ScanStore:
    """The projections of one scan, in the order in which they came. A context manager.

    Make one with `create` or `reopen`.

    Attributes
    ----------
    scan : str
        A name that no other scan has.
    flow : str
        Name of the flow from the DAQ.
    sender : str
        Which process of a DAQ it comes from.
    description : ScanDescription
    attenuation : (projection, row, column) float32
        Those up to `count` are there, and never change.
    angles_rad : (projection,) float64
    shortened : bool
        Its host went down, and what had not reached the disk by then is missing.
    """

    def __init__(self, folder: Path, content: dict[str, Any], *, lock: int | None) -> None:
        self._folder: Path | None = folder
        self._lock = lock
        self.scan = str(content["scan"])
        self.flow = str(content["flow"])
        self.sender = str(content["sender"])
        self.description = ScanDescription.from_mapping(content["description"])
        shapes = _shapes(self.description)
        self.attenuation, self._views, self._fields, self._counts = (
            np.memmap(folder / name, dtype, "r+", shape=shape) for name, (dtype, shape) in shapes.items()
        )
        self.angles_rad: npt.NDArray[np.float64] = self._views["angle_rad"]
        self.shortened = False
        self._files = threading.Lock()

    @classmethod
    def create(
        cls, folder: Path | None, description: ScanDescription, *, flow: str, sender: str
    ) -> ScanStore:
        """Make room for a scan in `folder`; None takes a temporary one that ends with this process.

        Raises
        ------
        OutputError
            There is not enough room, or the folder cannot be used.
        """
        content = {
            "version": _VERSION,
            "scan": uuid.uuid4().hex,
            "flow": flow,
            "sender": sender,
            "boot": _boot_id(),
            "description": description.as_mapping(),
        }
        temporary = folder is None
        where = Path(tempfile.mkdtemp(prefix="ministream-store-")) if folder is None else folder
        lock = None
        try:
            if not temporary:
                where.mkdir(parents=True, exist_ok=True)
                lock = _lock(where)
            (where / _DURABLE).unlink(missing_ok=True)
            _make_room(where, description)
            _write(where, content)
            store = cls(where, content, lock=lock)
        except OSError as error:
            _release(lock)
            raise OutputError(f"{where} cannot keep the scan: {error.strerror or error}") from error
        except OutputError:
            _release(lock)
            raise
        finally:
            if temporary:
                # what is mapped stays until it is unmapped, even if this process is killed
                shutil.rmtree(where, ignore_errors=True)
        if temporary:
            store._folder = None
        return store

    @classmethod
    def reopen(cls, folder: Path) -> ScanStore | None:
        """Return the store that a killed distributor has left in `folder`; None if there is none.

        Raises
        ------
        InputError
            What is there is no store, or of another version.
        OutputError
            Another distributor uses it, or it cannot be opened.
        """
        path = folder / "scan.json"
        if not path.exists():
            return None
        lock = _lock(folder)
        try:
            content = _read(path)
            store = cls(folder, content, lock=lock)
            if content.get("boot") != _boot_id():
                store._shorten(folder)
                _write(folder, content | {"boot": _boot_id()})
        except BaseException as error:
            _release(lock)
            if isinstance(error, OSError):
                raise OutputError(f"{folder} cannot be used: {error.strerror or error}") from error
            if isinstance(error, ValueError | KeyError | ProtocolError):
                raise InputError(f"{folder} holds no scan that can go on ({error}): remove it") from error
            raise
        return store

    def _shorten(self, folder: Path) -> None:
        """Go back to what was on the disk when the host went down."""
        try:
            durable = json.loads((folder / _DURABLE).read_text(encoding="utf-8"))
            counts = [int(number) for number in durable["counts"]]
        except FileNotFoundError:
            counts = []
        if len(counts) != _COUNTS or not 0 <= counts[_PROJECTIONS] <= self.description.projections:
            raise InputError(
                f"{folder} was left when this host went down, before anything of it was on the disk: remove "
                "it"
            )
        before = self.count
        self._counts[:] = counts
        if zlib.crc32(self._fields[counts[_GENERATION] % 2].tobytes()) != durable["fields"]:
            raise InputError(
                f"{folder} was left when this host went down while flat or dark fields came: remove it"
            )
        self.shortened = True
        logger.warning(
            "this host was down since: %d projections of %s are on the disk (%d had come)",
            *(self.count, self.description.name, max(before, self.count)),
        )

    def sync(self) -> None:
        """Put what is there on the disk, so that it is there after a power cut. For one thread, any one.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        with self._files:
            if self._folder is not None:
                self._sync(self._folder)

    def _sync(self, folder: Path) -> None:
        # before the files: what is counted by now is in them
        counts = self._counts.tolist()
        fields = zlib.crc32(self._fields[counts[_GENERATION] % 2].tobytes())
        try:
            for name in _shapes(self.description):
                if name != "counts":
                    _sync(folder / name, os.O_RDWR)
            with replacing(folder / _DURABLE) as draft:
                draft.write_text(json.dumps({"counts": counts, "fields": fields}), encoding="utf-8")
            _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise output_error(folder, error) from error

    def __enter__(self) -> ScanStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _release(self._lock)
        self._lock = None

    # ------------------------------------------------------------------ projections

    @property
    def count(self) -> int:
        """How many projections are there."""
        return int(self._counts[_PROJECTIONS])

    @property
    def invalid_pixels(self) -> int:
        """Pixels that were interpolated, in all of them."""
        return int(self._views["invalid"][: self.count].sum())

    @property
    def next_sequence(self) -> int:
        """Number of the first frame that has not been taken in; those below are duplicates."""
        count = self.count
        after = int(self._views["sequence"][count - 1]) + 1 if count else 0
        return max(after, self._field_counts[2])

    @property
    def complete(self) -> bool:
        """Whether nothing more will come: the DAQ has ended, or every projection is there."""
        return bool(self._counts[_ENDED]) or self.count == self.description.projections

    def add(self, sequence: int, angle_rad: float, attenuation: FloatArray, *, invalid: int) -> None:
        """Append a projection, (row, column) float32; there must be room for it."""
        count = self.count
        self.attenuation[count] = attenuation
        self._views[count] = (sequence, angle_rad, invalid)
        self._counts[_PROJECTIONS] = count + 1

    def end(self) -> None:
        """Take note that the DAQ has ended."""
        self._counts[_ENDED] = 1

    def rows(self, projection: int, parts: list[range]) -> FloatArray:
        """Return some rows of a projection, (row, column) float32; a view if they are contiguous."""
        view: FloatArray = self.attenuation[projection]
        if len(parts) == 1:
            return view[parts[0].start : parts[0].stop]
        return np.concatenate([view[part.start : part.stop] for part in parts])

    # ------------------------------------------------------------------ fields

    @property
    def fields(self) -> tuple[tuple[int, npt.NDArray[np.float64]], tuple[int, npt.NDArray[np.float64]]]:
        """Count and sums of the flat fields, and of the dark fields; sums are (3, row, column) float64."""
        flats, darks, _ = self._field_counts
        flat_sum, dark_sum = self._fields[int(self._counts[_GENERATION]) % 2]
        return (flats, flat_sum), (darks, dark_sum)

    def set_fields(
        self,
        sequence: int,
        flat: tuple[int, npt.NDArray[np.float64]],
        dark: tuple[int, npt.NDArray[np.float64]],
    ) -> None:
        """Replace counts and sums, after frame `sequence`, which was one of them."""
        generation = int(self._counts[_GENERATION]) + 1
        place = generation % 2
        self._fields[place, 0], self._fields[place, 1] = flat[1], dark[1]
        at = _FIELDS + 3 * place
        self._counts[at : at + 3] = (flat[0], dark[0], sequence + 1)
        self._counts[_GENERATION] = generation

    @property
    def _field_counts(self) -> tuple[int, int, int]:
        at = _FIELDS + 3 * (int(self._counts[_GENERATION]) % 2)
        flats, darks, following = self._counts[at : at + 3].tolist()
        return flats, darks, following

    # ------------------------------------------------------------------ the end

    @property
    def removed(self) -> bool:
        """Whether there is nothing to be kept: the scan is done, or the files have no name."""
        return self._folder is None

    def remove(self) -> None:
        """Remove the files: the scan is done. The folder stays if something else is in it."""
        with self._files:
            folder, self._folder = self._folder, None
        if folder is None:
            return
        for name in ("scan.json", _DURABLE, *_shapes(self.description), "lock"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or not ours
            folder.rmdir()


def _write(folder: Path, content: dict[str, Any]) -> None:
    draft = folder / "scan.json.new"
    draft.write_text(json.dumps(content), encoding="utf-8")
    _sync(draft, os.O_RDWR)
    draft.replace(folder / "scan.json")
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        # without it, no power cut can be told from a kill
        return ""


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise InputError(f"{path} is not of version {_VERSION}: remove its folder")
    return content


def _shapes(description: ScanDescription) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    frame = (description.rows, description.columns)
    return {
        "attenuation": (np.dtype("<f4"), (description.projections, *frame)),
        "views": (_VIEW, (description.projections,)),
        "fields": (np.dtype("<f8"), (2, 2, 3, *frame)),
        "counts": (np.dtype("<i8"), (_COUNTS,)),
    }


def _make_room(folder: Path, description: ScanDescription) -> None:
    sizes = {
        name: dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        for name, (dtype, shape) in _shapes(description).items()
    }
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    short = OutputError(
        f"the scan needs {needed / 1e6:.1f} MB in {folder} ({description.projections} projections of "
        f"{description.rows} x {description.columns} float32), and {free / 1e6:.1f} MB are free there; "
        f"choose another --state-dir"
    )
    if needed > free:
        raise short
    for name, size in sizes.items():
        # anew: a part of an earlier one would be taken for this one's
        (folder / name).unlink(missing_ok=True)
        with (folder / name).open("wb") as file:
            try:
                # a page that finds no room when it is written kills the process
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise short from error
                raise


def _lock(folder: Path) -> int:
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OutputError(f"{folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OutputError(f"{folder} is in use by another distributor; choose another --state-dir") from error
    return descriptor


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
