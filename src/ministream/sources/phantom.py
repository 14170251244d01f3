"""A synthetic scan with known truth: an object of ellipsoids, seen by a detector with usual faults.

The projections are line integrals in closed form, never those of a volume of pixels: reconstructing them
cannot profit from sharing a discretisation with them. The object may move while it is measured, and the beam
fade; the detector's part is in `ministream.sources.detector`. All that happens in time depends on which view
it is as measured, in whatever order the views are played.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import PIXEL_TYPES, Frame, FrameKind, ScanDescription
from ministream.sources.base import Source
from ministream.sources.detector import Detector, DetectorOptions
from ministream.sources.ellipsoids import (
    ROCK_HEIGHT,
    Ellipsoid,
    chords,
    cylinder,
    move,
    rasterise,
    rock,
    shepp_logan,
)
from ministream.sources.order import ViewOrder
from ministream.sources.sets import play_order

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
    "range": _number(-3600, 3600),
    "fields_every": _number(0, 1_000_000),
    "move_x": _number(-8192, 8192),
    "move_y": _number(-8192, 8192),
    "move_rows": _number(-8192, 8192),
    "drift": _number(-0.99, 10),
    "zingers": _number(0, 1e6),
    "dead_pixels": _number(0, 1e8),
    "seed": _number(0, 2**63 - 1),
}


OBJECTS = ("rock", "shepp-logan", "cylinder")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomOptions:
    """What a phantom is made with.

    Parameters
    ----------
    columns, rows, projections, flats, darks : int
        Size of the detector, and number of frames of each kind. The rows are spread over the object's height.
    object : str
        One of `OBJECTS`.
    range : float
        Degrees over which the views are spread, the last one left out.
    photons : float
        Mean number per pixel in the open beam; the noise is theirs.
    absorption : float
        Line integral through the middle of the object's main material, were it all there is.
    center_offset : float
        Columns from the detector's middle to the projected rotation axis.
    rings : float
        Size of the change of response between flat fields and projections, in the columns that have one.
    fields_every : int
        Measure flat and dark fields again after so many projections; 0 for before the first only.
    move_x, move_y, move_rows : float
        How far the object has moved by the end of the scan: in columns, within the plane of rotation, and
        in rows. The truth is the object as it is at the beginning.
    drift : float
        By which part the beam has become brighter by the end of the scan; negative for fading. Fields that
        are measured again see the beam of their moment.
    zingers : float
        Mean number per frame.
    dead_pixels : int
        How many pixels give no count.
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
    object: str = "rock"
    range: float = 180.0
    photons: float = 20_000.0
    absorption: float = 2.0
    center_offset: float = 5.3
    rings: float = 0.01
    fields_every: int = 0
    move_x: float = 0.0
    move_y: float = 0.0
    move_rows: float = 0.0
    drift: float = 0.0
    zingers: float = 0.0
    dead_pixels: int = 0
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
        if self.object not in OBJECTS:
            raise InputError(f"phantom: object is {self.object!r}; it is one of {', '.join(OBJECTS)}")
        if self.range == 0:
            raise InputError("phantom: range is 0; the views need degrees to be spread over")
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
    """An object on the rotation stage; views evenly spaced.

    Parameters
    ----------
    options : PhantomOptions, optional
    """

    def __init__(self, options: PhantomOptions | None = None) -> None:
        self.options = options = options or PhantomOptions()
        middle = (options.columns - 1) / 2
        self._center = middle + options.center_offset
        radius = _FILL * (middle - abs(options.center_offset))
        self._ellipsoids = _object(options, radius)
        # planes through the object, one in the middle of each row
        self._heights = ROCK_HEIGHT * (2 * (np.arange(options.rows) + 0.5) / options.rows - 1)
        self._kinds = _kinds(options)
        self._detector = Detector(
            DetectorOptions(
                rows=options.rows,
                columns=options.columns,
                photons=options.photons,
                rings=options.rings,
                pixel_type=options.pixel_type,
                seed=options.seed,
                zingers=options.zingers,
                dead_pixels=options.dead_pixels,
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
        return np.arange(count, dtype=np.float64) * (math.radians(self.options.range) / count)

    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""
        options = self.options
        return ScanDescription(
            name="phantom",
            rows=options.rows,
            columns=options.columns,
            pixel_type=options.pixel_type,
            projections=options.projections,
            flat_fields=self._kinds.count(FrameKind.FLAT_FIELD),
            dark_fields=self._kinds.count(FrameKind.DARK_FIELD),
        )

    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield dark fields, flat fields, projections; a view is the same in every order."""
        # which one of its kind each frame is, and how many projections were measured before it
        number: list[int] = []
        before: list[int] = []
        seen = dict.fromkeys(FrameKind, 0)
        for kind in self._kinds:
            number.append(seen[kind])
            before.append(seen[FrameKind.PROJECTION])
            seen[kind] += 1
        for sequence, play in enumerate(play_order(self._kinds, order)):
            pixels, angle_rad = self._frame(play.kind, number[play.index], before[play.index])
            yield Frame(
                sequence=sequence, kind=play.kind, pixels=pixels, angle_rad=angle_rad, resets=play.resets
            )

    def _frame(self, kind: FrameKind, index: int, projections_before: int) -> tuple[npt.NDArray[Any], float]:
        beam = 1 + self.options.drift * self._progress(projections_before)
        match kind:
            case FrameKind.DARK_FIELD:
                return self._detector.dark_field(index), 0.0
            case FrameKind.FLAT_FIELD:
                return self._detector.flat_field(index, beam=beam), 0.0
            case FrameKind.PROJECTION:
                angle_rad = float(self.angles_rad[index])
                through = self.transmission(angle_rad, self._progress(index))
                return self._detector.projection(index, through, beam=beam), angle_rad

    def _progress(self, projection: int) -> float:
        """Return which part of the scan is over, 0 to 1."""
        return projection / max(1, self.options.projections - 1)

    def transmission(self, angle_rad: float, progress: float = 0.0) -> FloatArray:
        """Return which part of the beam arrives in each pixel, (row, column) float64, without any fault.

        It is the mean over several rays across the width of a pixel: a detector adds up intensities.

        Parameters
        ----------
        angle_rad : float
        progress : float
            Which part of the scan is over; a moving object is elsewhere then.
        """
        options = self.options
        rays = options.columns * _RAYS_PER_COLUMN
        positions = (np.arange(rays) + 0.5) / _RAYS_PER_COLUMN - 0.5 - self._center
        ellipsoids = self._ellipsoids
        if progress and (options.move_x or options.move_y or options.move_rows):
            rise = options.move_rows * 2 * ROCK_HEIGHT / options.rows
            ellipsoids = move(
                ellipsoids, progress * options.move_x, progress * options.move_y, progress * rise
            )
        integrals = chords(ellipsoids, positions, self._heights, angle_rad)
        np.exp(np.negative(integrals, out=integrals), out=integrals)
        arriving: FloatArray = integrals.reshape(len(self._heights), -1, _RAYS_PER_COLUMN).mean(axis=2)
        return arriving

    def truth(self) -> npt.NDArray[np.float32]:
        """Return the attenuation per pixel length, (slice, y, x) float32, averaged over each pixel's area."""
        return rasterise(self._ellipsoids, self._heights, self.options.columns)


def _object(options: PhantomOptions, radius: float) -> list[Ellipsoid]:
    attenuation = options.absorption / (2 * radius)
    match options.object:
        case "shepp-logan":
            return shepp_logan(radius=radius, attenuation=attenuation)
        case "cylinder":
            return cylinder(radius=radius, attenuation=attenuation)
        case _:
            return rock(radius=radius, attenuation=attenuation, seed=options.seed)


def _kinds(options: PhantomOptions) -> list[FrameKind]:
    """Return what each frame is, as measured."""
    fields = [FrameKind.DARK_FIELD] * options.darks + [FrameKind.FLAT_FIELD] * options.flats
    every = options.fields_every or options.projections
    kinds: list[FrameKind] = []
    for first in range(0, options.projections, every):
        kinds += fields + [FrameKind.PROJECTION] * min(every, options.projections - first)
    return kinds
