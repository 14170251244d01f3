"""Filtered back projection, view by view: an image from whatever views there are so far.

The image is ::

    x(y, x) = Σ_v w_v q_v(u),      q_v = b_v filtered by the ramp |frequency|

with the detector position u of the pixel, q_v interpolated there, and the angular weights w_v, in radians, of
the views there are [1]_. Back projection is by `ministream.kernels.sheared_rows.interpolate_to_lines`: with
the matched A^T, images of a phantom of 129 and 257 columns were up to a fifth further from the truth than
scikit-image's, with interpolation at most 8 %, mostly 1 %.

Each view is back-projected once when it
comes, and again by the difference when its weight changes because a neighbour has come. So an image costs no
iterations, and a new view no more than about three back projections: this is what a first image within a
second is made with.

What this module holds: the filters, the weights, and which weight each view has in the image.
`ministream.kernels.sirt.SirtEngine.add_filtered` puts them together with the measurements.

References
----------
.. [1] A. C. Kak, M. Slaney: Principles of Computerized Tomographic Imaging. IEEE Press (1988), chapter 3.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ministream.kernels.shear import IndexArray

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

FILTERS = ("ramp", "shepp-logan", "cosine", "hamming", "hann")
"""The ramp alone, and with windows that lower its high frequencies more and more, and with them the noise."""


def filter_rows(rows: Float32Array, filter_name: str = "shepp-logan", *, threads: int = 1) -> Float32Array:
    """Return the rows, filtered for back projection.

    The ramp is that of detector columns of finite width: the Fourier transform of its samples in space, as
    Kak and Slaney (equation 61 of their chapter 3) derive them, so that the mean of an image is right.

    Parameters
    ----------
    rows : (..., column) float32
        Attenuation. Beyond its ends a row goes on with its end values, which fade into each other. So a
        sample wider than the detector does not give the bright rim that an abrupt end does; of one that
        fits, the ends are zero.
    filter_name : str
        One of `FILTERS`.
    threads : int
        Threads to transform with.

    Returns
    -------
    (..., column) float32
        Attenuation per column. A new array.

    Raises
    ------
    ValueError
        The filter is unknown.
    """
    # late, because whoever only iterates should not wait for it
    from scipy import fft

    columns = rows.shape[-1]
    size, response = _response(columns, filter_name)
    padded = np.empty((*rows.shape[:-1], size), np.float32)
    padded[..., :columns] = rows
    fade = np.linspace(0, 1, size - columns + 2, dtype=np.float32)[1:-1]
    padded[..., columns:] = rows[..., -1:] * (1 - fade) + rows[..., :1] * fade
    spectrum = fft.rfft(padded, axis=-1, workers=threads)
    spectrum *= response
    filtered: Float32Array = fft.irfft(spectrum, size, axis=-1, overwrite_x=True, workers=threads)
    return np.ascontiguousarray(filtered[..., :columns])


def angular_weights(angles_rad: Float64Array) -> Float64Array:
    """Return how much of the half turn each view stands for.

    Half of the gap to the next direction on either side; a view and one from the opposite side have the same
    direction. The largest gap counts as no wider than the second largest: while a scan goes on, it is what
    has not been measured yet, and the views at its ends cannot stand for all of it.

    Parameters
    ----------
    angles_rad : (view,) float64
        In any order.

    Returns
    -------
    (view,) float64
        In radians; their sum is π, or less while there is a gap.

    Examples
    --------
    >>> import numpy as np
    >>> np.rad2deg(angular_weights(np.deg2rad([0.0, 45.0, 90.0, 135.0]))).round().tolist()
    [45.0, 45.0, 45.0, 45.0]
    >>> np.rad2deg(angular_weights(np.deg2rad([20.0, 0.0, 10.0]))).round().tolist()
    [10.0, 10.0, 10.0]
    """
    count = len(angles_rad)
    directions = np.mod(np.asarray(angles_rad, np.float64), math.pi)
    order = np.argsort(directions, kind="stable")
    gaps = np.diff(directions[order], append=directions[order[:1]] + math.pi)
    if count > 1:
        second, largest = np.partition(gaps, count - 2)[-2:]
        if second > 0:
            gaps[np.argmax(gaps)] = min(second, largest)
    weights = np.empty(count)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


class WeightLedger:
    """Which angular weight each view has in an image, so that only changes need to be back-projected.

    Views are numbered as they come, 0, 1, 2 and so on.

    Examples
    --------
    >>> import numpy as np
    >>> ledger = WeightLedger()
    >>> views, changes = ledger.update(np.deg2rad([0.0, 90.0]))
    >>> views.tolist(), np.rad2deg(changes).round().tolist()
    ([0, 1], [90.0, 90.0])
    >>> views, changes = ledger.update(np.deg2rad([0.0, 90.0, 45.0, 135.0]))
    >>> views.tolist(), np.rad2deg(changes).round().tolist()
    ([0, 1, 2, 3], [-45.0, -45.0, 45.0, 45.0])
    """

    def __init__(self) -> None:
        self._weights = np.zeros(0)

    @property
    def weights(self) -> Float64Array:
        """(view,) float64: what each view has in the image, in radians. A copy."""
        return self._weights.copy()

    def update(
        self, angles_rad: Float64Array, held: npt.NDArray[np.bool_] | None = None
    ) -> tuple[IndexArray, Float64Array]:
        """Return which views' weights change now that there are these views, and by how much.

        They count as back-projected from then on.

        Parameters
        ----------
        angles_rad : (view,) float64
            Of all views so far: those of the call before, and new ones behind them.
        held : (view,) bool, optional
            Views whose measurements are still there. What the others have in the image stays, and nothing
            is returned for them.

        Returns
        -------
        views : (k,) intp
        changes : (k,) float64
            In radians.

        Raises
        ------
        ValueError
            There are fewer views than before.
        """
        before = len(self._weights)
        if len(angles_rad) < before:
            raise ValueError(f"{len(angles_rad)} views after {before}: those of before are missing")
        weights = angular_weights(angles_rad)
        known = np.concatenate([self._weights, np.zeros(len(weights) - before)])
        if held is not None:
            weights = np.where(held, weights, known)
        changes = weights - known
        # what rounding leaves is no change
        views = np.flatnonzero(np.abs(changes) > 1e-9)
        known[views] = weights[views]
        self._weights = known
        return views, changes[views]

    def clear(self) -> None:
        """Begin anew: the image is empty."""
        self._weights = np.zeros(0)


@lru_cache(maxsize=16)
def _response(columns: int, filter_name: str) -> tuple[int, Float32Array]:
    """Return the length to transform, and the filter's values at its frequencies."""
    from scipy import fft

    if filter_name not in FILTERS:
        raise ValueError(f"filter {filter_name!r} is not one of {', '.join(FILTERS)}")
    size = int(fft.next_fast_len(2 * columns, real=True))
    place = np.arange(size)
    away = np.minimum(place, size - place)
    ramp = np.zeros(size)
    ramp[0] = 0.25
    odd = away % 2 == 1
    ramp[odd] = -1 / (math.pi * away[odd]) ** 2
    frequency = np.arange(size // 2 + 1) / size
    window = {
        "ramp": np.ones_like(frequency),
        "shepp-logan": np.sinc(frequency),
        "cosine": np.cos(math.pi * frequency),
        "hamming": 0.54 + 0.46 * np.cos(2 * math.pi * frequency),
        "hann": 0.5 + 0.5 * np.cos(2 * math.pi * frequency),
    }[filter_name]
    response = (np.fft.rfft(ramp).real * window).astype(np.float32)
    response.flags.writeable = False
    return size, response
