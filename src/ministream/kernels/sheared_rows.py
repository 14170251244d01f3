"""Projection and back projection by sheared rows, as compiled kernels: a matched pair A, A^T.

`ministream.kernels.shear` explains the method, and fills the tables. The kernels here work on arrays for
many slices and views; `ministream.kernels.project.Projector` keeps the arrays that belong together, and is
what to call.

Threads
-------
As many slices are worked on at a time as there are workers (threads), so that each keeps one slice, its
tiles and its lines in its own caches. When slices are fewer, workers share a slice, by views forwards and
by tiles backwards. No two workers ever write to the same place, and the result does not depend on their
number except for rounding.

Arrays
------
All float32, flat where an inner loop runs over them. Offsets count elements.

- image: (N * N,), row-major (y, x); zero outside the support (`ministream.kernels.support`);
- volume: (slice, N * N);
- lines: the K line buffers of several views, those of view i of a list from ``i * line_stride``;
- tile: (`TILE_SIZE`,), `BAND_ROWS` rows of an image between margins of zeros, and one row of zeros;
- rows: (slice, k, N), the detector rows of k views: sums over pixels of size 1.

Indices are ``np.uintp`` in inner loops: a signed one makes numba test each access for a negative index.

All compiled functions that call each other are in this one module, long as it is: numba keeps machine code
between runs by the date of a function's own file, so that a change in another file's callee would go
unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from ministream.kernels.shear import Geometry, IndexArray, Layout

Float32Array = npt.NDArray[np.float32]

BAND_ROWS = 32
"""Rows of a tile. With `TILE_COLUMNS` it makes a tile and its margins stay in a first-level cache."""

TILE_COLUMNS = 128
"""Most columns of a tile."""

MARGIN = BAND_ROWS
"""Zeros before and behind a tile's columns: the rows of a band are displaced against each other by less."""

TILE_STRIDE = TILE_COLUMNS + 2 * MARGIN
"""Elements from one row of a tile to the next."""

TILE_SIZE = (BAND_ROWS + 1) * TILE_STRIDE

VECTOR = 16
"""float32 in the widest vector register, 64 bytes: widths are multiples of it where they can be."""

GROUP_ROWS = 4
"""Rows that `image_to_lines` adds at once."""

VIEWS_AT_ONCE = 32
"""Most views whose lines are kept at a time: half a MiB of second-level cache, at 640 columns."""

_U = np.uintp
_BAND = np.uintp(BAND_ROWS)
_MARGIN = np.uintp(MARGIN)
_STRIDE = np.uintp(TILE_STRIDE)
_ONE = np.uintp(1)
_TWO = np.uintp(2)
_ZERO = np.float32(0)
_UNIT = np.float32(1)

# Sums may be re-ordered and multiplications fused; infinities and NaN keep their meaning.
_FAST = {"reassoc", "contract", "nsz", "arcp"}

_F = TypeVar("_F", bound=Callable[..., Any])


def kernel(function: _F) -> _F:
    """Compile for one thread; keep the machine code between runs."""
    return cast(_F, numba.njit(cache=True, fastmath=_FAST, error_model="numpy")(function))


def parallel_kernel(function: _F) -> _F:
    """Compile for the threads that `numba.set_num_threads` allows; keep the machine code between runs.

    Such a function has a single loop over `numba.prange` and little else: numba may merge two of them, even
    where the second reads what other threads write in the first.
    """
    return cast(_F, numba.njit(cache=True, fastmath=_FAST, error_model="numpy", parallel=True)(function))


class Room(NamedTuple):
    """Room to work in, for each worker; its length is the number of workers.

    Attributes
    ----------
    lines : (worker, VIEWS_AT_ONCE * line_stride) float32
    tile : (worker, TILE_SIZE) float32
        Zeros at first.
    padded : (worker, N + 3) float32
        Zeros at first.
    """

    lines: Float32Array
    tile: Float32Array
    padded: Float32Array


