"""The values that travel through the pipeline: frames, and the description of the scan that they belong to.

Nothing here knows how they are sent (`ministream.wire`) or where they come from (`ministream.sources`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError, ProtocolError

PIXEL_TYPES = ("uint8", "uint16", "float32")
"""Pixel types that a frame may have, as NumPy names them."""


class FrameKind(IntEnum):
    """What a frame shows. The numbers are those of the ``TImage`` wire format's ``itype``."""

    PROJECTION = 1
    FLAT_FIELD = 2
    DARK_FIELD = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One detector image.

    Parameters
    ----------
    sequence : int
        Position in the stream of one scan, from 0, without gaps, over all kinds.
    kind : FrameKind
    pixels : (row, column) uint8, uint16 or float32
    angle_rad : float
        Rotation of the sample; 0 for flat and dark fields.
    resets : bool
        This flat or dark field begins a new set: forget the earlier ones of its kind.
    """

    sequence: int
    kind: FrameKind
    pixels: npt.NDArray[np.generic]
    angle_rad: float = 0.0
    resets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanDescription:
    """What a receiver must know before the first frame.

    Parameters
    ----------
    name : str
        Where the scan comes from, for provenance and displays.
    rows, columns : int
        Shape of every frame, in pixels.
    pixel_type : str
        One of `PIXEL_TYPES`.
    projections, flat_fields, dark_fields : int
        How many frames of each kind will come.

    Raises
    ------
    InputError
        A number or the pixel type is impossible.
    """

    name: str
    rows: int
    columns: int
    pixel_type: str
    projections: int
    flat_fields: int
    dark_fields: int

    def __post_init__(self) -> None:
        if self.pixel_type not in PIXEL_TYPES:
            raise InputError(f"pixel type {self.pixel_type!r} is not one of {', '.join(PIXEL_TYPES)}")
        for name, least in (
            ("rows", 1),
            ("columns", 2),
            ("projections", 1),
            ("flat_fields", 0),
            ("dark_fields", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}: a whole number of at least {least} is needed")

    @property
    def frames(self) -> int:
        """Number of frames of all kinds."""
        return self.projections + self.flat_fields + self.dark_fields

    def as_mapping(self) -> dict[str, Any]:
        """Return what JSON can hold, for `from_mapping` at the receiver."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> ScanDescription:
        """Return the description that a peer has sent; keys that are not known are passed over.

        Raises
        ------
        ProtocolError
            Something is missing or impossible.
        """
        names = [entry.name for entry in fields(cls)]
        missing = [name for name in names if name not in content]
        if missing:
            raise ProtocolError(
                f"the sender does not describe a scan: {', '.join(missing)} missing; is it a DAQ?"
            )
        if not isinstance(content["name"], str) or not isinstance(content["pixel_type"], str):
            raise ProtocolError("the scan's description has a name or pixel type that is no text")
        try:
            return cls(**{name: content[name] for name in names})
        except InputError as error:
            raise ProtocolError(f"the scan's description is impossible: {error}") from error
