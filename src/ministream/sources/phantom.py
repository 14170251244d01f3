"""A synthetic scan with known truth: a piece of rock in ellipsoids, seen by a detector with usual faults.

The projections are line integrals in closed form, never those of a volume of pixels: reconstructing them
cannot profit from sharing a discretisation with them. The detector's part is in
`ministream.sources.detector`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import PIXEL_TYPES, Frame, FrameKind, ScanDescription
from ministream.sources.base import Source
from ministream.sources.detector import Detector, DetectorOptions
from ministream.sources.ellipsoids import ROCK_HEIGHT, chords, rasterise, rock
from ministream.sources.order import ViewOrder, view_order

FloatArray = npt.NDArray[np.float64]

# of the largest circle around the rotation axis that the detector sees whole
_FILL = 0.85
_RAYS_PER_COLUMN = 4


def _number(least: float, most: float) -> tuple[float, float]:
    return least, most


_RANGES = {
    "columns": _number(16, 16384),
    "rows": _number(1, 16384),
    "projections": _number(1, 1_000_000),
    "flats": _number(1, 10_000),
    "darks": _number(1, 10_000),
    "photons": _number(1, 1e9),
    "absorption": _number(0.01, 20),
    "center_offset": _number(-8192, 8192),
    "rings": _number(0, 0.5),
    "seed": _number(0, 2**63 - 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomOptions:
    """What a phantom is made with.

    Parameters
    ----------
    columns, rows, projections, flats, darks : int
        Size of the detector, and number of frames of each kind. The rows are spread over the object's height.
    photons : float
        Mean number per pixel in the open beam; the noise is theirs.
    absorption : float
        Line integral through the middle of the object's main material.
    center_offset : float
        Columns from the detector's middle to the projected rotation axis.
    rings : float
        Size of the change of response between flat fields and projections, in the columns that have one.
    pixel_type : str
        One of `ministream.frames.PIXEL_TYPES`.
    seed : int
        Equal options give equal frames.

    Raises
    ------
    InputError
        A value is out of its range.
    """

    columns: int = 256
    rows: int = 8
    projections: int = 200
    flats: int = 20
    darks: int = 10
    photons: float = 20_000.0
    absorption: float = 2.0
    center_offset: float = 5.3
    rings: float = 0.01
    pixel_type: str = "uint16"
    seed: int = 1

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"phantom: {name} is {value}; it lies between {least:g} and {most:g}")
        if self.pixel_type not in PIXEL_TYPES:
            raise InputError(
                f"phantom: pixel_type is {self.pixel_type!r}; it is one of {', '.join(PIXEL_TYPES)}"
            )
        if abs(self.center_offset) > self.columns / 4:
            raise InputError(
                f"phantom: center_offset is {self.center_offset:g} of {self.columns} columns; "
                "at most a quarter of them is possible"
            )

    @classmethod
    def parse(cls, text: str) -> PhantomOptions:
        """Return the options in ``key=value,key=value``.

        Raises
        ------
        InputError
            A key is unknown or comes twice, or a value cannot be used.
        """
        kinds: dict[str, type] = {entry.name: type(entry.default) for entry in fields(cls)}
        values: dict[str, object] = {}
        for part in filter(None, text.split(",")):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            key = key.replace("-", "_")
            if key not in kinds or not equals:
                raise InputError(f"phantom: {part!r} is not KEY=VALUE with a KEY of {', '.join(kinds)}")
            if key in values:
                raise InputError(f"phantom: {key} is given twice")
            try:
                values[key] = kinds[key](value)
            except ValueError:
                kind = "a whole number" if kinds[key] is int else "a number"
                raise InputError(f"phantom: {key} is {value!r}; {kind} is needed") from None
        return cls(**values)  # type: ignore[arg-type]


class Phantom(Source):
    """A piece of rock on the rotation stage; 180 degrees, evenly spaced.

    Parameters
    ----------
    options : PhantomOptions, optional
    """

    def __init__(self, options: PhantomOptions | None = None) -> None:
        self.options = options = options or PhantomOptions()
        middle = (options.columns - 1) / 2
        self._center = middle + options.center_offset
        radius = _FILL * (middle - abs(options.center_offset))
        self._ellipsoids = rock(
            radius=radius, attenuation=options.absorption / (2 * radius), seed=options.seed
        )
        # planes through the object, one in the middle of each row
        self._heights = ROCK_HEIGHT * (2 * (np.arange(options.rows) + 0.5) / options.rows - 1)
        self._detector = Detector(
            DetectorOptions(
                rows=options.rows,
                columns=options.columns,
                photons=options.photons,
                rings=options.rings,
                pixel_type=options.pixel_type,
                seed=options.seed,
            )
        )

    @property
    def rotation_center(self) -> float:
        """The column on which the rotation axis projects; whoever finds it by itself can compare."""
        return self._center

    @property
    def has_truth(self) -> bool:
        """A phantom is known."""
        return True

    @property
    def angles_rad(self) -> FloatArray:
        """Angles of the views as measured, (projection,) float64."""
        count = self.options.projections
        return np.arange(count, dtype=np.float64) * (math.pi / count)

    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""
        options = self.options
        return ScanDescription(
            name="phantom",
            rows=options.rows,
            columns=options.columns,
            pixel_type=options.pixel_type,
            projections=options.projections,
            flat_fields=options.flats,
            dark_fields=options.darks,
        )

    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield dark fields, flat fields, projections; a view's noise is the same in every order."""
        options, detector = self.options, self._detector
        sequence = 0
        for index in range(options.darks):
            yield Frame(sequence=sequence, kind=FrameKind.DARK_FIELD, pixels=detector.dark_field(index))
            sequence += 1
        for index in range(options.flats):
            yield Frame(sequence=sequence, kind=FrameKind.FLAT_FIELD, pixels=detector.flat_field(index))
            sequence += 1
        angles_rad = self.angles_rad
        for index in view_order(options.projections, order):
            angle_rad = float(angles_rad[index])
            pixels = detector.projection(int(index), self.transmission(angle_rad))
            yield Frame(sequence=sequence, kind=FrameKind.PROJECTION, pixels=pixels, angle_rad=angle_rad)
            sequence += 1

    def transmission(self, angle_rad: float) -> FloatArray:
        """Return which part of the beam arrives in each pixel, (row, column) float64, without any fault.

        It is the mean over several rays across the width of a pixel: a detector adds up intensities.
        """
        rays = self.options.columns * _RAYS_PER_COLUMN
        positions = (np.arange(rays) + 0.5) / _RAYS_PER_COLUMN - 0.5 - self._center
        integrals = chords(self._ellipsoids, positions, self._heights, angle_rad)
        np.exp(np.negative(integrals, out=integrals), out=integrals)
        arriving: FloatArray = integrals.reshape(len(self._heights), -1, _RAYS_PER_COLUMN).mean(axis=2)
        return arriving

    def truth(self) -> npt.NDArray[np.float32]:
        """Return the attenuation per pixel length, (slice, y, x) float32, averaged over each pixel's area."""
        return rasterise(self._ellipsoids, self._heights, self.options.columns)