def standard_layout(phases: int) -> Layout:
    """Return the layout that these kernels work with."""
    return Layout(
        phases=phases,
        band_rows=BAND_ROWS,
        tile_columns=TILE_COLUMNS,
        tile_stride=TILE_STRIDE,
        margin=MARGIN,
        group_rows=GROUP_ROWS,
        vector=VECTOR,
    )


@kernel
def load_tile(
    image: Float32Array, transposed: bool, columns: int, top: int, left: int, width: int, tile: Float32Array
) -> None:
    """Copy a tile of the image, or of the transposed image, between the tile's margins.

    What lies outside the image becomes zero, and so does the right margin; the left margin and the last row
    must be zero before, and stay so.
    """
    n, y0, x0 = _U(columns), _U(top), _U(left)
    rows = min(_BAND, n - y0)
    inside = min(_U(width), n - x0)
    if rows < _BAND or inside < _U(width):
        for y in range(_BAND):
            to = y * _STRIDE + _MARGIN
            for x in range(_U(width)):
                tile[to + x] = _ZERO
    if transposed:
        for x in range(inside):
            source, to = (x0 + x) * n + y0, _MARGIN + x
            for y in range(rows):
                tile[to + y * _STRIDE] = image[source + y]
    else:
        for y in range(rows):
            source, to = (y0 + y) * n + x0, y * _STRIDE + _MARGIN
            for x in range(inside):
                tile[to + x] = image[source + x]
    for y in range(_BAND):
        to = y * _STRIDE + _MARGIN + _U(width)
        for x in range(_MARGIN):
            tile[to + x] = _ZERO


@kernel
def image_to_lines(
    image: Float32Array,
    transposed: bool,
    geometry: Geometry,
    views: IndexArray,
    lines: Float32Array,
    tile: Float32Array,
) -> None:
    """Set the lines of the views, all of one direction, to the sums of the sheared rows of the image.

    Parameters
    ----------
    image : (N * N,) float32
    transposed : bool
        Direction of all these views.
    geometry : Geometry
    views : (k,) intp
    lines : (>= k * line_stride,) float32
        Overwritten.
    tile : (TILE_SIZE,) float32
        Room to work in, as `Room.tile`.
    """
    columns = geometry.row_offset.shape[1]
    stride = geometry.line_stride
    tiles = geometry.tiles
    for i in range(_U(views.size * stride)):
        lines[i] = _ZERO
    for t in range(tiles.shape[0]):
        top, left, width = tiles[t, 0], tiles[t, 1], tiles[t, 2]
        band = top // BAND_ROWS
        load_tile(image, transposed, columns, top, left, width, tile)
        for i in range(views.size):
            view = views[i]
            start = _U(i * stride + left)
            group = geometry.group[view, band]
            for g in range(geometry.groups[view, band]):
                to = start + _U(group[g, 0])
                a, b, c, d = _U(group[g, 2]), _U(group[g, 3]), _U(group[g, 4]), _U(group[g, 5])
                for x in range(_U(width) + _U(group[g, 1])):
                    lines[to + x] += (tile[a + x] + tile[b + x]) + (tile[c + x] + tile[d + x])


@kernel
def lines_to_detector(
    lines: Float32Array,
    start: int,
    geometry: Geometry,
    view: int,
    center: float,
    row: Float32Array,
) -> None:
    """Set a detector row to the K lines of one view, resampled: the transpose of `detector_to_lines`.

    The ray that meets the detector at column d passes line k at v = (d - origin) / slope - k/K. There the
    line is interpolated linearly; the factor 1/|slope| is the length of the ray from one image row to the
    next.

    Parameters
    ----------
    lines : float32
        From `image_to_lines`, this view's from `start`.
    geometry : Geometry
    view : int
    center : float
        Rotation centre, a column index.
    row : (N,) float32
        Overwritten.
    """
    slope = geometry.slope[view]
    origin = np.float32(geometry.origin[view] + center)
    width, phases = geometry.width[view], geometry.phases
    columns = _U(row.size)
    inverse = _UNIT / slope
    length = abs(inverse)
    last = np.float32(width - 2)
    for d in range(columns):
        row[d] = _ZERO
    for k in range(phases):
        shift = -(origin * inverse + np.float32(k) / np.float32(phases))
        line = _U(start + k * width)
        for d in range(columns):
            v = min(max(np.float32(np.int32(d)) * inverse + shift, _ZERO), last)
            whole = np.int32(v)
            part = v - np.float32(whole)
            j = line + _U(whole)
            left = lines[j]
            row[d] += left + part * (lines[j + _ONE] - left)
    for d in range(columns):
        row[d] *= length


