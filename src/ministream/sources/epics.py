"""A detector that publishes its images by EPICS pvAccess (areaDetector's Pva plugin), live.

What an image is and at which angle it was taken, its attributes tell. Their names differ; presets know those
of tomoScan and of the APS streaming mini-app. A scan has a number of projections that is known in advance; it
is over when they have come, counting those that were lost, or when nothing comes any more. Nothing is lost in
silence: `Detector.counts` and `Detector.check_complete` tell it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import ConnectionFailed, InputError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.sources import angles, pva
from ministream.sources.base import Source
from ministream.sources.ntndarray import DetectorImage, decode, pixel_type_of
from ministream.sources.options import SourceOptions
from ministream.sources.order import ViewOrder
from ministream.sources.pixels import as_type, type_for

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_CONNECT_S = 10.0
_POLL_S = 0.2
_PV = "pv:"


# as NXtomo numbers them
_KIND_NUMBERS = {0: FrameKind.PROJECTION, 1: FrameKind.FLAT_FIELD, 2: FrameKind.DARK_FIELD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Names of a detector's attributes.

    Parameters
    ----------
    kinds : tuple of str
        What the image is; the first of them that is there counts. None of them: every image is a projection.
    angle : str or None
        Degrees.
    start, step : str or None
        Degrees, from which the angle follows by the number of the projection, where there is no `angle`.
    """

    kinds: tuple[str, ...] = ()
    angle: str | None = None
    start: str | None = None
    step: str | None = None


PRESETS = {
    "tomoscan": Attributes(kinds=("FrameType", "HDF5FrameLocation")),
    "mini-app": Attributes(kinds=("SaveDest",), angle="SampleRotary", start="StartPos", step="ScanDelta"),
    "none": Attributes(),
}


