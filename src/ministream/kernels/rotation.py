"""Find the rotation centre of a scan from its sinogram, and say when that cannot be trusted.

The measure of a candidate is algotom's: how much of the Fourier transform of the sinogram, completed to 360
degrees about that candidate, lies in the wedges where a true sinogram has nothing [1]_. Around it this module
puts what a scan that is still running needs: any order of the angles, a search whose cost does not grow with
the number of views, a position between the steps, and a refusal where the views do not cover 180 degrees or
no candidate stands out.

Convention: the centre is a detector column, counted from 0 at the middle of the first one; a centred scan has
``(columns - 1) / 2``.

References
----------
.. [1] Vo, Drakopoulos, Atwood, Reinhard: Reliable method for calculating the center of rotation in
   parallel-beam tomography. Optics Express 22 (2014) 19078.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

LARGEST_GAP_RAD = math.radians(7.0)
"""Views further apart than this do not count as covering the angles between."""
LEAST_DEPTH = 0.1
"""How far the best candidate's measure must lie below the median of all, relative to that median.

A Shepp-Logan head of 32 to 180 views gave 0.85 without noise, 0.35 to 0.65 with 1,000 counts, 0.15 to 0.45
with 200; the tooth 0.82 to 0.86; noise alone 0.02.
"""
LARGEST_MISMATCH = 2.0
"""How much more the views at both ends of the half turn may differ than any neighbours do."""
_ROWS_AT_LEAST = 128
_COARSE_COLUMNS = 128
_FINE_STEP = 0.25
_BLUR_COLUMNS = 1.0
# ratio of the sample's radius to half the detector's width that the wedge is made for; algotom's default
_RATIO = 0.5


class NotTrusted(ValueError):
    """The sinogram does not determine the rotation centre; the message says why."""


def find_rotation_center(sinogram: FloatArray, angles_rad: npt.NDArray[np.float64]) -> float:
    """Return the detector column onto which the rotation axis projects.

    Measured on a Shepp-Logan head of 256 columns, 32 to 90 views, from several first angles: within 0.06
    columns without noise, 0.16 with 1,000 counts in the open beam, 0.4 with 200.

    Parameters
    ----------
    sinogram : (angle, column) float32
        Attenuation of one slice.
    angles_rad : (angle,) float64
        In any order, over 180 degrees or more. Of more, the best 180 degrees are used.

    Returns
    -------
    float
        Column index, within a sixth of the width from the middle.

    Raises
    ------
    NotTrusted
        The views leave a gap in 180 degrees, no candidate within the range stands out, or the best one
        contradicts the data.
    ValueError
        The shapes do not fit.
    """
    if sinogram.ndim != 2 or angles_rad.shape != sinogram.shape[:1]:
        raise ValueError(f"sinogram {sinogram.shape} and angles {angles_rad.shape} do not fit")
    columns = sinogram.shape[1]
    if columns < 16:
        raise NotTrusted(f"{columns} columns are too few")
    half_turn = _evenly_spread(sinogram, angles_rad)

    binning = max(1, columns // _COARSE_COLUMNS)
    coarse = half_turn[:, : columns // binning * binning].reshape(len(half_turn), -1, binning).mean(axis=2)
    width = coarse.shape[1]
    furthest = width // 6
    candidates = np.arange((width - 1) // 2 - furthest, width // 2 + furthest + 1, dtype=np.float64)
    measures = _measures(coarse, candidates)
    best = int(np.argmin(measures))
    median = float(np.median(measures))
    depth = (median - float(measures[best])) / median if median > 0 else 0.0
    if depth < LEAST_DEPTH or best in (0, len(candidates) - 1):
        raise NotTrusted(
            f"no rotation centre stands out within {furthest * binning} columns of the middle"
            f" (best candidate {candidates[best] * binning:g}, depth {depth:.2f}, {LEAST_DEPTH} is needed)"
        )

    center: float = candidates[best] * binning + (binning - 1) / 2
    for reach, step in ((binning + 1.0, 1.0), (1.0, _FINE_STEP)):
        candidates = np.arange(center - reach, center + reach + step / 2, step)
        center = _minimum(candidates, _measures(half_turn, candidates))
    mismatch = _mismatch(half_turn, center)
    if mismatch > LARGEST_MISMATCH:
        raise NotTrusted(
            f"the best candidate, column {center:.1f}, does not close the half turn: the first view, mirrored"
            f" there, differs from the last {mismatch:.1f} times as much as neighbours do"
        )
    return center


def find_common_rotation_center(
    sinograms: FloatArray, angles_rad: npt.NDArray[np.float64], *, most_rows: int = 3
) -> float:
    """Return the median of the centres found in those detector rows that show the most of the object.

    Parameters
    ----------
    sinograms : (angle, row, column) float32
        Attenuation; a view.
    angles_rad : (angle,) float64
    most_rows : int
        How many rows to look at; the time is proportional to it.

    Raises
    ------
    NotTrusted
        Not one of these rows determines a centre; the message is that of the last one.
    ValueError
        The shapes do not fit.
    """
    if sinograms.ndim != 3:
        raise ValueError(f"sinograms {sinograms.shape} must have the axes (angle, row, column)")
    # what changes while the sample turns tells where the axis is; what stays does not
    contrast = sinograms.std(axis=0).mean(axis=1)
    found = []
    failure = NotTrusted("no detector row was given")
    for row in np.argsort(contrast)[::-1][:most_rows]:
        try:
            found.append(find_rotation_center(sinograms[:, row], angles_rad))
        except NotTrusted as error:
            failure = error
    if not found:
        raise failure
    return float(np.median(found))


def _evenly_spread(sinogram: FloatArray, angles_rad: npt.NDArray[np.float64]) -> FloatArray:
    """Return 180 degrees of a sinogram at evenly spread angles, interpolated where they are not.

    The number of rows is one that the Fourier transform likes: at 181 views (twice a prime, after
    completion) it takes five times as long as at 180.
    """
    turn = np.mod(angles_rad, 2 * math.pi)
    order = np.argsort(turn, kind="stable")
    turn = turn[order]
    gaps = np.diff(turn, append=turn[:1] + 2 * math.pi)
    # behind the largest gap begins what was measured; in a full turn any view will do
    first = (int(np.argmax(gaps)) + 1) % len(turn)
    turn = np.mod(np.roll(turn, -first) - turn[first], 2 * math.pi)
    order = np.roll(order, -first)
    inside = turn < math.pi - 1e-6
    turn, order = turn[inside], order[inside]
    gap = float(np.diff(turn, append=math.pi).max())
    if gap > LARGEST_GAP_RAD:
        raise NotTrusted(
            f"{len(angles_rad)} views leave a gap of {math.degrees(gap):.1f} degrees in 180;"
            f" at most {math.degrees(LARGEST_GAP_RAD):.0f} can be allowed"
        )
    # the row that follows the last one is the first one, mirrored. So that the step to it is like all others,
    # and nothing has to be made up beyond the last view, there cannot be more rows than this
    rows = int(math.pi / (math.pi - turn[-1]) + 1e-6)
    rows = min(rows, len(turn), max(_ROWS_AT_LEAST, sinogram.shape[1] // 4))
    while not _is_smooth(rows):
        rows -= 1
    wanted = np.arange(rows) * (math.pi / rows)
    above = np.clip(np.searchsorted(turn, wanted), 1, len(turn) - 1)
    step = turn[above] - turn[above - 1]
    weight = np.divide(wanted - turn[above - 1], step, out=np.zeros(rows), where=step > 0)
    weight = weight.astype(np.float32)[:, np.newaxis]
    spread: FloatArray = (1 - weight) * sinogram[order[above - 1]] + weight * sinogram[order[above]]
    return spread


def _is_smooth(number: int) -> bool:
    """Tell whether 2, 3 and 5 are the only prime factors."""
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


def _measures(sinogram: FloatArray, candidates: npt.NDArray[np.float64]) -> FloatArray:
    """Return algotom's measure for each candidate; the true centre has the smallest.

    Called directly, not by its `find_center_vo`. That gives only the position, so that nothing tells a centre
    from noise. And it smooths along the angles, wrongly at the first and last: on coarsely spaced views the
    centre is then off by up to a column, depending on the angle at which the scan begins.
    """
    from algotom.prep.calculation import calculate_center_metric, make_inverse_double_wedge_mask

    rows, columns = sinogram.shape
    mask = make_inverse_double_wedge_mask(2 * rows, columns, 0.5 * _RATIO * columns)
    # a Gaussian filter along the columns, applied where it is a factor
    frequency = np.fft.fftshift(np.fft.fftfreq(columns))
    mask *= np.exp(-2 * (math.pi * _BLUR_COLUMNS * frequency) ** 2).astype(np.float32)
    mirrored, opposite = np.fliplr(sinogram), np.flipud(sinogram)
    return np.array(
        [calculate_center_metric(center, sinogram, mirrored, opposite, mask) for center in candidates],
        np.float32,
    )


def _mismatch(half_turn: FloatArray, center: float) -> float:
    """Return how much the step from the last view to the first, mirrored, exceeds that between neighbours."""
    columns = np.arange(half_turn.shape[1])
    mirrored_at = 2 * center - columns
    both = (mirrored_at >= 0) & (mirrored_at <= columns[-1])
    closing = np.interp(mirrored_at[both], columns, half_turn[0]) - half_turn[-1, both]
    usual = np.diff(half_turn[:, both], axis=0)
    return float(np.linalg.norm(closing)) / max(float(np.linalg.norm(usual, axis=1).max()), 1e-30)


def _minimum(positions: npt.NDArray[np.float64], values: FloatArray) -> float:
    """Return the place of the minimum, between the positions by the parabola through the least three."""
    least = int(np.argmin(values))
    if not 0 < least < len(values) - 1:
        return float(positions[least])
    left, middle, right = (float(value) for value in values[least - 1 : least + 2])
    curvature = left - 2 * middle + right
    if curvature <= 0:
        return float(positions[least])
    step = float(positions[1] - positions[0])
    return float(positions[least]) + 0.5 * step * (left - right) / curvature


def warm_up() -> None:
    """Import what finding a centre needs: a second that should not fall into the stream."""
    _measures(np.zeros((4, 16), np.float32), np.array([7.5]))
