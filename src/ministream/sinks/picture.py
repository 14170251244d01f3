"""Pictures for people: some slices of a volume side by side, or one image such as a sinogram, as PNG."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ministream.errors import InputError
from ministream.sinks.atomic import replacing

_GAP = 4
_LABEL_MARGIN = 3
_BACKGROUND = 24
_DARKEST_PERCENT, _BRIGHTEST_PERCENT = 0.5, 99.5
# values that a percentile is taken over: enough to be sure, few enough to be quick
_SAMPLES = 1_000_000


def write_picture(
    path: str | os.PathLike[str],
    images: npt.NDArray[Any],
    *,
    most: int = 6,
    labels: bool = True,
    title: str = "slice",
) -> None:
    """Write a PNG of one image, or of some evenly spaced slices of a stack.

    All slices have the same grey scale, from the 0.5th to the 99.5th percentile; values beyond are black and
    white, and what is not finite is black.

    Parameters
    ----------
    path : str or path
        An older file of that name is replaced.
    images : (y, x) or (slice, y, x) float
    most : int
        Slices at most.
    labels : bool
        Write `title` and its index on each slice of a stack.
    title : str

    Raises
    ------
    InputError
        It has another number of axes, or no pixels.
    OutputError
        The file cannot be written.
    """
    if images.ndim not in (2, 3) or images.size == 0 or most < 1:
        raise InputError(f"a picture is made of (y, x) or (slice, y, x), not of shape {images.shape}")
    stack = images[np.newaxis] if images.ndim == 2 else images
    count = min(most, len(stack))
    # each the middle one of its part
    chosen = [int((index + 0.5) * len(stack) / count) for index in range(count)]
    tiles = stack[chosen].astype(np.float32)
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    height, width = tiles.shape[1:]
    canvas = Image.new("L", (across * (width + _GAP) - _GAP, down * (height + _GAP) - _GAP), _BACKGROUND)
    grey = _grey(tiles)
    for place, (index, tile) in enumerate(zip(chosen, grey, strict=True)):
        x, y = place % across * (width + _GAP), place // across * (height + _GAP)
        canvas.paste(Image.fromarray(tile), (x, y))
        if labels and images.ndim == 3:
            ImageDraw.Draw(canvas).text((x + _LABEL_MARGIN, y + _LABEL_MARGIN), f"{title} {index}", fill=255)
    target = Path(path)
    with replacing(target) as draft:
        canvas.save(draft, format="PNG")


def _grey(tiles: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the tiles in 256 shades."""
    values = tiles[np.isfinite(tiles)]
    if values.size == 0:
        return np.zeros(tiles.shape, np.uint8)
    sample = values[:: max(1, values.size // _SAMPLES)]
    low, high = np.percentile(sample, [_DARKEST_PERCENT, _BRIGHTEST_PERCENT])
    if high <= low:
        # nearly all of it is one value
        low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    shades = np.nan_to_num((tiles - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    grey: npt.NDArray[np.uint8] = np.clip(np.rint(shades), 0, 255).astype(np.uint8)
    return grey
