"""In which order the views of a scan are played.

References
----------
.. [1] J. G. van der Corput, "Verteilungsfunktionen I", Proc. Akad. Amsterdam 38, 1935: the sequence whose
   numbers are those of the natural ones with their digits reversed.
.. [2] T. Köhler, "A projection access scheme for iterative reconstruction based on the golden section",
   IEEE Nuclear Science Symposium 2004: successive views lie a golden section of the range apart.
.. [3] The APS streaming mini-app plays a file in ordered subsets of 16 frames.
"""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
import numpy.typing as npt

_GOLDEN_SECTION = (math.sqrt(5) - 1) / 2
_VIEWS_PER_PASS = 16


class ViewOrder(StrEnum):
    """How the views follow each other."""

    AS_MEASURED = "as-measured"
    INTERLACED = "interlaced"
    """Passes of 16 views over the whole range, each beginning one view after the one before [3]_."""
    GOLDEN_ANGLE = "golden-angle"
    """Each view a golden section of the range after the one before: any number of views is well spread."""
    BIT_REVERSED = "bit-reversed"
    """Any first part of the views is spread over the whole range, so that the object shows early."""


def view_order(count: int, order: ViewOrder) -> npt.NDArray[np.intp]:
    """Return the indices of `count` views in the order in which they are played.

    Bit-reversed is the van der Corput order [1]_ of the next power of two, without the indices that are not
    there. Golden angle [2]_ takes, of the views that are left, the one nearest to where the golden section
    points. Interlaced is what the mini-app calls ordered subsets [3]_.
    """
    match order:
        case ViewOrder.AS_MEASURED:
            return np.arange(count)
        case ViewOrder.INTERLACED:
            stride = max(1, math.ceil(count / _VIEWS_PER_PASS))
            return np.concatenate([np.arange(first, count, stride) for first in range(stride)])
        case ViewOrder.GOLDEN_ANGLE:
            return _golden(count)
        case ViewOrder.BIT_REVERSED:
            return _bit_reversed(count)


def _bit_reversed(count: int) -> npt.NDArray[np.intp]:
    bits = max(1, (count - 1).bit_length())
    forward = np.arange(1 << bits)
    reversed_ = np.zeros_like(forward)
    for bit in range(bits):
        reversed_ |= ((forward >> bit) & 1) << (bits - 1 - bit)
    return reversed_[reversed_ < count]


def _golden(count: int) -> npt.NDArray[np.intp]:
    # a taken view points towards the next free one on its side; following shortens the path for the next
    above = list(range(count + 1))
    below = list(range(count + 1))
    order = np.empty(count, np.intp)
    for position in range(count):
        wanted = position * _GOLDEN_SECTION % 1 * count
        upper, lower = _follow(above, int(wanted) + 1), _follow(below, int(wanted) + 1) - 1
        use_upper = upper < count and (lower < 0 or upper - wanted < wanted - lower)
        view = upper if use_upper else lower
        order[position] = view
        above[view] = view + 1
        # `below` is shifted by one, so that 0 means that none is left
        below[view + 1] = view
    return order


def _follow(links: list[int], start: int) -> int:
    end = start
    while links[end] != end:
        end = links[end]
    while links[start] != end:
        links[start], start = end, links[start]
    return end
