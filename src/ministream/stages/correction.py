"""Correct projections by the dark and flat fields that came before them.

A stream of frames goes through one `Corrector`, in order. It does not wait for fields, or guess them.
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.kernels.normalize import transmission_to_attenuation

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]


_LEAST_TO_TRIM = 5
"""Frames of a kind, from which on a pixel's brightest and darkest are left out of its mean."""


class FieldMean:
    """The mean of the frames of one kind, of the newest set.

    Of five frames or more, each pixel's brightest and darkest one are left out: one zinger in a field would
    otherwise be in every projection.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    trimmed : bool
        False takes all of them.
    """

    def __init__(self, shape: tuple[int, int], *, trimmed: bool = True) -> None:
        self.count = 0
        self._trimmed = trimmed
        self._sums = np.zeros((3, *shape), np.float64)
        self._mean: FloatArray | None = None

    def add(self, pixels: npt.NDArray[np.generic], *, resets: bool) -> None:
        """Take one more frame into the mean; begin anew with it if it `resets` the set."""
        total, least, most = self._sums
        if resets or self.count == 0:
            self.count = 0
            self._sums[:] = pixels
        else:
            np.add(total, pixels, out=total, casting="unsafe")
            np.minimum(least, pixels, out=least, casting="unsafe")
            np.maximum(most, pixels, out=most, casting="unsafe")
        self.count += 1
        self._mean = None

    @property
    def sums(self) -> npt.NDArray[np.float64]:
        """Sum, least and most of the frames, (3, row, column) float64; a view."""
        return self._sums

    def restore(self, count: int, sums: npt.NDArray[np.float64]) -> None:
        """Go on from `count` frames with these `sums`; copied."""
        self.count = count
        self._sums[:] = sums
        self._mean = None

    @property
    def mean(self) -> FloatArray:
        """(row, column) float32; 0 where no frame has come."""
        if self._mean is None:
            total, least, most = self._sums
            if self._trimmed and self.count >= _LEAST_TO_TRIM:
                self._mean = ((total - least - most) / (self.count - 2)).astype(np.float32)
            else:
                self._mean = (total / max(self.count, 1)).astype(np.float32)
        return self._mean


class Corrector:
    """Turns the projections of a stream into attenuation.

    Parameters
    ----------
    description : ScanDescription
        Of the scan; every frame must fit it.
    trimmed : bool
        Leave extremes out of the means of the fields, see `FieldMean`.

    Attributes
    ----------
    invalid_pixels : int
        How many pixels had no attenuation so far, and were interpolated.
    """

    def __init__(self, description: ScanDescription, *, trimmed: bool = True) -> None:
        self._shape = (description.rows, description.columns)
        self.flat_fields = FieldMean(self._shape, trimmed=trimmed)
        self.dark_fields = FieldMean(self._shape, trimmed=trimmed)
        self.invalid_pixels = 0
        self._warned = False
        self._projections = 0

    def take(self, frame: Frame) -> FloatArray | None:
        """Return a projection's attenuation, (row, column) float32; None for a flat or dark field.

        Raises
        ------
        InputError
            The frame has another shape than the scan, or it is a projection that no flat field precedes.
        """
        if frame.pixels.shape != self._shape:
            raise InputError(
                f"frame {frame.sequence} has {frame.pixels.shape} pixels; the scan was announced with"
                f" {self._shape}"
            )
        match frame.kind:
            case FrameKind.FLAT_FIELD:
                self.flat_fields.add(frame.pixels, resets=frame.resets)
                return None
            case FrameKind.DARK_FIELD:
                self.dark_fields.add(frame.pixels, resets=frame.resets)
                return None
            case FrameKind.PROJECTION:
                return self._attenuation(frame)

    def _attenuation(self, frame: Frame) -> FloatArray:
        if self.flat_fields.count == 0:
            raise InputError(
                f"frame {frame.sequence} is a projection, and no flat field has come before it;"
                " without one there is no attenuation: record flat fields first"
            )
        if self.dark_fields.count == 0 and not self._warned:
            self._warned = True
            logger.warning("no dark field has come: it is taken to be 0")
        if self._projections == 0 and not (self.flat_fields.mean > self.dark_fields.mean).any():
            raise InputError(
                "the flat fields are nowhere brighter than the dark fields; are both what they are called, "
                "and was the beam on?"
            )
        self._projections += 1
        attenuation, n_invalid = transmission_to_attenuation(
            frame.pixels, self.dark_fields.mean, self.flat_fields.mean
        )
        if n_invalid:
            self.invalid_pixels += n_invalid
            logger.debug("frame %d: %d invalid pixels interpolated", frame.sequence, n_invalid)
        return attenuation
