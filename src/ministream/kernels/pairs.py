"""What every metric begins with: stacks of slices that fit each other, the pixels that count, the range."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


def pairs(image: FloatArray, truth: FloatArray, mask: Mask | None) -> tuple[FloatArray, FloatArray, Mask]:
    """Return both as float64 stacks of slices, and a mask.

    Parameters
    ----------
    image, truth : (y, x) or (slice, y, x) float
    mask : (y, x) bool or None
        None for all pixels.

    Raises
    ------
    ValueError
        The shapes do not fit, no pixel counts, or a value is not finite.
    """
    if image.shape != truth.shape:
        raise ValueError(f"an image of shape {image.shape} cannot be compared with one of {truth.shape}")
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"shape {image.shape}: (y, x) or (slice, y, x) is needed")
    shape = image.shape[-2:]
    if mask is None:
        mask = np.ones(shape, np.bool_)
    if mask.shape != shape or not mask.any():
        raise ValueError(f"the mask {mask.shape} does not fit slices of {shape}, or holds no pixel")
    for one in (image, truth):
        if spoiled := int(one.size - np.isfinite(one).sum()):
            raise ValueError(f"{spoiled} of {one.size} values are not finite; give them a value first")
    stack = (-1, *shape)
    return image.reshape(stack).astype(np.float64), truth.reshape(stack).astype(np.float64), mask


def span(truth: FloatArray) -> float:
    """Return largest minus smallest value.

    Raises
    ------
    ValueError
        They are the same.
    """
    value = float(truth.max() - truth.min())
    if not value > 0:
        raise ValueError("the reference has one value everywhere: it has no range to measure errors against")
    return value
