"""NTNDArray, the EPICS type of an image [1]_: its pixels, number and attributes.

References
----------
.. [1] EPICS V4 Normative Types, https://docs.epics-controls.org/en/latest/pv-access/Normative-Types-Specification.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.sources.codecs import decompress

# codec.parameters is the number of the pixels' type among pvData's scalar types
_SCALAR_TYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


@dataclass(frozen=True, slots=True, eq=False)
class DetectorImage:
    """One image.

    Parameters
    ----------
    unique_id : int
        The detector's number of it.
    pixels : (row, column)
        Of the detector's type.
    attributes : mapping
        By name.
    """

    unique_id: int
    pixels: npt.NDArray[Any]
    attributes: Mapping[str, Any]


def is_empty(value: Any) -> bool:
    """Whether a PV shows no image yet."""
    return value["value"] is None or len(value["dimension"]) == 0 or len(value["value"]) == 0


def decode(value: Any) -> DetectorImage:
    """Return the image in an NTNDArray structure.

    Raises
    ------
    InputError
        It is not one of rows and columns, or cannot be decompressed.
    """
    number = int(value["uniqueId"])
    # x comes first
    shape = tuple(int(extent["size"]) for extent in reversed(value["dimension"]))
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(
            f"frame {number} has {len(shape)} dimensions {shape}; an image of rows and columns without "
            "colours is needed: set the detector's ColorMode to Mono"
        )
    data = np.asarray(value["value"])
    codec = str(value["codec"]["name"])
    if codec:
        dtype = _original_type(value["codec"]["parameters"], codec, number)
        data = decompress(codec, data.view(np.uint8), dtype, math.prod(shape))
    if data.size != math.prod(shape):
        raise InputError(f"frame {number} holds {data.size} pixels; {shape[0]} x {shape[1]} were announced")
    attributes = {str(entry["name"]): entry["value"] for entry in value["attribute"]}
    return DetectorImage(number, data.reshape(shape), attributes)


def pixel_type_of(dtype: np.dtype[Any]) -> str:
    """Return the type of frames in which a detector's pixels are sent: the narrowest that holds them.

    Integers above 2**24 and float64 are rounded to float32.
    """
    if dtype.kind == "b" or dtype == np.uint8:
        return "uint8"
    return "uint16" if dtype == np.uint16 else "float32"


def _original_type(parameters: Any, codec: str, number: int) -> np.dtype[Any]:
    if not isinstance(parameters, int | np.integer) or not 0 <= int(parameters) < len(_SCALAR_TYPES):
        raise InputError(
            f"frame {number} is compressed by {codec}, and codec.parameters {parameters!r} does not say of "
            "what type its pixels were (0 to 10)"
        )
    return np.dtype(_SCALAR_TYPES[int(parameters)])
