"""Take zingers off the views of a scan as they come: each is compared with those next to it by then."""

from __future__ import annotations

import bisect
import math

import numpy as np
import numpy.typing as npt

from ministream.kernels.zingers import remove_zingers

FloatArray = npt.NDArray[np.float32]

_TURN = 2 * math.pi


class ZingerRemover:
    """Knows which of the views so far are next to a new one.

    Parameters
    ----------
    views : (projection, row, column) float32
        Attenuation of all views of the scan; kept, not copied.
    angles_rad : (projection,) float64
    count : int
        How many views are there already.
    threshold : float
        See `ministream.kernels.zingers`.

    Attributes
    ----------
    removed : int
        Pixels so far.
    """

    def __init__(
        self, views: FloatArray, angles_rad: npt.NDArray[np.float64], *, count: int, threshold: float
    ) -> None:
        self.removed = 0
        self._views = views
        self._threshold = threshold
        self._by_angle = sorted((float(angles_rad[view]) % _TURN, view) for view in range(count))

    def clean(self, view: FloatArray, angle_rad: float, number: int) -> None:
        """Take the zingers off a view that will be number `number`, in place.

        The first one of a scan has nothing beside it, and stays as it is.
        """
        place = (angle_rad % _TURN, number)
        others = self._by_angle
        if others:
            at = bisect.bisect(others, place)
            # a full turn closes; where less was measured, both ends are far apart and compared all the same:
            # a zinger stands out of its own view, too
            before, after = others[at - 1][1], others[at % len(others)][1]
            self.removed += remove_zingers(view, self._views[before], self._views[after], self._threshold)
        bisect.insort(others, place)
