"""Pixels of files in one of the three types that a frame may have; what no detector gives is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError


def common_type(dtypes: Mapping[str, np.dtype[Any]]) -> str:
    """Return the pixel type that holds frames of all these types.

    Parameters
    ----------
    dtypes : mapping
        From where the frames lie to their type.

    Raises
    ------
    InputError
        One of them is not a type of pixels.
    """
    for where, dtype in dtypes.items():
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise InputError(f"{where} holds {dtype}; pixels are integers or floating-point numbers")
    if any(dtype.kind == "f" for dtype in dtypes.values()):
        return "float32"
    return "uint8" if all(dtype == np.uint8 for dtype in dtypes.values()) else "uint16"


def as_type(pixels: npt.NDArray[Any], pixel_type: str, where: str) -> npt.NDArray[Any]:
    """Return a frame, (row, column), in `pixel_type`; it is not copied where it has the type already.

    Raises
    ------
    InputError
        It holds NaN, infinity, or a number beyond the type; the message begins with `where`.
    """
    if pixels.dtype.kind in "iu":
        # what fits 16 bits is exact in float32 too
        if pixels.dtype.name not in ("uint8", "uint16") and (pixels.min() < 0 or pixels.max() > 65535):
            raise InputError(
                f"{where} holds counts from {pixels.min()} to {pixels.max()}; integers must lie in 0 to 65535"
            )
    elif not np.isfinite(pixels).all():
        row, column = np.argwhere(~np.isfinite(pixels))[0]
        raise InputError(
            f"{where} holds {pixels[row, column]} at row {row}, column {column}; "
            "every count must be a finite number"
        )
    with np.errstate(over="ignore"):
        converted = pixels.astype(pixel_type, copy=False)
    if pixels.dtype.kind == "f" and pixels.dtype.itemsize > 4 and not np.isfinite(converted).all():
        raise InputError(f"{where} holds numbers beyond the range of float32")
    return converted


def type_for(value: float) -> type[np.generic]:
    """Return the smallest type for a count that stands for a whole field."""
    return np.uint16 if float(value).is_integer() and 0 <= value <= 65535 else np.float32
