"""A synthetic detector: photons in, counts out, with the faults that corrections are for.

Counts are ``offset + gain × response × photons + read-out noise``, rounded, and limited to the pixel type's
range. Photons are Poisson numbers. The response differs from pixel to pixel, and the beam from column to
column; both are in the flat fields, and leave with them. Some pixels respond differently by the time of the
projections: these are not, and make rings. Dead pixels give no count at all, in no frame. Zingers are pixels
that a scattered photon or particle hits in one frame: they give nearly the largest count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_DARK, _FLAT, _PROJECTION, _FIXED, _DEAD, _ZINGERS = range(6)
# in the open beam, of the largest count
_OPEN_BEAM = 0.6
_OFFSET = 0.005
_READ_OUT_NOISE = 0.0002
_RESPONSE_SPREAD = 0.03
_BEAM_DROP = 0.25
_RING_SHARE = 0.04
# a zinger's count, of the largest one
_ZINGER_LEAST = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorOptions:
    """What a detector is made with; the names are those of `ministream.sources.phantom.PhantomOptions`."""

    rows: int
    columns: int
    photons: float
    rings: float
    pixel_type: str
    seed: int
    zingers: float = 0.0
    dead_pixels: int = 0


class Detector:
    """Gives frames; the same one for the same index, in whatever order they are asked for.

    Parameters
    ----------
    options : DetectorOptions
    """

    def __init__(self, options: DetectorOptions) -> None:
        self.options = options
        shape = options.rows, options.columns
        random = self._random(_FIXED, 0)
        self._most = 255.0 if options.pixel_type == "uint8" else 65535.0
        self._offset = _OFFSET * self._most * random.uniform(0.5, 1.5, shape)
        across = np.linspace(-1, 1, options.columns)
        beam = 1 - _BEAM_DROP * (across - 0.2) ** 2
        self._response = beam * np.clip(random.normal(1, _RESPONSE_SPREAD, shape), 0.5, 1.5)
        changed = random.random(shape) < _RING_SHARE
        self._change = 1 + options.rings * changed * random.choice([-1.0, 1.0], shape)
        # other random numbers: whoever asks for dead pixels gets the same frames otherwise
        self._dead = self._random(_DEAD, 0).permutation(options.rows * options.columns)[: options.dead_pixels]

    def dark_field(self, index: int) -> npt.NDArray[Any]:
        """Return a frame without beam, (row, column)."""
        return self._counts(np.zeros_like(self._offset), _DARK, index)

    def flat_field(self, index: int, *, beam: float = 1.0) -> npt.NDArray[Any]:
        """Return a frame with the open beam, (row, column), of a `beam` so bright."""
        return self._counts(beam * self._response, _FLAT, index)

    def projection(
        self, index: int, transmission: npt.NDArray[np.float64], *, beam: float = 1.0
    ) -> npt.NDArray[Any]:
        """Return a frame behind an object.

        Parameters
        ----------
        index : int
        transmission : (row, column) float64
            Which part of the beam the object lets through.
        beam : float
            How bright the beam is by now, relative to the beginning.
        """
        return self._counts(beam * transmission * self._response * self._change, _PROJECTION, index)

    def _counts(self, brightness: npt.NDArray[np.float64], kind: int, index: int) -> npt.NDArray[Any]:
        random = self._random(kind, index)
        photons = random.poisson(brightness * self.options.photons)
        counts = photons * (_OPEN_BEAM * self._most / self.options.photons)
        counts += self._offset
        counts += random.normal(0, _READ_OUT_NOISE * self._most, counts.shape)
        if self.options.zingers:
            self._hit(counts, kind, index)
        counts.reshape(-1)[self._dead] = 0.0
        if self.options.pixel_type != "float32":
            np.rint(counts, out=counts)
        frame: npt.NDArray[Any] = np.clip(counts, 0, self._most).astype(self.options.pixel_type)
        return frame

    def _hit(self, counts: npt.NDArray[Any], kind: int, index: int) -> None:
        """Add zingers in place; as many as chance has it, about the number that is asked for."""
        random = np.random.default_rng([self.options.seed, _ZINGERS, kind, index])
        pixels = random.integers(0, counts.size, random.poisson(self.options.zingers))
        counts.reshape(-1)[pixels] = random.uniform(_ZINGER_LEAST, 1.0, pixels.size) * self._most

    def _random(self, kind: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.options.seed, kind, index])
