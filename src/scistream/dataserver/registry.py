"""Find the data servers that are installed, by their entry points in the group ``scistream.dataservers``.

A name is matched whatever its case. An unknown one is an error that lists what is installed: nothing ever
stands in for the data server that was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import metadata

from scistream.dataserver.base import DataServerBackend
from scistream.errors import ConfigurationError

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "scistream.dataservers"


def installed() -> tuple[str, ...]:
    """Return the names of the installed data servers, sorted."""
    return tuple(sorted({point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}))


def omits_close_notify(name: str) -> bool:
    """Return whether data servers of that kind end encrypted streams without close_notify.

    The name is another gateway's word: of one that is not installed here nothing of that sort is known.
    """
    point = _find(name)
    if point is None:
        return False
    try:
        return _load(point).omits_close_notify
    except ConfigurationError as error:
        logger.warning("%s; an end of its streams without close_notify is taken for a cut", error)
        return False


def create_backend(name: str, options: Mapping[str, object] | None = None) -> DataServerBackend:
    """Return the backend of that name, built with `options` as keyword arguments and not yet open.

    Raises
    ------
    ConfigurationError
        No such data server is installed, its code cannot be loaded, or it does not know an option.
    """
    point = _find(name)
    if point is None:
        names = ", ".join(installed()) or "none"
        raise ConfigurationError(f"no data server {name!r} is installed; there are: {names}")
    kind = _load(point)
    try:
        return kind(**(options or {}))
    except TypeError as error:
        raise ConfigurationError(f"data server {point.name!r}: {error}") from error


def _find(name: str) -> metadata.EntryPoint | None:
    points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    return next((point for point in points if point.name.lower() == name.strip().lower()), None)


def _load(point: metadata.EntryPoint) -> type[DataServerBackend]:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"data server {point.name!r} cannot be loaded: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, DataServerBackend)):
        raise ConfigurationError(f"data server {point.name!r}: {point.value} is no DataServerBackend")
    return kind
