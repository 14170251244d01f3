"""What a user may say about a scan, beside where it is."""

from __future__ import annotations

from dataclasses import dataclass

from ministream.errors import InputError
from ministream.frames import PIXEL_TYPES

ANGLE_UNITS = ("auto", "degrees", "radians")
ATTRIBUTE_PRESETS = ("tomoscan", "mini-app", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to read a scan; a source refuses what it has no use for.

    Parameters
    ----------
    flat_value, dark_value : float or None
        Counts of all flat or dark fields, where there are none.
    dataset : str or None
        HDF5: the stack of projections, (projection, row, column), or of all frames with `image_key`.
    image_key : str or None
        HDF5: what each frame of the stack is, as NXtomo numbers it.
    flats, darks : str or None
        HDF5 datasets, or TIFF files or folders, with the fields.
    angles : str or None
        ``START:STOP`` in degrees, the stop being left out; a text file with one angle a line; an HDF5
        dataset; for a detector also ``pv:NAME``.
    angle_units : str
        One of `ANGLE_UNITS`; auto goes by what the file says.
    rows : tuple of int, or None
        The first row to take, and how many.
    pixel_type : str or None
        Send pixels as this wider type.
    repeat : int
        How often the scan is played.
    projections : str or None
        Detector: how many projections the scan has; a number, or a PV that holds it.
    attributes : str
        Detector: names and meanings of attributes, one of `ATTRIBUTE_PRESETS`.
    kind_attribute, angle_attribute : str or None
        Detector: attributes with other names.
    present_frame : bool
        Detector: play also the frame that the PV shows when it is connected.
    buffer_mib : int
        Detector: frames that may wait here for slow consumers.
    idle_timeout_s : float
        Detector: how long no frame may come.

    Raises
    ------
    InputError
        A value is not possible.
    """

    flat_value: float | None = None
    dark_value: float | None = None
    dataset: str | None = None
    image_key: str | None = None
    flats: str | None = None
    darks: str | None = None
    angles: str | None = None
    angle_units: str = "auto"
    rows: tuple[int, int] | None = None
    pixel_type: str | None = None
    repeat: int = 1
    projections: str | None = None
    attributes: str = "tomoscan"
    kind_attribute: str | None = None
    angle_attribute: str | None = None
    present_frame: bool = False
    buffer_mib: int = 512
    idle_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value, possible in (
            ("angle_units", self.angle_units, ANGLE_UNITS),
            ("attributes", self.attributes, ATTRIBUTE_PRESETS),
            ("pixel_type", self.pixel_type, (None, *PIXEL_TYPES)),
        ):
            if value not in possible:
                raise InputError(f"{name} is {value!r}; it is one of {', '.join(filter(None, possible))}")
        if self.repeat < 1 or self.buffer_mib < 1 or not self.idle_timeout_s > 0:
            raise InputError("repeat, buffer and idle timeout must be above 0")
        if self.rows is not None and (self.rows[0] < 0 or self.rows[1] < 1):
            raise InputError(
                f"{self.rows[1]} rows from {self.rows[0]} on: the first is 0 or more, at least one is needed"
            )

    def refuse(self, source: str, *names: str) -> None:
        """Refuse options that `source` has no use for.

        Raises
        ------
        InputError
            One of `names` was given.
        """
        default = SourceOptions()
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise InputError(f"{source} has no use for --{name.replace('_', '-')}")
