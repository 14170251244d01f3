"""Denoising by total variation: the proximal step of reconstructions that expect few edges.

It replaces an image v by the x that minimizes ::

    1/2 |x - v|² + weight · TV(x),      x ≥ 0 if wanted, x = 0 outside the support

TV is the sum of the gradient's length over the pixels (isotropic), from forward differences; it counts no
difference across the border of the support, so that a sample that reaches it is not pulled to zero there.
The minimum is approached by fast gradient projection on the dual problem [1]_: a few steps do for a proximal
step inside a reconstruction, some tens for an image by itself.

Each step reads a pixel's neighbours, so that k steps read pixels up to k away. Therefore an image is worked
on in tiles with a border of k pixels, all steps of a tile at once: it stays in the second-level cache, and
the result is the same as if each step had gone over the whole image.

References
----------
.. [1] A. Beck, M. Teboulle, "Fast gradient-based algorithms for constrained total variation image denoising
   and deblurring problems", IEEE Trans. Image Processing 18 (2009) 2419-2434,
   doi:10.1109/TIP.2009.2028250: algorithm FGP.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from ministream.kernels.sheared_rows import Float32Array, kernel, parallel_kernel
from ministream.kernels.support import support_limits
from ministream.kernels.threads import usable_threads, using_threads

TILE_ROWS = 96
"""Rows of a tile without its border. With `TILE_COLUMNS` and a border of 10 it needs 0.6 MiB."""

TILE_COLUMNS = 256

_U = np.uintp
_ONE = np.uintp(1)
_ZERO = np.float32(0)
_UNIT = np.float32(1)


def total_variation_prox(
    volume: Float32Array,
    weight: float,
    *,
    steps: int = 10,
    nonnegative: bool = True,
    support: str = "circle",
    threads: int | None = None,
) -> None:
    """Denoise each slice by itself, in place.

    Parameters
    ----------
    volume : (slice, N, N) float32
        Contiguous. Pixels outside the support stay as they are.
    weight : float
        How much a unit of variation costs; in the unit of the image. 0 leaves only what is positive, if that
        is asked for.
    steps : int
        Steps on the dual problem.
    nonnegative : bool
        No pixel may be negative.
    support : {'circle', 'square'}
        Where the slices may differ from zero, as for `ministream.kernels.sirt.SirtEngine`.
    threads : int, optional
        At most so many threads; default: one for each core that this process may use.

    Notes
    -----
    Memory: a copy of as many slices as there are threads, and a tile for each thread.

    Raises
    ------
    ValueError
        The volume is not what is needed, the weight is negative or not finite, or there is no step.
    """
    if volume.ndim != 3 or volume.shape[1] != volume.shape[2] or volume.dtype != np.float32:
        raise ValueError(f"slices of shape {volume.shape}, {volume.dtype}: (slice, N, N) float32 is needed")
    if not volume.flags.c_contiguous:
        raise ValueError("the slices do not lie one behind the other in memory")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight is {weight}: a finite one, not below 0, is needed")
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 is needed")
    slices, columns = volume.shape[:2]
    workers = usable_threads(threads)
    flat = volume.reshape(slices, columns * columns)
    if weight == 0:
        if nonnegative:
            np.maximum(flat, 0, out=flat)
        return
    room = np.empty((workers, 5, _tile_size(columns, steps)), np.float32)
    lines = np.empty((workers, 4, min(TILE_COLUMNS + 2 * steps, columns) + 2), np.float32)
    momenta = _momenta(steps)
    limits = support_limits(columns, support)
    copy = np.empty((min(slices, workers), columns * columns), np.float32)
    with using_threads(workers):
        for first in range(0, slices, workers):
            block = flat[first : first + workers]
            before = copy[: len(block)]
            before[:] = block
            _prox_block(before, limits, np.float32(weight), momenta, nonnegative, room, lines, block)


def warm_up(threads: int | None = None) -> None:
    """Compile the kernels, or load them if they were compiled before."""
    total_variation_prox(np.zeros((1, 16, 16), np.float32), 1.0, steps=2, threads=threads)


def _momenta(steps: int) -> Float32Array:
    """Return how far each step's result is extrapolated for the next."""
    momenta = np.empty(steps, np.float32)
    t = 1.0
    for step in range(steps):
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        momenta[step] = (t - 1) / following
        t = following
    return momenta


def _tile_size(columns: int, steps: int) -> int:
    """Return the elements of a tile with its border, and a row and a column of zeros before it."""
    rows = min(TILE_ROWS + 2 * steps, columns) + 1
    return rows * (min(TILE_COLUMNS + 2 * steps, columns) + 1)


@kernel
def _primal_row(
    image: Float32Array,
    vertical: Float32Array,
    horizontal: Float32Array,
    at: int,
    stride: int,
    begin: int,
    end: int,
    weight: np.float32,
    nonnegative: bool,
    row: Float32Array,
) -> None:
    """Set elements `begin` to `end` of a row to v minus the weighted divergence of the dual, projected.

    `at` is where column 0 of the row lies in the arrays of the tile.
    """
    here, above = _U(at), _U(at - stride)
    left = here - _ONE
    for x in range(_U(begin), _U(end)):
        row[x] = image[here + x] - weight * (
            (vertical[here + x] - vertical[above + x]) + (horizontal[here + x] - horizontal[left + x])
        )
    if nonnegative:
        for x in range(_U(begin), _U(end)):
            row[x] = max(row[x], _ZERO)


