"""Have there been enough projections? No sockets, no files.

The volume is looked at whenever a twentieth of the scan has been added: at checkpoints. The relative change
from one checkpoint to the next falls while the image converges. It is *calm* when

- three checkpoints in a row change by less than the tolerance, and
- the newest differs from the volume before them by less than one and a half tolerances, so that a slow drift,
  whose steps are each small, is not taken for calm.

A step between one and one and a half tolerances neither counts nor spoils what has been counted: a figure at
the border does not make the answer flicker. Noise that is new in every update keeps the change up: then more
projections do help, and it is not calm.

Calm is enough only after a least share of the scan. A scan in the order as measured has seen nothing of the
angles to come: its image may rest for long, on a wedge of angles, and be wrong. There, the least share is a
half turn. Orders that spread the views over all angles need a quarter of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.kernels.metrics import relative_change
from ministream.sources import ViewOrder

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_CHECKPOINTS = 20
_IN_A_ROW = 3
_HYSTERESIS = 1.5
_SPREAD_SHARE = 0.25


def least_share(order: ViewOrder, range_deg: float) -> float:
    """Return the share of the views before which no image is called good enough.

    Parameters
    ----------
    order : ViewOrder
    range_deg : float
        Angles from the first to the last view; parallel beams need 180 degrees of them.

    Raises
    ------
    InputError
        The range is not positive.
    """
    if not 0 < range_deg < float("inf"):
        raise InputError(f"a scan range of {range_deg:g} degrees: it has to be more than 0")
    if order is not ViewOrder.AS_MEASURED:
        return _SPREAD_SHARE
    return min(1.0, max(_SPREAD_SHARE, 180 / range_deg))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint has shown.

    Parameters
    ----------
    projections : int
    change : float
        Relative to the checkpoint before.
    calm : int
        How many in a row have been below the tolerance.
    enough : bool
    """

    projections: int
    change: float
    calm: int
    enough: bool


class Convergence:
    """Watches a volume grow, and tells when more projections would change it no more.

    Parameters
    ----------
    projections : int
        Of the whole scan.
    tolerance : float
        Relative change, Euclidean norms over the pixels of the mask.
    least : float
        Share of the scan, see `least_share`.

    Attributes
    ----------
    enough_at : int or None
        How many projections were enough; None while they are not, and again when a later checkpoint changes
        by more than one and a half tolerances.

    Raises
    ------
    InputError
        A number is out of its range.
    """

    def __init__(self, projections: int, *, tolerance: float, least: float) -> None:
        if projections < 1 or not 0 < tolerance < 1 or not 0 < least <= 1:
            raise InputError(
                f"{projections} projections, tolerance {tolerance:g}, least share {least:g}: at least 1,"
                " between 0 and 1, and above 0 up to 1 are needed"
            )
        self.enough_at: int | None = None
        self._step = max(1, -(-projections // _CHECKPOINTS))
        self._least = least * projections
        self._tolerance = tolerance
        self._last: FloatArray | None = None
        self._before_calm: FloatArray | None = None
        self._last_at = 0
        self._calm = 0

    def add(self, volume: FloatArray, projections: int, mask: Mask | None = None) -> Checkpoint | None:
        """Look at a volume of so many projections; return what it shows if it is a checkpoint.

        Parameters
        ----------
        volume : (slice, y, x) float32
            Kept, and not to be changed afterwards.
        projections : int
        mask : (y, x) bool, optional
        """
        if self._last is not None and projections < self._last_at + self._step:
            return None
        previous, self._last, self._last_at = self._last, volume, projections
        if previous is None:
            return None
        change = relative_change(volume, previous, mask)
        self._count(volume, previous, change, mask)
        if change > _HYSTERESIS * self._tolerance:
            self.enough_at = None
        elif self.enough_at is None and self._calm >= _IN_A_ROW and projections >= self._least:
            self.enough_at = projections
        return Checkpoint(
            projections=projections, change=change, calm=self._calm, enough=self.enough_at is not None
        )

    def _count(self, volume: FloatArray, previous: FloatArray, change: float, mask: Mask | None) -> None:
        limit = _HYSTERESIS * self._tolerance
        if change > limit:
            self._calm, self._before_calm = 0, None
        elif change <= self._tolerance:
            if self._before_calm is not None and relative_change(volume, self._before_calm, mask) > limit:
                # it drifts: begin again from here
                self._calm, self._before_calm = 0, None
            self._before_calm = previous if self._before_calm is None else self._before_calm
            self._calm += 1