@kernel
def detector_to_lines(
    padded: Float32Array,
    lines: Float32Array,
    start: int,
    geometry: Geometry,
    view: int,
    center: float,
) -> None:
    """Set the K lines of one view to a detector row, resampled: the transpose of `lines_to_detector`.

    Element j of line k, at the detector column u, takes the two detector pixels beside u, each with the
    weight (1 - distance / |slope|) / |slope|, or nothing from one that is farther than |slope|.

    Parameters
    ----------
    padded : (N + 3,) float32
        A zero, the detector row, two zeros: beyond its ends the detector fades to zero within a pixel.
    lines : float32
        Overwritten from `start` on.
    geometry, view, center
        As in `lines_to_detector`.
    """
    slope = geometry.slope[view]
    origin = np.float32(geometry.origin[view] + center)
    width, phases = geometry.width[view], geometry.phases
    last = np.float32(padded.size - 2)
    length = abs(_UNIT / slope)
    for k in range(phases):
        begin = origin + slope * (np.float32(k) / np.float32(phases)) + _UNIT
        line = _U(start + k * width)
        for j in range(_U(width)):
            u = min(max(begin + slope * np.float32(np.int32(j)), _ZERO), last)
            whole = np.int32(u)
            part = u - np.float32(whole)
            d = _U(whole)
            near = max(_ZERO, length - part * length * length)
            far = max(_ZERO, length - (_UNIT - part) * length * length)
            lines[line + j] = near * padded[d] + far * padded[d + _ONE]


@kernel
def interpolate_to_lines(
    padded: Float32Array,
    lines: Float32Array,
    start: int,
    geometry: Geometry,
    view: int,
    center: float,
) -> None:
    """Set the K lines of one view to a detector row, interpolated linearly at their elements.

    For filtered back projection, which needs what a filtered row is worth at a pixel. `detector_to_lines`
    shares rows out instead, with weights whose sum at a pixel is between 0.8 and 1.4: right for iterations,
    but a pattern in an image that is made at once.

    Parameters
    ----------
    padded, lines, start, geometry, view, center
        As in `detector_to_lines`.
    """
    slope = geometry.slope[view]
    origin = np.float32(geometry.origin[view] + center)
    width, phases = geometry.width[view], geometry.phases
    last = np.float32(padded.size - 2)
    for k in range(phases):
        begin = origin + slope * (np.float32(k) / np.float32(phases)) + _UNIT
        line = _U(start + k * width)
        for j in range(_U(width)):
            u = min(max(begin + slope * np.float32(np.int32(j)), _ZERO), last)
            whole = np.int32(u)
            d = _U(whole)
            left = padded[d]
            lines[line + j] = left + (u - np.float32(whole)) * (padded[d + _ONE] - left)


