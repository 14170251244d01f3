"""Ordered subsets over all views so far [1]_.

A pass goes over all views that have come, a few at a time, each time spread over the directions; the slices
get as far in it as by as many whole iterations of SIRT. A pass follows each step at first. Later it waits
until views have become more by ``step / window``, so that each view costs as much as with a sliding window,
however long the scan.

References
----------
.. [1] H. M. Hudson, R. S. Larkin, "Accelerated image reconstruction using ordered subsets of projection
   data", IEEE Trans. Med. Imaging 13 (1994) 601-609, doi:10.1109/42.363108.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ministream.algorithms.base import Algorithm
from ministream.window import IndexArray

_SUBSET = 4
_SUBSET_WITH_NOISE = 12
"""Without denoising, smaller subsets follow the noise."""


class OrderedSubsets(Algorithm):
    """Passes over all views so far, in ordered subsets; see the module."""

    name: ClassVar[str] = "os-sirt"
    summary: ClassVar[str] = "ordered subsets over all views so far"

    def _is_worth_an_update(self) -> bool:
        unused = self.views - int(np.count_nonzero(self.used[: self.views]))
        return unused * self.settings.window >= self.views * self.settings.step

    def _stream(self, newest: IndexArray) -> None:  # noqa: ARG002 - all views are as good
        subset = _SUBSET if self.settings.total_variation else _SUBSET_WITH_NOISE
        self._pass_over(np.arange(self.views), subset)
