"""The sliding window of the APS streaming mini-app [1]_.

After every `step` views, `iterations` updates over the newest `window` of them, never denoised. What
earlier views have told stays in the slices until newer ones overwrite it: so it follows an object that
changes, and its slices know the newest views best.

After the last view, passes over all views as of the other algorithms, which the mini-app does not have.

References
----------
.. [1] T. Bicer et al., "Real-time data analysis and autonomous steering of synchrotron light source
   experiments", IEEE eScience 2017, 59-68, doi:10.1109/eScience.2017.53.
"""

from __future__ import annotations

from typing import ClassVar

from ministream.algorithms.base import Algorithm
from ministream.window import IndexArray


class WindowSirt(Algorithm):
    """SIRT over the newest views; see the module."""

    name: ClassVar[str] = "sirt"
    summary: ClassVar[str] = "sliding window of the newest views, as the mini-app"

    def _stream(self, newest: IndexArray) -> None:
        self._update(newest)
