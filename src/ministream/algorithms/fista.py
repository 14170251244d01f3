"""FISTA: ordered subsets with momentum and total variation [1]_, restarted where it overshoots [2]_.

A pass goes over all views so far in ordered subsets. Each update begins not at the slices x, but at a point
beyond them, in the direction in which the last update has moved them ::

    z = x + (t - 1) / t' · (x - x_before),      t' = (1 + √(1 + 4 t²)) / 2,

and is followed by the proximal step of total variation (`ministream.algorithms.denoising`). Subsets and
momentum together may diverge [3]_: each amplifies what the subsets disagree about. So a slice that an
update moves backwards, ``⟨z - x, x - x_before⟩ > 0``, begins again with t = 1; and t stays below a limit,
with which errors die out.

Passes while views come are as with `ministream.algorithms.ordered_subsets`, and begin without momentum:
other views are another problem.

References
----------
.. [1] A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse
   problems", SIAM J. Imaging Sciences 2 (2009) 183-202, doi:10.1137/080716542.
.. [2] B. O'Donoghue, E. Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math.
   15 (2015) 715-732, doi:10.1007/s10208-013-9150-3: the gradient scheme.
.. [3] D. Kim, S. Ramani, J. A. Fessler, "Combining ordered subsets and momentum for accelerated X-ray CT
   image reconstruction", IEEE Trans. Med. Imaging 34 (2015) 167-178, doi:10.1109/TMI.2014.2350962.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ministream.algorithms.base import Settings, State
from ministream.algorithms.ordered_subsets import OrderedSubsets
from ministream.kernels.sirt import SirtEngine
from ministream.window import IndexArray, ordered_subsets

_SUBSET = 8
_REFINE_SUBSET = 24
"""Momentum makes each update's noise larger; at the end there are views enough for less of it."""
_LARGEST_T = 4.0
"""Momentum of at most 0.76: with 0.9, subsets of 8 of 200 views make noise grow from pass to pass."""


class Fista(OrderedSubsets):
    """Ordered subsets with momentum and total variation; see the module."""

    name: ClassVar[str] = "fista"
    summary: ClassVar[str] = "ordered subsets with momentum over all views so far"

    def __init__(self, engine: SirtEngine, views: int, settings: Settings) -> None:
        super().__init__(engine, views, settings)
        self._before = np.zeros_like(engine.volume)
        self._t = np.ones(len(engine.volume))

    def refine(self) -> None:
        """Make one pass over all views so far; momentum goes on from the pass before."""
        self._accelerated_pass(_REFINE_SUBSET)

    def _stream(self, newest: IndexArray) -> None:  # noqa: ARG002 - all views are as good
        self._t[:] = 1
        self._accelerated_pass(_SUBSET)

    def _accelerated_pass(self, subset: int) -> None:
        dealt = ordered_subsets(self.angles_rad[: self.views], max(1, self.views // subset))
        volume = self.engine.volume
        beyond = np.empty_like(volume)
        for chosen in dealt:
            following = np.minimum((1 + np.sqrt(1 + 4 * self._t**2)) / 2, _LARGEST_T)
            for index, image in enumerate(volume):
                momentum = np.float32((self._t[index] - 1) / following[index])
                np.subtract(image, self._before[index], out=beyond[index])
                beyond[index] *= momentum
                beyond[index] += image
                self._before[index] = image
                image[:] = beyond[index]
            self._t = following
            self._update(chosen)
            self._denoise(1)
            for index, image in enumerate(volume):
                back = np.vdot(beyond[index] - image, image - self._before[index])
                if back > 0:
                    self._t[index] = 1

    def keep(self, begin: int, end: int) -> None:
        """Forget all slices but those from `begin` up to and without `end`.

        Raises
        ------
        ValueError
            There are no such slices.
        """
        super().keep(begin, end)
        self._before = self._before[begin:end].copy()
        self._t = self._t[begin:end].copy()

    def restart(self) -> None:
        """Begin anew with the views that are there, without momentum."""
        super().restart()
        self._before[:] = 0
        self._t[:] = 1

    def state(self) -> State:
        """Return also the momentum."""
        return {**super().state(), "before": self._before, "momentum": self._t}

    def restore(
        self, state: Mapping[str, npt.NDArray[np.generic]], angles_rad: npt.NDArray[np.float64]
    ) -> None:
        """Go on from a `state`.

        Raises
        ------
        InputError
            It is that of other slices, or of another algorithm.
        """
        super().restore(state, angles_rad)
        self._before[:] = self._part(state, "before", self._before.shape)
        self._t[:] = self._part(state, "momentum", self._t.shape)

    @classmethod
    def extra_bytes(cls, *, slices: int, columns: int, views: int) -> int:
        """Bytes that it needs besides the engine: two more volumes."""
        return super().extra_bytes(slices=slices, columns=columns, views=views) + 8 * slices * columns**2