@kernel
def _add_lines(
    lines: Float32Array,
    geometry: Geometry,
    views: IndexArray,
    top: int,
    rows: int,
    left: int,
    width: int,
    tile: Float32Array,
) -> None:
    """Add the sheared lines of the views to the rows of a tile, between its margins."""
    offset = geometry.row_offset
    stride = geometry.line_stride
    n = _U(width)
    step = _U(stride)
    count = views.size
    whole = count - count % 8
    for i in range(0, whole, 8):
        start = _U(i * stride + left)
        for y in range(rows):
            r = top + y
            a = start + _U(offset[views[i], r])
            b = start + step + _U(offset[views[i + 1], r])
            c = start + _U(2) * step + _U(offset[views[i + 2], r])
            d = start + _U(3) * step + _U(offset[views[i + 3], r])
            e = start + _U(4) * step + _U(offset[views[i + 4], r])
            f = start + _U(5) * step + _U(offset[views[i + 5], r])
            g = start + _U(6) * step + _U(offset[views[i + 6], r])
            h = start + _U(7) * step + _U(offset[views[i + 7], r])
            to = _U(y) * _STRIDE + _MARGIN
            for x in range(n):
                tile[to + x] += ((lines[a + x] + lines[b + x]) + (lines[c + x] + lines[d + x])) + (
                    (lines[e + x] + lines[f + x]) + (lines[g + x] + lines[h + x])
                )
    if count - whole >= 4:
        start = _U(whole * stride + left)
        for y in range(rows):
            r = top + y
            a = start + _U(offset[views[whole], r])
            b = start + step + _U(offset[views[whole + 1], r])
            c = start + _U(2) * step + _U(offset[views[whole + 2], r])
            d = start + _U(3) * step + _U(offset[views[whole + 3], r])
            to = _U(y) * _STRIDE + _MARGIN
            for x in range(n):
                tile[to + x] += (lines[a + x] + lines[b + x]) + (lines[c + x] + lines[d + x])
        whole += 4
    for i in range(whole, count):
        start = _U(i * stride + left)
        for y in range(rows):
            a = start + _U(offset[views[i], top + y])
            to = _U(y) * _STRIDE + _MARGIN
            for x in range(n):
                tile[to + x] += lines[a + x]


@kernel
def add_lines_to_tile(
    lines: Float32Array,
    transposed: bool,
    geometry: Geometry,
    views: IndexArray,
    t: int,
    nonnegative: bool,
    image: Float32Array,
    tile: Float32Array,
) -> None:
    """Add the sheared lines of the views, all of one direction, to one tile of the image.

    Parameters
    ----------
    lines : float32
        From `detector_to_lines`; view i of the list from ``i * line_stride``.
    transposed, geometry, views, tile
        As in `image_to_lines`.
    t : int
        Index of the tile.
    nonnegative : bool
        Set what is negative afterwards to zero.
    image : (N * N,) float32
        Added to, in place.
    """
    columns, limits = geometry.row_offset.shape[1], geometry.limits
    top, left, width = geometry.tiles[t, 0], geometry.tiles[t, 1], geometry.tiles[t, 2]
    n, y0, x0 = _U(columns), _U(top), _U(left)
    rows = min(_BAND, n - y0)
    inside = min(_U(width), n - x0)
    load_tile(image, transposed, columns, top, left, width, tile)
    _add_lines(lines, geometry, views, top, int(rows), left, width, tile)
    if nonnegative:
        for y in range(rows):
            at = y * _STRIDE + _MARGIN
            for x in range(inside):
                tile[at + x] = max(tile[at + x], _ZERO)
    if transposed:
        for x in range(inside):
            to = (x0 + x) * n
            first = max(y0, _U(limits[x0 + x, 0]))
            end = min(y0 + rows, _U(limits[x0 + x, 1]))
            for y in range(first, end):
                image[to + y] = tile[(y - y0) * _STRIDE + _MARGIN + x]
    else:
        for y in range(rows):
            to = (y0 + y) * n
            source = y * _STRIDE + _MARGIN - x0
            first = max(x0, _U(limits[y0 + y, 0]))
            end = min(x0 + inside, _U(limits[y0 + y, 1]))
            for x in range(first, end):
                image[to + x] = tile[source + x]


