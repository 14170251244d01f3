"""A source as the user wants it: some of its rows, a wider pixel type, played several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import PIXEL_TYPES, Frame, ScanDescription
from ministream.sources.base import Source
from ministream.sources.order import ViewOrder


class Adapted(Source):
    """Plays another source with changes.

    Parameters
    ----------
    source : Source
        Closed with this one.
    rows : tuple of int, or None
        The first row, and how many.
    pixel_type : str or None
        Must hold whatever the source's own holds.
    repeat : int
        How often to play; fields come again, too, and begin new sets.

    Raises
    ------
    InputError
        The source has not so many rows, or the pixel type is too narrow.
    """

    def __init__(
        self,
        source: Source,
        *,
        rows: tuple[int, int] | None = None,
        pixel_type: str | None = None,
        repeat: int = 1,
    ) -> None:
        self._source = source
        description = source.describe()
        first, number = rows or (0, description.rows)
        if first + number > description.rows:
            raise InputError(
                f"rows {first} to {first + number - 1} are wanted of {description.name}, "
                f"which has rows 0 to {description.rows - 1}"
            )
        self._rows = slice(first, first + number)
        self._pixel_type = pixel_type or description.pixel_type
        if PIXEL_TYPES.index(self._pixel_type) < PIXEL_TYPES.index(description.pixel_type):
            raise InputError(
                f"{description.name} has {description.pixel_type} pixels, which do not fit {pixel_type}; "
                "only wider types are possible"
            )
        self._repeat = repeat
        self._description = replace(
            description,
            rows=number,
            pixel_type=self._pixel_type,
            projections=description.projections * repeat,
            flat_fields=description.flat_fields * repeat,
            dark_fields=description.dark_fields * repeat,
        )

    @property
    def rotation_center(self) -> float | None:
        """The source's."""
        return self._source.rotation_center

    @property
    def live(self) -> bool:
        """The source's."""
        return self._source.live

    @property
    def has_truth(self) -> bool:
        """The source's."""
        return self._source.has_truth

    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""
        return self._description

    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield the source's frames, changed, numbered on over the repetitions."""
        sequence = count()
        for _ in range(self._repeat):
            for frame in self._source.frames(order):
                pixels = frame.pixels[self._rows].astype(self._pixel_type, copy=False)
                yield replace(frame, sequence=next(sequence), pixels=pixels)

    def truth(self) -> npt.NDArray[np.float32]:
        """Return the rows that are played of the source's."""
        return self._source.truth()[self._rows]

    def wait(self, timeout_s: float) -> bool:
        """Wait for the source."""
        return self._source.wait(timeout_s)

    @property
    def counts(self) -> Mapping[str, int]:
        """The source's."""
        return self._source.counts

    def check_complete(self) -> None:
        """Ask the source."""
        self._source.check_complete()

    def close(self) -> None:
        """Close the source."""
        self._source.close()
