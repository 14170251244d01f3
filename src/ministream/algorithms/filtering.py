"""The filtered back projection of all views so far, as the slices of an engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ministream.kernels.fbp import angular_weights
from ministream.kernels.sirt import SirtEngine

_FILTER = "hann"
"""The smoothest: few views are no reason to show all of the noise."""


def filtered_image(engine: SirtEngine, angles_rad: npt.NDArray[np.float64]) -> None:
    """Set the engine's slices to the filtered back projection of its views.

    Parameters
    ----------
    engine : SirtEngine
    angles_rad : (view,) float64
        Of all its views, in order.
    """
    engine.reset()
    engine.add_filtered(np.arange(len(angles_rad)), angular_weights(angles_rad), _FILTER)
    if engine.nonnegative:
        np.maximum(engine.volume, 0, out=engine.volume)
