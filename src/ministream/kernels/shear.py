"""Sheared rows: how each view is laid out for projection without gathers.

This is the *geometry* that the kernels of `ministream.kernels.sheared_rows` work with: flat tables, filled
for a view when its angle arrives. It touches no image and no measurement.

Geometry
--------
An image has N x N pixels, N the number of detector columns, pixel (row y, column x), y downwards, rotation
axis at (N-1)/2, (N-1)/2. At the angle θ, the pixel's centre falls on the detector at the column index ::

    u = c + (x - h) cos θ + (h - y) sin θ,      h = (N-1)/2,  c = rotation centre (0-based column index)

The projector A is Joseph's [1]_: along the axis on which the ray is steeper, image rows are interpolated
linearly where the ray of each detector column's centre meets them, and summed, times the ray's length from
row to row.

Theory of operation
-------------------
Done as written, A gathers and A^T scatters: address arithmetic for each pixel, nothing that a vector unit
likes. But all pixels of a row are displaced alike. Where |cos θ| ≥ |sin θ| ::

    u = c + cos θ · ((x - h) - (y - h) tan θ)

so that row y sits on a line common to all rows, displaced by the shear -(y - h) tan θ, at most a pixel from
row to row. Rounded to a multiple of 1/K pixel, the displacement is q/K = m + k/K, with whole pixels m and a
*phase* k in 0…K-1. Then row y can be *added*, contiguously and without any weight, to the k-th of K line
buffers, begun at element m::

    lines[k][x + m(y)] += image[y][x]             for all x: one vector addition, no gather, no multiplication

Only once for a view, not for each row, the K buffers are interpolated linearly at the rays (element j of
buffer k lies at u = origin + slope (j + k/K)). Back projection is the exact transpose: spread the detector
to K lines, then add shifted lines to the rows. Where |sin θ| > |cos θ| the same is done to the transposed
image: *transposed* views.

The error against Joseph's method is that of rounding a row's displacement, at most 1/(2K) pixel. With K = 4
the images are as good as with the exact method.

The image is worked on in *tiles* of a *band* of rows, small enough for the first-level cache. The forward
direction adds a *group* of several rows of one phase before it touches the line buffer; `Geometry.group`
lists them.

References
----------
.. [1] P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE Trans. Med.
   Imaging 1 (1982) 192-196, doi:10.1109/TMI.1982.4307572.
.. [2] P. Lacroute, M. Levoy, "Fast volume rendering using a shear-warp factorization of the viewing
   transformation", SIGGRAPH 1994: adds whole sheared rows, and resamples once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

IndexArray = npt.NDArray[np.intp]


class Layout(NamedTuple):
    """Sizes that the tables depend on.

    Attributes
    ----------
    phases : int
        K.
    band_rows, tile_columns : int
        Rows, and most columns, of a tile.
    tile_stride, margin : int
        Elements from one row of a tile to the next; zeros before and behind its columns.
    group_rows : int
        Rows that the forward direction adds at once.
    vector : int
        Widths are multiples of this many elements.
    """

    phases: int
    band_rows: int
    tile_columns: int
    tile_stride: int
    margin: int
    group_rows: int
    vector: int


class Geometry(NamedTuple):
    """What the kernels know about the views; N columns, K phases, B bands. Offsets count float32 elements.

    Attributes
    ----------
    transposed : (view,) uint8
        1 where the view works on the transposed image.
    slope : (view,) float32
        Detector columns from one element of a line to the next, ±0.71 to ±1.
    origin : (view,) float64
        Detector column, relative to the rotation centre, of element 0 of line 0.
    width : (view,) int64
        Elements of each of the view's K lines; line k begins at element ``k * width``.
    row_offset : (view, N) uint32
        Where column 0 of an image row falls in the view's lines: ``k * width + m``.
    group : (view, B, group, 2 + group_rows) uint32
        Groups of rows of one phase. [0]: where column 0 of the group falls in the view's lines; [1]: how
        much longer than the tile the group is, as its rows are displaced, a multiple of `vector`; [2:]:
        where in the tile each row is read from. Groups of fewer rows read the tile's row `band_rows`, which
        holds zeros.
    groups : (view, B) int64
        How many groups the band has.
    tiles : (tile, 3) int64
        Tiles that cover the support, from `ministream.kernels.support`.
    limits : (N, 2) int64
        First column of the support in each row, and the column behind its last.
    line_stride : int
        Room for the lines of any view.
    phases : int
        K.
    """

    transposed: npt.NDArray[np.uint8]
    slope: npt.NDArray[np.float32]
    origin: npt.NDArray[np.float64]
    width: npt.NDArray[np.int64]
    row_offset: npt.NDArray[np.uint32]
    group: npt.NDArray[np.uint32]
    groups: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    line_stride: int
    phases: int


def empty_geometry(
    *, views: int, layout: Layout, tiles: npt.NDArray[np.int64], limits: npt.NDArray[np.int64]
) -> Geometry:
    """Room for the tables of so many views; `set_view` fills them.

    Parameters
    ----------
    views : int
        Most views.
    layout, tiles, limits
        As in `Geometry`.
    """
    columns = len(limits)
    bands = -(-columns // layout.band_rows)
    most_groups = layout.band_rows // layout.group_rows + layout.phases
    # whole vectors may be written behind the end of the last line
    most = layout.phases * (2 * columns + 2 * layout.vector) + layout.margin + layout.tile_columns
    return Geometry(
        transposed=np.zeros(views, np.uint8),
        slope=np.zeros(views, np.float32),
        origin=np.zeros(views, np.float64),
        width=np.zeros(views, np.int64),
        row_offset=np.zeros((views, columns), np.uint32),
        group=np.zeros((views, bands, most_groups, 2 + layout.group_rows), np.uint32),
        groups=np.zeros((views, bands), np.int64),
        tiles=tiles,
        limits=limits,
        # an odd number of vectors, so that the lines of several views do not all fall on the same cache sets
        line_stride=(-(-most // layout.vector) | 1) * layout.vector,
        phases=layout.phases,
    )


@njit(cache=True)
def set_view(geometry: Geometry, layout: Layout, view: int, angle_rad: float) -> None:
    """Fill the tables of one view, in place.

    Parameters
    ----------
    geometry : Geometry
    layout : Layout
        That of `empty_geometry`.
    view : int
        Index of the view.
    angle_rad : float
        Any finite angle.
    """
    columns = geometry.row_offset.shape[1]
    half = (columns - 1) / 2
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    if abs(cosine) >= abs(sine):
        geometry.transposed[view] = 0
        slope, shear = cosine, -sine / cosine
    else:
        geometry.transposed[view] = 1
        slope, shear = -sine, -cosine / sine

    # the displacement grows or falls steadily over the rows, so its extremes are at the first and the last
    first = round(-half * shear * layout.phases) // layout.phases
    last = round(half * shear * layout.phases) // layout.phases
    lowest = min(first, last) - 1  # element 0 stays zero, as do two at the end: what lies beside the image
    width = (columns + max(first, last) - lowest + 3 + layout.vector - 1) // layout.vector * layout.vector
    geometry.slope[view] = slope
    geometry.origin[view] = slope * (lowest - half)
    geometry.width[view] = width
    for row in range(columns):
        q = round((row - half) * shear * layout.phases) - lowest * layout.phases
        geometry.row_offset[view, row] = (q % layout.phases) * width + q // layout.phases

    for band in range(geometry.groups.shape[1]):
        top = band * layout.band_rows
        bottom = min(columns, top + layout.band_rows)
        count = 0
        for phase in range(layout.phases):
            members = 0
            low = high = np.int64(0)
            for row in range(top, bottom):
                offset = np.int64(geometry.row_offset[view, row])
                if offset // width != phase:
                    continue
                group = geometry.group[view, band, count]
                if members == 0:
                    low = high = offset
                    group[2:] = layout.band_rows * layout.tile_stride + layout.margin
                high = max(high, offset)
                if offset < low:
                    for earlier in range(members):
                        group[2 + earlier] -= low - offset
                    low = offset
                group[2 + members] = (row - top) * layout.tile_stride + layout.margin - (offset - low)
                group[0] = low
                group[1] = (high - low + layout.vector - 1) // layout.vector * layout.vector
                members += 1
                if members == layout.group_rows:
                    members = 0
                    count += 1
            if members > 0:
                count += 1
        geometry.groups[view, band] = count