class Detector(Source):
    """Images of a PV, from its connection on.

    Parameters
    ----------
    name : str
        Of the PV with NTNDArrays.
    options : SourceOptions
        `projections` is needed.

    Raises
    ------
    InputError
        An option is missing or cannot be, the PV shows no image, or p4p is not installed.
    ConnectionFailed
        A PV does not answer.
    """

    def __init__(self, name: str, options: SourceOptions) -> None:
        self._name = name
        self._options = options
        preset = PRESETS[options.attributes]
        self._attributes = Attributes(
            kinds=(options.kind_attribute,) if options.kind_attribute else preset.kinds,
            angle=options.angle_attribute or preset.angle,
            start=preset.start,
            step=preset.step,
        )
        if not name:
            raise InputError("pva: without a name; pva:PREFIX:Pva1:Image, for example")
        if not self._attributes.kinds and (options.flat_value is None or options.dark_value is None):
            raise InputError(
                "without an attribute that says what an image is, all are projections: --flat-value and "
                "--dark-value are needed"
            )
        self._projections = self._number_of_projections()
        self._angles_rad = self._known_angles()
        self._received = 0
        self._counted = 0
        self._last_kind: FrameKind | None = None
        self._last_frame_s: float | None = None
        self._monitor = pva.Monitor(name, buffer_bytes=options.buffer_mib << 20)
        try:
            first = self._first_update()
            image = decode(first.value)
        except BaseException:
            self._monitor.close()
            raise
        # what is older than the scan only shows how large images are
        self._ahead = [] if first.present and not options.present_frame else [first]
        self._shape = image.pixels.shape
        self._pixel_type = pixel_type_of(image.pixels.dtype)

    @property
    def live(self) -> bool:
        """A detector has its own order and rate."""
        return True

    def describe(self) -> ScanDescription:
        """Return what a receiver must know; how many fields there will be, only the detector knows."""
        rows, columns = self._shape
        return ScanDescription(
            name=f"pva:{self._name}",
            rows=rows,
            columns=columns,
            pixel_type=self._pixel_type,
            projections=self._projections,
            flat_fields=int(self._options.flat_value is not None),
            dark_fields=int(self._options.dark_value is not None),
        )

    def wait(self, timeout_s: float) -> bool:
        """Wait for the next image; True also when none has come for so long that the scan is over."""
        if self._ahead or self._counted >= self._projections or self._monitor.wait(timeout_s):
            return True
        idle_s = 0.0 if self._last_frame_s is None else time.monotonic() - self._last_frame_s
        return idle_s >= self._options.idle_timeout_s

    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield the images as they come; before the first of them it waits without end.

        Raises
        ------
        InputError
            An attribute is missing or unknown, a projection comes before any field to correct it by, an
            image cannot be decoded or differs from the first; or another order is wanted.
        """
        if order is not ViewOrder.AS_MEASURED:
            raise InputError(f"a detector has its own order of views: {order} is not possible")
        sequence = 0
        for kind, value in self._constants():
            pixels = np.full(self._shape, value, type_for(value))
            where = f"the value {value:g}"
            pixels = as_type(pixels, self._pixel_type, where)
            yield Frame(sequence=sequence, kind=kind, pixels=pixels, resets=True)
            sequence += 1
        while self._counted < self._projections:
            while not self.wait(_POLL_S):
                pass
            if not self._ahead and not self._monitor.wait(0):
                return
            update = self._ahead.pop() if self._ahead else self._monitor.get()
            self._last_frame_s = time.monotonic()
            yield self._frame(update, sequence)
            sequence += 1

    @property
    def counts(self) -> Mapping[str, int]:
        """Images lost before they came here, dropped here, and how often the detector counted anew."""
        return {
            "frames_lost": self._monitor.lost,
            "frames_dropped": self._monitor.dropped,
            "counter_restarts": self._monitor.ids.restarts,
        }

    def check_complete(self) -> None:
        """Tell what was lost, and what did not come."""
        lost, dropped = self._monitor.lost, self._monitor.dropped
        if lost or dropped:
            raise ConnectionFailed(
                f"of the frames of pva:{self._name} {lost} were lost before they came here, and {dropped} "
                "here, because consumers were slower than the detector and the buffer of "
                f"{self._options.buffer_mib} MiB was full; {self._received} of {self._projections} "
                "projections were passed on. A larger --buffer, faster consumers or a slower scan help"
            )
        if self._received < self._projections:
            raise ConnectionFailed(
                f"{self._received} of {self._projections} projections came from pva:{self._name}, and then "
                f"none for {self._options.idle_timeout_s:g} s; was the scan stopped, or is --projections "
                "wrong?"
            )

    def close(self) -> None:
        """Unsubscribe. Idempotent."""
        self._monitor.close()

    # ------------------------------------------------------------------ before the scan

    def _number_of_projections(self) -> int:
        text = self._options.projections
        if text is None:
            raise InputError(
                "how many projections the scan has must be known: --projections NUMBER, or the name of a PV "
                "that holds it (tomoScan's NumAngles)"
            )
        number = float(text) if text.isdigit() else pva.read_number(text, _CONNECT_S)
        if not math.isfinite(number) or number != int(number) or number < 1:
            raise InputError(f"--projections {text} is {number:g}: a whole number of at least 1 is needed")
        return int(number)

    def _known_angles(self) -> FloatArray | None:
        """Return the angles that the user has named, one for each projection; None where none are."""
        text = self._options.angles
        if text is None:
            return None
        if not text.startswith(_PV):
            return angles.from_text(text, self._options.angle_units, self._projections)
        name = text.removeprefix(_PV)
        given = np.array(pva.read_numbers(name, _CONNECT_S))
        if len(given) < self._projections:
            raise InputError(f"the PV {name} has {len(given)} angles; {self._projections} are needed")
        units = "degrees" if self._options.angle_units == "auto" else self._options.angle_units
        return angles.in_radians(given[: self._projections], f"the PV {name}", None, units)

    def _first_update(self) -> pva.Update:
        """Wait for an image: only it tells rows, columns and type."""
        began_s = time.monotonic()
        while not self._monitor.wait(_POLL_S):
            waited_s = time.monotonic() - began_s
            if not self._monitor.connected and waited_s > _CONNECT_S:
                raise ConnectionFailed(pva.no_answer(self._name, waited_s))
            if waited_s > max(_CONNECT_S, self._options.idle_timeout_s):
                raise InputError(
                    f"pva:{self._name} has shown no image for {waited_s:.0f} s, and only an image tells how "
                    "large images are: acquire one, or check that the Pva plugin is enabled"
                )
        return self._monitor.get()

    # ------------------------------------------------------------------ images

    def _constants(self) -> list[tuple[FrameKind, float]]:
        options = self._options
        given = ((FrameKind.DARK_FIELD, options.dark_value), (FrameKind.FLAT_FIELD, options.flat_value))
        return [(kind, value) for kind, value in given if value is not None]

    def _frame(self, update: pva.Update, sequence: int) -> Frame:
        image = decode(update.value)
        if image.pixels.shape != self._shape or pixel_type_of(image.pixels.dtype) != self._pixel_type:
            raise InputError(
                f"frame {image.unique_id} of pva:{self._name} has {image.pixels.shape} pixels of "
                f"{image.pixels.dtype}, the first one had {self._shape}, sent as {self._pixel_type}; "
                "do not change region, binning or type during a scan"
            )
        kind = self._kind(image)
        angle_rad = 0.0
        resets = kind is not FrameKind.PROJECTION and self._last_kind is not kind
        if kind is FrameKind.PROJECTION:
            if self._last_kind is FrameKind.PROJECTION:
                # views stay at their angles when some are missing
                self._counted += update.missing
            angle_rad = self._angle_rad(image, self._counted)
            self._counted += 1
            self._received += 1
        self._last_kind = kind
        pixels = image.pixels.astype(self._pixel_type, copy=False)
        return Frame(sequence=sequence, kind=kind, pixels=pixels, angle_rad=angle_rad, resets=resets)

    def _kind(self, image: DetectorImage) -> FrameKind:
        names = self._attributes.kinds
        if not names:
            return FrameKind.PROJECTION
        for name in names:
            if name in image.attributes:
                value = image.attributes[name]
                kind = _kind_of(value)
                if kind is None:
                    raise InputError(
                        f"frame {image.unique_id}: the attribute {name} is {value!r}, which is no "
                        "projection, flat field or dark field"
                    )
                return kind
        raise self._no_attribute(image, " or ".join(names), "what it is", "--kind-attribute NAME")

    def _angle_rad(self, image: DetectorImage, index: int) -> float:
        wanted = self._attributes
        if self._angles_rad is not None:
            return float(self._angles_rad[min(index, self._projections - 1)])
        if wanted.angle is not None and wanted.angle in image.attributes:
            given = _degrees(image, wanted.angle)
        elif wanted.start in image.attributes and wanted.step in image.attributes:
            given = _degrees(image, str(wanted.start)) + index * _degrees(image, str(wanted.step))
        else:
            raise self._no_attribute(
                image, wanted.angle or "no name", "its angle", "--angle-attribute NAME or --angles 0:180"
            )
        return given if self._options.angle_units == "radians" else math.radians(given)

    def _no_attribute(self, image: DetectorImage, names: str, what: str, option: str) -> InputError:
        there = ", ".join(sorted(image.attributes)) or "none"
        return InputError(
            f"frame {image.unique_id} of pva:{self._name} does not tell {what}: {names} is not among its "
            f"attributes ({there}); {option} helps"
        )


def _degrees(image: DetectorImage, name: str) -> float:
    value = image.attributes[name]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"frame {image.unique_id}: the attribute {name} is {value!r}, not an angle")
    return number


def _kind_of(value: Any) -> FrameKind | None:
    if isinstance(value, int | np.integer):
        return dict(enumerate((FrameKind.PROJECTION, FrameKind.FLAT_FIELD, FrameKind.DARK_FIELD))).get(
            int(value)
        )
    text = str(value).strip().lower()
    for word, kind in (
        ("dark", FrameKind.DARK_FIELD),
        ("flat", FrameKind.FLAT_FIELD),
        ("white", FrameKind.FLAT_FIELD),
        ("proj", FrameKind.PROJECTION),
    ):
        if word in text:
            return kind
    return FrameKind.PROJECTION if text.rstrip("/").endswith("/data") else None