@kernel
def support_lengths(
    geometry: Geometry, views: IndexArray, center: float, lines: Float32Array, lengths: Float32Array
) -> None:
    """Set the length of each ray inside the support: A applied to an image of ones there, exactly.

    The lines of such an image are counts of rows, so that they need no image: each row raises the count
    where it begins and lowers it where it ends.

    Parameters
    ----------
    geometry : Geometry
    views : (k,) intp
    center : float
        Rotation centre, a column index.
    lines : (>= line_stride,) float32
        Room to work in.
    lengths : (view, N) float32
        Those of `views` are overwritten; in pixels.
    """
    limits = geometry.limits
    for i in range(views.size):
        view = views[i]
        width = geometry.width[view]
        for j in range(geometry.phases * width):
            lines[j] = _ZERO
        for r in range(limits.shape[0]):
            offset = np.int64(geometry.row_offset[view, r])
            lines[offset + limits[r, 0]] += _UNIT
            lines[offset + limits[r, 1]] -= _UNIT
        for k in range(geometry.phases):
            count = _ZERO
            for j in range(k * width, (k + 1) * width):
                count += lines[j]
                lines[j] = count
        lines_to_detector(lines, 0, geometry, view, center, lengths[view])


@kernel
def order_views(
    geometry: Geometry,
    views: IndexArray,
    least: int,
    order: IndexArray,
    pieces: npt.NDArray[np.int64],
) -> int:
    """Order the views by direction, and cut them into pieces of one direction and of about equal size.

    Parameters
    ----------
    geometry : Geometry
    views : (k,) intp
    least : int
        Cut each direction into at least so many pieces, if it has so many views.
    order : (k,) intp
        Overwritten: places in `views`, those of transposed views last.
    pieces : (>= k, 3) int64
        Overwritten: first place in `order`, the place behind the last, and 1 for transposed views.

    Returns
    -------
    int
        Number of pieces.
    """
    filled = 0
    count = 0
    for direction in range(2):
        begin = filled
        for i in range(views.size):
            if geometry.transposed[views[i]] == direction:
                order[filled] = i
                filled += 1
        n = filled - begin
        parts = min(n, max(least, (n + VIEWS_AT_ONCE - 1) // VIEWS_AT_ONCE))
        for part in range(parts):
            pieces[count, 0] = begin + n * part // parts
            pieces[count, 1] = begin + n * (part + 1) // parts
            pieces[count, 2] = direction
            count += 1
    return count


@parallel_kernel
def _project_block(
    volume: Float32Array,
    geometry: Geometry,
    views: IndexArray,
    order: IndexArray,
    pieces: npt.NDArray[np.int64],
    center: float,
    room: Room,
    rows: Float32Array,
) -> None:
    """Share slices and pieces of views among the workers, all pieces of a slice to one if they suffice."""
    workers = room.lines.shape[0]
    block = volume.shape[0]
    for worker in numba.prange(workers):
        lines = room.lines[worker]
        for unit in range(worker, block * pieces.shape[0], workers):
            s, p = unit % block, unit // block
            places = order[pieces[p, 0] : pieces[p, 1]]
            image_to_lines(volume[s], pieces[p, 2] == 1, geometry, views[places], lines, room.tile[worker])
            for i in range(places.size):
                view, row = views[places[i]], rows[s, places[i]]
                lines_to_detector(lines, i * geometry.line_stride, geometry, view, center, row)


@kernel
def project(
    volume: Float32Array,
    geometry: Geometry,
    views: IndexArray,
    center: float,
    room: Room,
    rows: Float32Array,
) -> None:
    """Set detector rows to A x.

    Parameters
    ----------
    volume : (slice, N * N) float32
        x; zero outside the support.
    geometry : Geometry
    views : (k,) intp
    center : float
        Rotation centre, a column index.
    room : Room
    rows : (slice, k, N) float32
        Overwritten.
    """
    slices, workers = volume.shape[0], room.lines.shape[0]
    order = np.empty(views.size, np.intp)
    pieces = np.empty((views.size, 3), np.int64)
    for first in range(0, slices, workers):
        last = min(slices, first + workers)
        least = 1 if last - first == workers else workers
        count = order_views(geometry, views, least, order, pieces)
        _project_block(
            volume[first:last], geometry, views, order, pieces[:count], center, room, rows[first:last]
        )


@parallel_kernel
def _spread_block(
    rows: Float32Array,
    geometry: Geometry,
    views: IndexArray,
    order: IndexArray,
    center: float,
    interpolated: bool,
    room: Room,
) -> None:
    """Resample the rows of a piece of views to lines, those of slice s to ``room.lines[s]``."""
    workers, block = room.lines.shape[0], rows.shape[0]
    for worker in numba.prange(workers):
        padded = room.padded[worker]
        for unit in range(worker, block * order.size, workers):
            s, i = unit % block, unit // block
            for d in range(rows.shape[2]):
                padded[d + 1] = rows[s, order[i], d]
            start, view = i * geometry.line_stride, views[order[i]]
            if interpolated:
                interpolate_to_lines(padded, room.lines[s], start, geometry, view, center)
            else:
                detector_to_lines(padded, room.lines[s], start, geometry, view, center)


@parallel_kernel
def _add_block(
    transposed: bool,
    geometry: Geometry,
    views: IndexArray,
    nonnegative: bool,
    room: Room,
    volume: Float32Array,
) -> None:
    """Add the lines of a piece of views to all tiles of the slices, shared among the workers."""
    workers, block = room.lines.shape[0], volume.shape[0]
    for worker in numba.prange(workers):
        for unit in range(worker, block * geometry.tiles.shape[0], workers):
            s, t = unit % block, unit // block
            lines, tile = room.lines[s], room.tile[worker]
            add_lines_to_tile(lines, transposed, geometry, views, t, nonnegative, volume[s], tile)


@kernel
def backproject(
    rows: Float32Array,
    geometry: Geometry,
    views: IndexArray,
    center: float,
    nonnegative: bool,
    interpolated: bool,
    room: Room,
    volume: Float32Array,
) -> None:
    """Add A^T rows to the volume, in place, inside the support.

    Parameters
    ----------
    rows : (slice, k, N) float32
    geometry, views, center, room
        As in `project`.
    nonnegative : bool
        Set what is negative afterwards to zero.
    interpolated : bool
        Add to a pixel what the rows are at its place, interpolated, instead of A^T rows: not matched to
        `project`, and smoother.
    volume : (slice, N * N) float32
        Added to.
    """
    slices, workers = volume.shape[0], room.lines.shape[0]
    order = np.empty(views.size, np.intp)
    pieces = np.empty((views.size, 3), np.int64)
    count = order_views(geometry, views, 1, order, pieces)
    for first in range(0, slices, workers):
        last = min(slices, first + workers)
        for p in range(count):
            places = order[pieces[p, 0] : pieces[p, 1]]
            clip = nonnegative and p == count - 1
            _spread_block(rows[first:last], geometry, views, places, center, interpolated, room)
            _add_block(pieces[p, 2] == 1, geometry, views[places], clip, room, volume[first:last])


@kernel
def weigh_residual(
    measured: Float32Array,
    offset: Float32Array,
    weight: Float32Array,
    views: IndexArray,
    first: int,
    scale: float,
    rows: Float32Array,
) -> float:
    """Replace projections by weighted residuals, in place; return the sum of the residuals' squares.

    Parameters
    ----------
    measured : (view, slice, N) float32
        b, of all views and slices.
    offset : (slice, N) float32
        Subtracted from b.
    weight : (view, N) float32
        1 / ray length, or 0 for rays that are left out.
    views : (k,) intp
    first : int
        First of the slices of `rows`.
    scale : float
        Factor of the result.
    rows : (slice, k, N) float32
        A x; afterwards ``scale * weight * (b - offset - A x)``.
    """
    total = 0.0
    factor = np.float32(scale)
    for s in range(rows.shape[0]):
        for i in range(views.size):
            view = views[i]
            squares = _ZERO
            for d in range(rows.shape[2]):
                w = weight[view, d]
                residual = measured[view, first + s, d] - offset[first + s, d] - rows[s, i, d]
                squares += residual * residual if w > _ZERO else _ZERO
                rows[s, i, d] = residual * w * factor
            total += float(squares)
    return total
