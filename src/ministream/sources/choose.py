"""From what a user wrote to a source."""

from __future__ import annotations

from ministream.sources.base import Source


def open_source(text: str, *, flat_value: float | None = None, dark_value: float | None = None) -> Source:
    """Return the source that `text` names; it is to be closed.

    Parameters
    ----------
    text : str
        ``phantom``, ``phantom:key=value,...``, or the path of an APS Data Exchange file.
    flat_value, dark_value : float or None
        Counts of a flat or dark field, for a file that has none of it.

    Raises
    ------
    InputError
        It cannot be opened, or does not hold a scan that can be used.
    """
    # each imports what others do not need
    if text == "phantom" or text.startswith("phantom:"):
        from ministream.sources.phantom import Phantom, PhantomOptions

        return Phantom(PhantomOptions.parse(text.partition(":")[2]))
    from ministream.sources.hdf5 import DataExchangeFile

    return DataExchangeFile(text, flat_value=flat_value, dark_value=dark_value)
