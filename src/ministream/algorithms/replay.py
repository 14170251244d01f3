"""A window of the newest views and a replay of earlier ones, in ordered subsets.

After every `step` views, updates over these and a choice of the earlier ones, `window` views in all: spread
over the directions measured so far, another choice each time, in ordered subsets. As expensive as the
sliding window, and it forgets no view.

Small subsets are faster at first, and would follow the noise by the end; what is denoised in between can
have subsets of 4, without that it is 16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ministream.algorithms.base import Algorithm, State
from ministream.window import IndexArray

_SUBSET = 4
_SUBSET_WITH_NOISE = 16
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Successive replays are shifted by this part of their spacing, so that they cover all views evenly."""


class WindowReplay(Algorithm):
    """Newest views and a spread replay of earlier ones; see the module."""

    name: ClassVar[str] = "window-replay"
    summary: ClassVar[str] = "newest views and a spread replay of earlier ones"

    _replays = 0

    def _stream(self, newest: IndexArray) -> None:  # noqa: ARG002 - those that no update has used
        subset = _SUBSET if self.settings.total_variation else _SUBSET_WITH_NOISE
        self._pass_over(self._with_replay(), subset)

    def _with_replay(self) -> IndexArray:
        """Return the views that no update has used yet, and a spread choice of the others."""
        fresh = np.flatnonzero(~self.used[: self.views])
        size = min(self.settings.window, self.views) - len(fresh)
        if size <= 0:
            return fresh
        shift = (self._replays * _GOLDEN) % 1
        self._replays += 1
        places = ((np.arange(size) + shift) * (self.views / size)).astype(np.intp)
        return np.union1d(fresh, self._by_direction()[places])

    def state(self) -> State:
        """Return also how many replays there were."""
        return {**super().state(), "replays": np.array(self._replays)}

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
        self._replays = int(self._part(state, "replays", ()))
