"""A scan that lies in stacks, whatever the files: played frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.sources.base import Source
from ministream.sources.order import ViewOrder
from ministream.sources.pixels import as_type, common_type
from ministream.sources.sets import play_order
from ministream.sources.stack import Stack

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """Frames of one stack, and what each of them is; None for one that is left out."""

    stack: Stack
    kinds: Sequence[FrameKind | None]

    @classmethod
    def whole(cls, stack: Stack, kind: FrameKind) -> Part:
        """Return a part whose frames are all of one kind."""
        return cls(stack, [kind] * stack.shape[0])


class StackScan(Source):
    """A scan in stacks.

    Parameters
    ----------
    name : str
    parts : sequence of Part
        In the order of measuring; a scan with separate fields has these first.
    angles_rad : (projection,) float64
        In the order in which the projections stand in the parts.

    Raises
    ------
    InputError
        The parts do not fit each other.
    """

    def __init__(self, name: str, parts: Sequence[Part], angles_rad: FloatArray) -> None:
        self._name = name
        self._parts = list(parts)
        self._angles_rad = angles_rad
        self._kinds = [kind for part in parts for kind in part.kinds]
        first = parts[-1].stack
        for part in parts:
            if part.stack.shape[1:] != first.shape[1:]:
                raise InputError(
                    f"{part.stack.where(0)} has {part.stack.shape[1:]} rows and columns, "
                    f"{first.where(0)} has {first.shape[1:]}; they must be the same"
                )
        self._pixel_type = common_type({part.stack.where(0): part.stack.dtype for part in parts})

    @property
    def angles_rad(self) -> FloatArray:
        """Angles of the projections as measured, (projection,) float64."""
        return self._angles_rad

    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""
        _, rows, columns = self._parts[-1].stack.shape
        return ScanDescription(
            name=self._name,
            rows=rows,
            columns=columns,
            pixel_type=self._pixel_type,
            projections=self._kinds.count(FrameKind.PROJECTION),
            flat_fields=self._kinds.count(FrameKind.FLAT_FIELD),
            dark_fields=self._kinds.count(FrameKind.DARK_FIELD),
        )

    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield the frames as `ministream.sources.sets.play_order` puts them.

        Raises
        ------
        InputError
            A frame cannot be read, or holds NaN, infinity, or a number that its pixel type cannot hold.
        """
        places = [(part.stack, index) for part in self._parts for index in range(len(part.kinds))]
        angle_of = dict(
            zip(
                (place for place, kind in enumerate(self._kinds) if kind is FrameKind.PROJECTION),
                self._angles_rad,
                strict=True,
            )
        )
        played = play_order(self._kinds, order)
        for part in self._parts:
            part.stack.prepare(
                [places[play.index][1] for play in played if places[play.index][0] is part.stack]
            )
        for sequence, play in enumerate(played):
            stack, index = places[play.index]
            pixels: npt.NDArray[Any] = as_type(stack.read(index), self._pixel_type, stack.where(index))
            yield Frame(
                sequence=sequence,
                kind=play.kind,
                pixels=pixels,
                angle_rad=float(angle_of.get(play.index, 0.0)),
                resets=play.resets,
            )

    def close(self) -> None:
        """Free what the stacks hold. Idempotent."""
        for part in self._parts:
            part.stack.close()
