"""SIRT on a growing set of views: the reconstruction of some slices while their projections arrive.

One update over the views V replaces the slices x by ::

    x + relaxation / |V| · Σ_{v in V} A_v^T W_v (b_v - A_v x),      W = 1 / (A 1)

and, if wanted, what is negative by zero. b are the measurements, A the projector of
`ministream.kernels.sheared_rows`, A 1 the length of each ray inside the support. A view weighs each pixel
that it sees with 1 in total, on average, so that |V| is the column sum of A over V, and this is SIRT in its
usual form with row and column sums [1]_. It converges for a relaxation between 0 and 2. Where the rotation
axis is off the detector's centre and some views do not see a pixel, |V| is more than the column sum: such
pixels converge more slowly.

Updates over a few well-spread views at a time are *ordered subsets*: they get as far in one pass over all
views as SIRT in several. Which views, and in which order, is the caller's choice; see `ministream.window`.

What is not done here: corrections of the measurements, choice of the views, momentum.

References
----------
.. [1] J. Gregor, T. Benson, "Computational analysis and improvement of SIRT", IEEE Trans. Med. Imaging 27
   (2008) 918-924, doi:10.1109/TMI.2008.923696.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ministream.kernels.fbp import filter_rows
from ministream.kernels.project import Projector, aligned_zeros
from ministream.kernels.shear import IndexArray
from ministream.kernels.sheared_rows import (
    VIEWS_AT_ONCE,
    Float32Array,
    backproject,
    project,
    weigh_residual,
)
from ministream.kernels.threads import using_threads

SHORTEST_RAY = 1.0
"""Rays shorter than this inside the support, in pixels, are left out: they would only magnify noise."""


class SirtEngine:
    """Slices, the views measured of them so far, and SIRT updates over any of these views.

    Memory: the volume, the measurements of the views held, tables of about 21 bytes per view and detector
    column (for 4 phases), and for each thread room for the lines of 32 views (0.7 MB at 640 columns). A scan
    may be longer than `views`: one that is dropped makes room for another.

    Parameters
    ----------
    slices, columns : int
        Slices, and detector columns N; each slice has N x N pixels.
    rotation_center : float
        Column index onto which the rotation axis projects; (N-1)/2 when centred, or any other on the
        detector.
    views : int
        Most views at a time.
    threads : int, optional
        At most so many threads; default: one for each core that this process may use.
    nonnegative : bool
        Set negative pixels to zero after each update.
    phases : int
        Accuracy of the projector: a row's displacement is rounded to 1/phases pixel.
    support : {'circle', 'square'}
        Where slices may differ from zero: in the inscribed circle, or everywhere.

    Raises
    ------
    ValueError
        A number is out of its range.
    """

    def __init__(
        self,
        *,
        slices: int,
        columns: int,
        rotation_center: float,
        views: int,
        threads: int | None = None,
        nonnegative: bool = True,
        phases: int = 4,
        support: str = "circle",
    ) -> None:
        if slices < 1:
            raise ValueError(f"slices is {slices}: at least 1 is needed")
        self.nonnegative = nonnegative
        self._projector = Projector(
            columns=columns,
            views=views,
            rotation_center=rotation_center,
            phases=phases,
            support=support,
            threads=threads,
        )
        self._measured = np.zeros((views, slices, columns), np.float32)
        self._weight = np.zeros((views, columns), np.float32)
        self._used_rays = np.zeros(views, np.int64)
        self._offset = np.zeros((slices, columns), np.float32)
        self._flat = aligned_zeros(slices, columns * columns)
        self._volume = self._flat.reshape(slices, columns, columns)

    @property
    def volume(self) -> Float32Array:
        """The slices, (slice, y, x) float32, attenuation per pixel length: a view that updates change."""
        return self._volume

    @property
    def views(self) -> int:
        """Number of views held: those added, less those dropped."""
        return self._projector.views

    @property
    def capacity(self) -> int:
        """How many views there is room for."""
        return self._projector.capacity

    @property
    def measured(self) -> Float32Array:
        """(view, slice, column) float32: what `add_view` was given, at each view's index. A view."""
        return self._measured

    @property
    def stripe_offset(self) -> Float32Array:
        """(slice, column) float32: what is subtracted from all views. A view."""
        return self._offset

    @property
    def threads(self) -> int:
        """Number of threads that an update uses."""
        return self._projector.threads

    @property
    def rotation_center(self) -> float:
        """Column index onto which the rotation axis projects."""
        return self._projector.rotation_center

    def add_view(self, angle_rad: float, rows: Float32Array) -> int:
        """Add what was measured at one angle; return the view's index.

        Indices are 0, 1, 2 and so on while there are places never used, and after that those of views
        dropped, the one dropped first first: with one dropped for each added, the places form a ring.

        Parameters
        ----------
        angle_rad : float
            θ, any finite angle, in any order.
        rows : (slice, column) float32
            Attenuation: line integrals of the slices, the pixel as unit of length. Copied.

        Raises
        ------
        ValueError
            The angle or a value is not finite, the shape is wrong, or there is no room for another view.
        """
        shape = self._offset.shape
        if rows.shape != shape:
            raise ValueError(f"rows of shape {rows.shape} for {shape[0]} slices of {shape[1]} columns")
        if not np.isfinite(rows).all():
            raise ValueError(f"view {self.views} holds values that are not finite: correct them before")
        view = self._projector.add_view(angle_rad)
        self._measured[view] = rows
        self._weigh(np.arange(view, view + 1))
        return view

    def drop_view(self, view: int) -> None:
        """Forget a view, so that there is room for another. What it has done to the slices stays.

        Raises
        ------
        ValueError
            There is no such view.
        """
        self._projector.drop_view(view)

    def set_rotation_center(self, rotation_center: float) -> None:
        """Use another rotation centre, for all views, past and future. The slices stay as they are.

        Raises
        ------
        ValueError
            It is not on the detector.
        """
        self._projector.rotation_center = rotation_center
        self._weigh(self._projector.held)

    def set_stripe_offset(self, offset: Float32Array) -> None:
        """Subtract this from all views, past and future, in place of the offset set before.

        Parameters
        ----------
        offset : (slice, column) float32
            Attenuation, as `add_view`'s rows. Copied.

        Raises
        ------
        ValueError
            The shape is wrong, or a value is not finite.
        """
        if offset.shape != self._offset.shape:
            raise ValueError(f"stripe offset of shape {offset.shape}: {self._offset.shape} is needed")
        if not np.isfinite(offset).all():
            raise ValueError("the stripe offset holds values that are not finite")
        self._offset[:] = offset

    def update(self, views: Sequence[int] | IndexArray, relaxation: float = 1.0) -> float:
        """Update the slices once, over these views; return how far they were from explaining them.

        Parameters
        ----------
        views : (k,) int
            Indices that `add_view` returned.
        relaxation : float
            Factor of the step, between 0 and 2.

        Returns
        -------
        float
            Root of the mean square of b - A x before the update, over the rays used, in attenuation.

        Raises
        ------
        ValueError
            There are no views, one is not held, or the relaxation is out of its range.
        """
        if not 0 < relaxation < 2:
            raise ValueError(f"relaxation is {relaxation}: SIRT needs one between 0 and 2")
        p = self._projector
        chosen = p.indices(views)
        slices, columns = self._offset.shape
        room = np.empty((min(slices, p.threads), chosen.size, columns), np.float32)
        scale = relaxation / chosen.size
        squares = 0.0
        with using_threads(p.threads):
            # a block of slices stays in the caches from its projection to its back projection
            for first in range(0, slices, p.threads):
                block = self._flat[first : first + p.threads]
                rows = room[: len(block)]
                project(block, p.geometry, chosen, p.rotation_center, p.room, rows)
                squares += weigh_residual(
                    self._measured, self._offset, self._weight, chosen, first, scale, rows
                )
                backproject(
                    rows, p.geometry, chosen, p.rotation_center, self.nonnegative, False, p.room, block
                )
        rays = slices * int(self._used_rays[chosen].sum())
        return math.sqrt(squares / rays) if rays else 0.0

    def residual(self, views: Sequence[int] | IndexArray) -> float:
        """Return how far the slices are from explaining these views: what `update` returns, without it.

        Raises
        ------
        ValueError
            There are no views, or one is not held.
        """
        p = self._projector
        chosen = p.indices(views)
        slices, columns = self._offset.shape
        squares = 0.0
        with using_threads(p.threads):
            for first in range(0, slices, p.threads):
                block = self._flat[first : first + p.threads]
                rows = np.empty((len(block), chosen.size, columns), np.float32)
                project(block, p.geometry, chosen, p.rotation_center, p.room, rows)
                squares += weigh_residual(
                    self._measured, self._offset, self._weight, chosen, first, 0.0, rows
                )
        rays = slices * int(self._used_rays[chosen].sum())
        return math.sqrt(squares / rays) if rays else 0.0

    @staticmethod
    def memory_bytes(*, slices: int, columns: int, views: int, threads: int) -> int:
        """Return about how many bytes an engine needs with so many views, for all it may be asked to do."""
        volume = 4 * slices * columns**2
        measured = 4 * views * slices * columns
        tables = 21 * views * columns
        lines = 4 * VIEWS_AT_ONCE * (8 * columns + 300)
        rows = 4 * views * columns
        return volume + measured + tables + threads * (lines + rows)

    def add_filtered(
        self,
        views: Sequence[int] | IndexArray,
        weights: npt.NDArray[np.float64],
        filter_name: str = "shepp-logan",
    ) -> None:
        """Add the filtered back projection of these views, each times its weight, to the slices.

        With the angular weights of all views (`ministream.kernels.fbp.angular_weights`) on empty slices it
        is filtered back projection; with their changes (`ministream.kernels.fbp.WeightLedger`) it brings
        such an image up to date. Nothing is set to zero that is negative.

        Parameters
        ----------
        views : (k,) int
            Indices that `add_view` returned.
        weights : (k,) float
            In radians.
        filter_name : str
            One of `ministream.kernels.fbp.FILTERS`.

        Raises
        ------
        ValueError
            As `update`; the filter is unknown, or there is not one weight for each view.
        """
        p = self._projector
        chosen = p.indices(views)
        if weights.shape != chosen.shape:
            raise ValueError(f"weights of shape {weights.shape} for {chosen.size} views")
        factors = np.asarray(weights, np.float32)[:, np.newaxis]
        for some in np.array_split(np.arange(chosen.size), -(-chosen.size // VIEWS_AT_ONCE)):
            for first in range(0, len(self._offset), p.threads):
                block = slice(first, first + p.threads)
                rows = self._measured[chosen[some], block] - self._offset[block]
                filtered = filter_rows(rows.transpose(1, 0, 2), filter_name, threads=p.threads)
                filtered *= factors[some]
                p.add_backprojection(filtered, chosen[some], self._flat[block], interpolated=True)

    def keep(self, begin: int, end: int) -> None:
        """Keep the slices from `begin` up to and without `end`, and forget the others, as if never there.

        Raises
        ------
        ValueError
            There are no such slices.
        """
        if not 0 <= begin < end <= len(self._offset):
            raise ValueError(f"slices {begin} to {end - 1} of {len(self._offset)} cannot be kept")
        some = slice(begin, end)
        self._measured = self._measured[:, some].copy()
        self._offset = self._offset[some].copy()
        flat = aligned_zeros(end - begin, self._flat.shape[1])
        flat[:] = self._flat[some]
        self._flat = flat
        self._volume = flat.reshape(end - begin, *self._volume.shape[1:])

    def reset(self) -> None:
        """Set the slices to zero. Views, rotation centre and stripe offset stay."""
        self._flat[:] = 0

    def _weigh(self, views: IndexArray) -> None:
        """Derive the weights of the views' rays from their lengths."""
        lengths = self._projector.lengths[views]
        used = lengths > SHORTEST_RAY
        self._weight[views] = np.divide(1, lengths, out=np.zeros_like(lengths), where=used)
        self._used_rays[views] = used.sum(axis=1)


def warm_up(threads: int | None = None) -> None:
    """Compile the kernels, or load them if they were compiled before, by reconstructing next to nothing.

    To be called before the first projection arrives: compilation takes seconds, once on a machine; loading
    a fraction of one.

    Parameters
    ----------
    threads : int, optional
        As for `SirtEngine`.
    """
    engine = SirtEngine(slices=1, columns=16, rotation_center=7.5, views=2, threads=threads)
    rows = np.zeros((1, 16), np.float32)
    views = [engine.add_view(angle, rows) for angle in (0.0, 1.5)]
    engine.update(views)
    engine.add_filtered(views, np.ones(2))
    engine.set_rotation_center(7.0)
