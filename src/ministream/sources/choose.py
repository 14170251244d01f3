"""From what a user wrote to a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ministream.sources.base import Source
from ministream.sources.options import SourceOptions


def open_source(text: str, **options: Any) -> Source:
    """Return the source that `text` names; it is to be closed.

    Parameters
    ----------
    text : str
        ``phantom``, ``phantom:key=value,...``, ``pva:PV``, the path of an HDF5 file (APS Data Exchange,
        NXtomo, or any with `dataset`), of a folder of TIFF files, or of a TIFF file.
    **options
        Those of `SourceOptions`.

    Raises
    ------
    InputError
        It cannot be opened, or does not hold a scan that can be used.
    ConnectionFailed
        A PV does not answer.
    """
    chosen = SourceOptions(**options)
    source = _open(text, chosen)
    if chosen.rows is None and chosen.pixel_type is None and chosen.repeat == 1:
        return source
    from ministream.sources.adapt import Adapted

    try:
        return Adapted(source, rows=chosen.rows, pixel_type=chosen.pixel_type, repeat=chosen.repeat)
    except BaseException:
        source.close()
        raise


def _open(text: str, options: SourceOptions) -> Source:
    # each imports what others do not need
    if text == "phantom" or text.startswith("phantom:"):
        from ministream.sources.phantom import Phantom, PhantomOptions

        options.refuse("a phantom", "dataset", "image_key", "flats", "darks", "angles", *_DETECTOR)
        return Phantom(PhantomOptions.parse(text.partition(":")[2]))
    if text.startswith("pva:"):
        from ministream.sources.epics import Detector

        options.refuse("a detector", "dataset", "image_key", "flats", "darks", "repeat")
        return Detector(text.removeprefix("pva:"), options)
    options.refuse("a file", *_DETECTOR)
    path = Path(text)
    if "\0" not in text:
        from ministream.sources.tiff import is_tiff, open_tiff

        if is_tiff(path):
            return open_tiff(path, options)
    return _open_hdf5(text, options)


_DETECTOR = ("projections", "attributes", "kind_attribute", "angle_attribute", "present_frame")


def _open_hdf5(text: str, options: SourceOptions) -> Source:
    from ministream.sources.hdf5 import DataExchangeFile, Hdf5File, StackFile
    from ministream.sources.nexus import is_tomo, open_tomo

    file = Hdf5File(text)
    if options.dataset is None:
        if "exchange/data" not in file.file and is_tomo(file):
            return open_tomo(file, options)
        return DataExchangeFile(file, options)
    beside = options.dataset.rpartition("/")[0] + "/image_key"
    if options.image_key is None and file.dataset(options.dataset) is not None and beside in file.file:
        return open_tomo(file, options)
    return StackFile(file, options, image_key=options.image_key)
