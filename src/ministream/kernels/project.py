"""`Projector`: the views of a scan as they arrive, and projection and back projection along any of them.

It keeps what the kernels of `ministream.kernels.sheared_rows` need together: the views' tables, the
support, the rotation centre and room to work in. It holds no measurements; `ministream.kernels.sirt` does,
and reconstructs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from ministream.kernels.shear import IndexArray, empty_geometry, set_view
from ministream.kernels.sheared_rows import (
    TILE_SIZE,
    VIEWS_AT_ONCE,
    Float32Array,
    Room,
    backproject,
    project,
    standard_layout,
    support_lengths,
)
from ministream.kernels.support import support_limits, support_tiles
from ministream.kernels.threads import usable_threads, using_threads


def aligned_zeros(*shape: int) -> Float32Array:
    """Return float32 zeros that begin at a cache line, so that whole vectors of them do too."""
    size = math.prod(shape)
    room = np.zeros(size + 16, np.float32)
    start = -(room.ctypes.data // 4) % 16
    return room[start : start + size].reshape(shape)


class Projector:
    """The views of a scan, as they arrive, and A and A^T for any of them.

    Parameters
    ----------
    columns : int
        N: detector columns, and rows and columns of a slice.
    views : int
        Most views at a time: there is room for so many, and a view that is dropped makes room for another.
    rotation_center : float
        Column index onto which the rotation axis projects, from -0.5 to N - 0.5; (N-1)/2 when centred.
    phases : int
        K: a row's displacement is rounded to 1/K pixel.
    support : {'circle', 'square'}
        Where the slices may differ from zero.
    threads : int, optional
        At most so many threads; default: one for each core that this process may use.

    Raises
    ------
    ValueError
        A number is out of its range.
    """

    def __init__(
        self,
        *,
        columns: int,
        views: int,
        rotation_center: float,
        phases: int = 4,
        support: str = "circle",
        threads: int | None = None,
    ) -> None:
        for name, value, least in (("columns", columns, 2), ("views", views, 1), ("phases", phases, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}: at least {least} is needed")
        self.threads = usable_threads(threads)
        self.columns = columns
        self.capacity = views
        self._held = np.zeros(views, np.bool_)
        # places that were never used come first, then the one that has been free for longest
        self._free = deque(range(views))
        limits = support_limits(columns, support)
        self.layout = standard_layout(phases)
        self.geometry = empty_geometry(
            views=views, layout=self.layout, limits=limits, tiles=support_tiles(limits, self.layout)
        )
        self.room = Room(
            lines=aligned_zeros(self.threads, VIEWS_AT_ONCE * self.geometry.line_stride),
            tile=aligned_zeros(self.threads, TILE_SIZE),
            padded=np.zeros((self.threads, columns + 3), np.float32),
        )
        self.lengths = np.zeros((views, columns), np.float32)
        self._rotation_center = 0.0
        self.rotation_center = rotation_center

    @property
    def views(self) -> int:
        """Number of views held: those added, less those dropped."""
        return self.capacity - len(self._free)

    @property
    def held(self) -> IndexArray:
        """Indices of the views held, ascending."""
        return np.flatnonzero(self._held)

    @property
    def rotation_center(self) -> float:
        """Column index onto which the rotation axis projects; may be set, for all views past and future."""
        return self._rotation_center

    @rotation_center.setter
    def rotation_center(self, value: float) -> None:
        if not -0.5 <= value <= self.columns - 0.5:
            raise ValueError(
                f"rotation centre {value} is not on the detector, whose columns are 0 to {self.columns - 1}"
            )
        self._rotation_center = float(value)
        self._measure(self.held)

    def add_view(self, angle_rad: float) -> int:
        """Add a view; return its index: 0, 1, 2 and so on, and after that those of views dropped.

        Raises
        ------
        ValueError
            The angle is not finite, or there is no room for another view.
        """
        if not math.isfinite(angle_rad):
            raise ValueError(f"the angle of view {self.views} is {angle_rad}: a finite one is needed")
        if not self._free:
            raise ValueError(f"there is no room for more than the {self.capacity} views announced")
        view = self._free.popleft()
        set_view(self.geometry, self.layout, view, float(angle_rad))
        self._held[view] = True
        self._measure(np.arange(view, view + 1))
        return view

    def drop_view(self, view: int) -> None:
        """Forget a view, so that there is room for another, which may get its index.

        Raises
        ------
        ValueError
            There is no such view.
        """
        if not (0 <= view < self.capacity and self._held[view]):
            raise ValueError(f"view {view} cannot be dropped: it is not held")
        self._held[view] = False
        self._free.append(view)

    def indices(self, views: Sequence[int] | IndexArray) -> IndexArray:
        """Return the views as an index array.

        Raises
        ------
        ValueError
            There are none, or one is not held.
        """
        chosen = np.ascontiguousarray(views, np.intp)
        if chosen.ndim != 1 or chosen.size == 0:
            raise ValueError(f"views of shape {chosen.shape}: a list of at least one is needed")
        if chosen.min() < 0 or chosen.max() >= self.capacity or not self._held[chosen].all():
            raise ValueError(
                f"views {chosen.min()} to {chosen.max()} were asked for, and of these not all are among the"
                f" {self.views} held"
            )
        return chosen

    def project(self, volume: Float32Array, views: Sequence[int] | IndexArray) -> Float32Array:
        """Return A x: the line integrals of the volume.

        Parameters
        ----------
        volume : (slice, N, N) float32
            Zero outside the support.
        views : (k,) int

        Returns
        -------
        (slice, k, N) float32
        """
        chosen = self.indices(views)
        flat = np.ascontiguousarray(volume, np.float32).reshape(len(volume), -1)
        rows = np.empty((len(volume), chosen.size, self.columns), np.float32)
        with using_threads(self.threads):
            project(flat, self.geometry, chosen, self.rotation_center, self.room, rows)
        return rows

    def backproject(self, rows: Float32Array, views: Sequence[int] | IndexArray) -> Float32Array:
        """Return A^T y: each pixel of the support the sum of what the views measured there.

        Parameters
        ----------
        rows : (slice, k, N) float32
        views : (k,) int

        Returns
        -------
        (slice, N, N) float32
        """
        volume = aligned_zeros(len(rows), self.columns * self.columns)
        self.add_backprojection(rows, views, volume)
        return volume.reshape(len(rows), self.columns, self.columns)

    def add_backprojection(
        self,
        rows: Float32Array,
        views: Sequence[int] | IndexArray,
        volume: Float32Array,
        *,
        interpolated: bool = False,
    ) -> None:
        """Add A^T y to a volume, in place.

        Parameters
        ----------
        rows : (slice, k, N) float32
        views : (k,) int
        volume : (slice, N * N) float32
            Contiguous.
        interpolated : bool
            Not A^T, but what the rows are at a pixel's place, as filtered back projection needs it.
        """
        chosen = self.indices(views)
        measured = np.ascontiguousarray(rows, np.float32)
        with using_threads(self.threads):
            backproject(
                measured,
                self.geometry,
                chosen,
                self.rotation_center,
                False,
                interpolated,
                self.room,
                volume,
            )

    def _measure(self, views: IndexArray) -> None:
        """Find the ray lengths of the views anew."""
        support_lengths(self.geometry, views, self._rotation_center, self.room.lines[0], self.lengths)
