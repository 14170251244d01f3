"""Scans in NeXus files of the application definition NXtomo [1]_, or near to it.

A detector has one stack of all frames, in the order of measuring, and an ``image_key`` beside it. The angles
are the sample's ``rotation_angle``; where a beamline has none, they are the axis of the NXdata that shows
the stack. Stack and angles may be links into other files.

References
----------
.. [1] https://manual.nexusformat.org/classes/applications/NXtomo.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import h5py

from ministream.errors import InputError
from ministream.sources.hdf5 import Hdf5File, StackFile
from ministream.sources.options import SourceOptions
from ministream.sources.stack import reason

_ROTATION = "rotation_angle"
_CONTROL = "image_key_control"
# Diamond's scans name what was asked for and what was read back like this; the latter is where the stage was
_DEMAND = "_set"
_DEPTH_LIMIT = 12


@dataclass(frozen=True, slots=True)
class _Detector:
    """A group with a stack and an ``image_key``."""

    group: str
    data: h5py.Dataset

    @property
    def name(self) -> str:
        return f"{self.group}/data"


def is_tomo(file: Hdf5File) -> bool:
    """Whether there is an ``image_key`` somewhere, so that this may be a tomography scan of NeXus."""
    return any("image_key" in group for group in _groups(file.file))


def open_tomo(file: Hdf5File, options: SourceOptions) -> StackFile:
    """Return the scan in `file`; both are closed together, and at once when it is refused.

    Raises
    ------
    InputError
        There is no stack that goes with its ``image_key``, or more than one.
    """
    try:
        detector = _detector(file, options.dataset)
        control = f"{detector.group}/{_CONTROL}"
        angles_name = None if options.angles is not None else _angles_name(file, detector)
        return StackFile(
            file,
            replace(options, dataset=detector.name),
            image_key=options.image_key or f"{detector.group}/image_key",
            image_key_control=control if control in file.file else None,
            angles_name=angles_name,
        )
    except BaseException:
        file.close()
        raise


def _detector(file: Hdf5File, wanted: str | None) -> _Detector:
    found: list[_Detector] = []
    broken: list[str] = []
    # links show the same stack in several places; the detector's own has all that belongs to it
    for group in sorted(_groups(file.file), key=lambda group: _class(group) != "NXdetector"):
        name = f"{group.name}/data"
        if "image_key" not in group or ("data" not in group and group.get("data", getlink=True) is None):
            continue
        try:
            data = file.dataset(name)
        except InputError as error:
            broken.append(str(error))
            continue
        if data is None or data.ndim != 3:
            continue
        if wanted is not None and file.needed(wanted) != data:
            continue
        if all(data != other.data for other in found):
            found.append(_Detector(group.name, data))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{detector.name} {detector.data.shape}" for detector in found)
        raise file.error(f"there is more than one stack with an image_key: {names}; --dataset chooses one")
    if broken:
        raise InputError(broken[0])
    raise file.error(
        "no image_key lies beside a stack (frame, row, column); --dataset and --image-key name them"
    )


def _angles_name(file: Hdf5File, detector: _Detector) -> str | None:
    """Return the dataset with the angles; None where there is none that can be opened."""
    entry = _entry(file.file, detector.group)
    for name in (f"{detector.group}/{_ROTATION}", f"{entry}/sample/{_ROTATION}"):
        if _is_axis(file.file, name):
            return name
    for group in _groups(file.file[entry]):
        if _class(group) == "NXsample" and _is_axis(file.file, f"{group.name}/{_ROTATION}"):
            return f"{group.name}/{_ROTATION}"
    for group in _groups(file.file[entry]):
        if _class(group) != "NXdata" or not any(item == detector.data for item in _datasets(group)):
            continue
        axes = group.attrs.get("axes", [])
        first = axes if isinstance(axes, str | bytes) else next(iter(axes), "")
        axis = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
        for name in (_ROTATION, axis.removesuffix(_DEMAND), axis):
            if name and _is_axis(file.file, f"{group.name}/{name}"):
                return f"{group.name}/{name}"
    return None


def _is_axis(file: h5py.File, name: str) -> bool:
    found = _get(file, name)
    return isinstance(found, h5py.Dataset) and found.ndim == 1 and found.size > 1


def _entry(file: h5py.File, group: str) -> str:
    """Return the nearest group around that is an entry."""
    while group not in ("", "/"):
        group = group.rpartition("/")[0]
        if group and _class(file[group]) in ("NXentry", "NXsubentry"):
            return group
    return "/"


def _class(group: h5py.Group) -> str:
    value = group.attrs.get("NX_class", "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _datasets(group: h5py.Group) -> Iterator[h5py.Dataset]:
    for key in group:
        item = _get(group, key)
        if isinstance(item, h5py.Dataset):
            yield item


def _groups(top: h5py.Group, depth: int = 0) -> Iterator[h5py.Group]:
    """Yield a group and those in it; links to them are not followed, so that there are no circles."""
    yield top
    if depth == _DEPTH_LIMIT:
        return
    for key in top:
        try:
            is_own = isinstance(top.get(key, getlink=True), h5py.HardLink)
            item = top.get(key, getclass=True) if is_own else None
        except (OSError, RuntimeError, KeyError) as error:
            raise InputError(f"{top.file.filename}: {top.name}/{key} is damaged: {reason(error)}") from error
        if item is h5py.Group:
            yield from _groups(top[key], depth + 1)


def _get(group: h5py.Group, name: str) -> object:
    """Return what is there; None also where a link leads nowhere."""
    try:
        return group.get(name)
    except (OSError, RuntimeError, KeyError):
        # a part of the beamline whose file was not kept
        return None
