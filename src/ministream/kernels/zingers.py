"""Find zingers: pixels that a stray photon or particle has made too bright, in one view alone.

The removal itself is algotom's, on a sinogram: a pixel is a zinger if it is brighter than the mean of those
around it, in column *and* angle, by more than a threshold [1]_. A sinogram that is still filling may have
nothing near in angle, and there the object's edges look the same. So a pixel is looked at only if it also
stands out of its own view, above the noise there; and not if it is as bright in both views beside it, because
that mean is over so few pixels that a crack, seen along its length, would be a zinger. What is found is
interpolated along the columns, not replaced by that mean: views far away in angle say nothing of its value.

References
----------
.. [1] Vo, Atwood, Drakopoulos, Connolley: Data processing methods and data acquisition for samples larger
   than the field of view in parallel-beam tomography. Optics Express 29 (2021) 17849,
   doi:10.1364/OE.418448.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

THRESHOLD = 0.08
"""How much brighter a zinger is; algotom recommends 0.05 to 0.1."""
_REACH = 2
"""Columns to the pixels that are compared: zingers of up to two pixels are found."""
_NOISE_FACTOR = 8.0
"""A pixel below so many standard deviations of its row's noise is not looked at."""
_NOISE_SAMPLES = 128
"""Columns that the noise of a row is told from, about."""
_MAD = 1.4826
_LARGEST = 50.0
"""Attenuation above it counts as this: the exponential would be 0, which cannot be compared."""


def remove_zingers(
    view: FloatArray, before: FloatArray, after: FloatArray, threshold: float = THRESHOLD
) -> int:
    """Interpolate the zingers of a view, in place; return how many pixels they are.

    Parameters
    ----------
    view : (row, column) float32
        Attenuation. Changed where there are zingers.
    before, after : (row, column) float32
        Attenuation of the views that are next in angle, on either side; the same one where there is but one.
    threshold : float
        How much brighter than its surroundings a zinger is, as a part of their brightness.

    Raises
    ------
    ValueError
        The shapes differ, or the threshold is not above 0.
    """
    if not view.shape == before.shape == after.shape or view.ndim != 2:
        raise ValueError(f"views of shapes {view.shape}, {before.shape} and {after.shape} do not fit")
    if not threshold > 0:
        raise ValueError(f"a threshold of {threshold:g} is not above 0")
    if view.shape[1] <= 2 * _REACH:
        return 0
    count = 0
    standing_out = _standing_out(view, threshold)
    for row in np.flatnonzero(standing_out.any(axis=1)):
        zingers = standing_out[row] & _in_sinogram(view[row], before[row], after[row], threshold)
        found = np.flatnonzero(zingers)
        if found.size:
            good = np.flatnonzero(~zingers)
            view[row, found] = np.interp(found, good, view[row, good])
            count += found.size
    return count


def _standing_out(view: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which pixels are brighter than those `_REACH` columns to the left and right, (row, column)."""
    left, middle, right = view[:, : -2 * _REACH], view[:, _REACH:-_REACH], view[:, 2 * _REACH :]
    # a row's edges and zingers are few; the middle of the differences is noise, and some of them tell it
    some = slice(None, None, max(1, middle.shape[1] // _NOISE_SAMPLES))
    differences = np.abs(middle[:, some] - (left[:, some] + right[:, some]) / 2)
    noise = _MAD / np.sqrt(1.5) * np.median(differences, axis=1, keepdims=True)
    least = np.maximum(np.log1p(threshold), _NOISE_FACTOR * noise).astype(np.float32)
    # at the edges of the detector there is nothing to compare with
    found = np.zeros(view.shape, np.bool_)
    brighter_by = np.minimum(left, right)
    brighter_by -= middle
    np.greater(brighter_by, least, out=found[:, _REACH:-_REACH])
    return found


def _in_sinogram(
    view: FloatArray, before: FloatArray, after: FloatArray, threshold: float
) -> npt.NDArray[np.bool_]:
    """Return which pixels algotom calls zingers in the sinogram of three views, (column,)."""
    # late, because it takes a second, which a program that only prints its help should not wait for
    from algotom.prep.removal import remove_zinger

    # it compares with rows and columns at the distance of the zinger's size
    sinogram = np.exp(-np.minimum([before, before, view, after, after], _LARGEST))
    found: npt.NDArray[np.bool_] = remove_zinger(sinogram, threshold, size=_REACH)[2] != sinogram[2]
    # what is in the object may move by a column from one view to the next
    beside = np.maximum(_brightest_near(before), _brightest_near(after))
    found &= view < beside - np.log1p(threshold)
    return found


def _brightest_near(view: FloatArray) -> FloatArray:
    """Return the least attenuation of each column and those next to it, (column,)."""
    padded = np.pad(view, 1, mode="edge")
    return np.minimum(np.minimum(padded[:-2], padded[2:]), view)


def warm_up() -> None:
    """Import what finding zingers needs: a second that should not fall into the stream."""
    empty = np.zeros(2 * _REACH + 1, np.float32)
    _in_sinogram(empty, empty, empty, THRESHOLD)
