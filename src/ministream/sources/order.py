"""In which order the views of a scan are played.

References
----------
.. [1] J. G. van der Corput, "Verteilungsfunktionen I", Proc. Akad. Amsterdam 38, 1935: the sequence whose
   numbers are those of the natural ones with their digits reversed.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt


class ViewOrder(StrEnum):
    """How the views follow each other."""

    AS_MEASURED = "as-measured"
    BIT_REVERSED = "bit-reversed"
    """Any first part of the views is spread over the whole range, so that the object shows early."""


def view_order(count: int, order: ViewOrder) -> npt.NDArray[np.intp]:
    """Return the indices of `count` views in the order in which they are played.

    Bit-reversed is the van der Corput order [1]_ of the next power of two, without the indices that are not
    there.
    """
    if order is ViewOrder.AS_MEASURED:
        return np.arange(count)
    bits = max(1, (count - 1).bit_length())
    forward = np.arange(1 << bits)
    reversed_ = np.zeros_like(forward)
    for bit in range(bits):
        reversed_ |= ((forward >> bit) & 1) << (bits - 1 - bit)
    return reversed_[reversed_ < count]
