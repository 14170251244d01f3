"""Filtered back projection: a preview, not an iteration.

The slices are those of all views so far, weighed by the angle for which each stands. Whenever enough views
have come they are made anew, so that a change of the calibration is in the next image. When, is as with
ordered subsets: each step at first, then as views become more by ``step / window``.

Its noise is that of the views: nothing takes it out. Passes after the last view are those of the other
algorithms, which begin with this image.
"""

from __future__ import annotations

from typing import ClassVar

from ministream.algorithms.filtering import filtered_image
from ministream.algorithms.ordered_subsets import OrderedSubsets
from ministream.window import IndexArray


class FilteredBackprojection(OrderedSubsets):
    """The image of all views so far, without iteration; see the module."""

    name: ClassVar[str] = "fbp"
    summary: ClassVar[str] = "filtered back projection of all views so far, as a preview"

    def _stream(self, newest: IndexArray) -> None:
        self.residual = self.engine.residual(newest)
        filtered_image(self.engine, self.angles_rad[: self.views])
        self.updates += 1
        self.used[: self.views] = True
