"""The support of a slice: which pixels are reconstructed, and the tiles that cover them.

Pixels outside the support stay zero, so that what no ray, or few rays, determine cannot build up artefacts;
tiles outside it are never visited. Supports are symmetric under transposition, so that one table serves
both directions.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ministream.kernels.shear import Layout

SUPPORTS = ("circle", "square")
"""The inscribed circle, which every view of a centred scan sees; or the whole image."""


def support_limits(columns: int, support: str = "circle") -> npt.NDArray[np.int64]:
    """Return for each image row the first column of the support, and the column behind its last.

    Parameters
    ----------
    columns : int
        N: the image has N x N pixels.
    support : {'circle', 'square'}
        The circle has the diameter N; a pixel belongs to it when its centre does.

    Returns
    -------
    (N, 2) int64

    Raises
    ------
    ValueError
        The support is unknown.
    """
    if support not in SUPPORTS:
        raise ValueError(f"support {support!r} is not one of {', '.join(SUPPORTS)}")
    limits = np.zeros((columns, 2), np.int64)
    limits[:, 1] = columns
    if support == "circle":
        half = (columns - 1) / 2
        away = np.arange(columns) - half
        reach = np.floor(np.sqrt((columns / 2) ** 2 - away**2) - (half % 1)) + (half % 1)
        limits[:, 0] = np.rint(half - reach)
        limits[:, 1] = np.rint(half + reach) + 1
    return limits


def support_tiles(limits: npt.NDArray[np.int64], layout: Layout) -> npt.NDArray[np.int64]:
    """Return the tiles that cover the support, band by band, of about equal width within a band.

    Parameters
    ----------
    limits : (N, 2) int64
        From `support_limits`.
    layout : Layout
        Sizes of a tile.

    Returns
    -------
    (tile, 3) int64
        First row (a multiple of `Layout.band_rows`), first column, columns. The columns are multiples of
        `Layout.vector`, so that the last tile may reach beyond the image.
    """
    tiles = []
    for top in range(0, len(limits), layout.band_rows):
        band = limits[top : top + layout.band_rows]
        left = int(band[:, 0].min()) // layout.vector
        right = -(-int(band[:, 1].max()) // layout.vector)
        pieces = -(-(right - left) * layout.vector // layout.tile_columns)
        edges = [left + (right - left) * piece // pieces for piece in range(pieces + 1)]
        tiles += [
            (top, start * layout.vector, (end - start) * layout.vector) for start, end in pairwise(edges)
        ]
    return np.array(tiles, np.int64)