@kernel
def _dual_row(
    row: Float32Array,
    following: Float32Array,
    at: int,
    begin: int,
    end: int,
    rate: np.float32,
    momentum: np.float32,
    vertical: Float32Array,
    vertical_before: Float32Array,
    horizontal: Float32Array,
    horizontal_before: Float32Array,
    down: Float32Array,
    across: Float32Array,
) -> None:
    """Make one step of the dual along a row: up the gradient, back into the unit disc, extrapolated.

    The loops are many and short of arrays: with all arrays in one, they are not compiled to vectors, since
    each pair of arrays might overlap. `row` must go on for one element behind `end`.
    """
    here = _U(at)
    first, last = _U(begin), _U(end)
    for x in range(first, last):
        down[x] = vertical[here + x] + rate * (row[x] - following[x])
    for x in range(first, last):
        across[x] = horizontal[here + x] + rate * (row[x] - row[x + _ONE])
    for x in range(first, last):
        scale = _UNIT / np.sqrt(max(_UNIT, down[x] * down[x] + across[x] * across[x]))
        down[x] *= scale
        across[x] *= scale
    for x in range(first, last):
        vertical[here + x] = down[x] + momentum * (down[x] - vertical_before[here + x])
        vertical_before[here + x] = down[x]
    for x in range(first, last):
        horizontal[here + x] = across[x] + momentum * (across[x] - horizontal_before[here + x])
        horizontal_before[here + x] = across[x]


@kernel
def _prox_tile(
    before: Float32Array,
    limits: npt.NDArray[np.int64],
    top: int,
    left: int,
    weight: np.float32,
    momenta: Float32Array,
    nonnegative: bool,
    room: Float32Array,
    lines: Float32Array,
    after: Float32Array,
) -> None:
    """Make all steps for the tile that begins at a row and column of the image.

    Parameters
    ----------
    before, after : (N * N,) float32
        The image; of `after`, the tile is overwritten inside the support.
    limits : (N, 2) int64
        Of the support, from `support_limits`.
    top, left : int
    weight : float32
    momenta : (step,) float32
    nonnegative : bool
    room : (5, tile with border) float32
    lines : (4, columns with border + 2) float32
    """
    n, steps = limits.shape[0], momenta.size
    bottom, right = min(n, top + TILE_ROWS), min(n, left + TILE_COLUMNS)
    # the tile with its border, and its column and row of zeros at the left and above
    y0, y1 = max(0, top - steps), min(n, bottom + steps)
    x0, x1 = max(0, left - steps), min(n, right + steps)
    stride = x1 - x0 + 1
    size = (y1 - y0 + 1) * stride
    image, vertical, horizontal = room[0], room[1], room[3]
    for field in range(1, 5):
        zeroed = room[field]
        for i in range(_U(size)):
            zeroed[i] = _ZERO
    for y in range(y0, y1):
        to, source = _U((y - y0 + 1) * stride + 1), _U(y * n + x0)
        for x in range(_U(x1 - x0)):
            image[to + x] = before[source + x]

    rate = _UNIT / (np.float32(8) * weight)
    for step in range(steps):
        # how far around the tile this step's dual is still needed
        around = steps - step - 1
        first_row, last_row = max(y0, top - 1 - around), min(y1, bottom + around)
        first, last = max(x0, left - 1 - around) - x0, min(x1, right + around) - x0
        width = min(x1, x0 + last + 1) - x0
        for y in range(first_row, last_row + 1):
            # the primal of row y, then the dual of the row above it, which needs both
            current = lines[y % 2]
            begin, end = 0, 0
            if y < y1:
                begin = max(first, limits[y, 0] - x0)
                end = max(begin, min(width, limits[y, 1] - x0))
                at = (y - y0 + 1) * stride + 1
                _primal_row(image, vertical, horizontal, at, stride, begin, end, weight, nonnegative, current)
            if y > first_row:
                above = lines[(y - 1) % 2]
                leftmost = max(first, limits[y - 1, 0] - x0)
                behind = max(leftmost, min(width, limits[y - 1, 1] - x0))
                # no difference across the border of the support: what lies there is like its neighbour
                for x in range(leftmost, min(behind, begin)):
                    current[x] = above[x]
                for x in range(max(leftmost, end), behind):
                    current[x] = above[x]
                if behind > leftmost:
                    if behind == limits[y - 1, 1] - x0:
                        above[behind] = above[behind - 1]
                    _dual_row(
                        above, current, (y - y0) * stride + 1, leftmost, max(leftmost, min(behind, last)),
                        rate, momenta[step],
                        vertical, room[2], horizontal, room[4], lines[2], lines[3],
                    )  # fmt: skip
    for y in range(top, bottom):
        begin = max(left, limits[y, 0]) - x0
        end = max(begin, min(right, limits[y, 1]) - x0)
        at = (y - y0 + 1) * stride + 1
        _primal_row(image, room[2], room[4], at, stride, begin, end, weight, nonnegative, lines[0])
        to, result = _U(y * n + x0), lines[0]
        for x in range(_U(begin), _U(end)):
            after[to + x] = result[x]


@parallel_kernel
def _prox_block(
    before: Float32Array,
    limits: npt.NDArray[np.int64],
    weight: np.float32,
    momenta: Float32Array,
    nonnegative: bool,
    room: Float32Array,
    lines: Float32Array,
    after: Float32Array,
) -> None:
    """Share the tiles of all slices among the workers."""
    n, workers, block = limits.shape[0], room.shape[0], before.shape[0]
    high, wide = (n + TILE_ROWS - 1) // TILE_ROWS, (n + TILE_COLUMNS - 1) // TILE_COLUMNS
    for worker in numba.prange(workers):
        for unit in range(worker, block * high * wide, workers):
            s, t = unit % block, unit // block
            top, left = t // wide * TILE_ROWS, t % wide * TILE_COLUMNS
            _prox_tile(
                before[s], limits, top, left, weight, momenta, nonnegative, room[worker], lines[worker],
                after[s],
            )  # fmt: skip
