"""How many images are missing between two, by the detector's own numbers.

NTNDArray's ``uniqueId`` is a signed 32-bit integer. Some cameras count in 16 bits; both wrap around.
"""

from __future__ import annotations

_WRAPS = (1 << 16, 1 << 31, 1 << 32)
_NEAR_WRAP = 4096
"""So near to its end a counter may wrap; elsewhere a smaller number is a detector that began anew."""


class UniqueIds:
    """Follows the numbers of images as they come.

    Attributes
    ----------
    restarts : int
        How often the detector has begun to count anew: what was lost then is not known.
    repeated : int
        How often the same number came twice: such a detector does not count.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self.repeated = 0
        self._last: int | None = None

    @property
    def last(self) -> int | None:
        """The number that came last."""
        return self._last

    def missing_before(self, unique_id: int) -> int:
        """Take note of an image; return how many are missing between the one before and it."""
        last, self._last = self._last, unique_id
        if last is None:
            return 0
        if unique_id == last:
            self.repeated += 1
            return 0
        if unique_id > last:
            return unique_id - last - 1
        for size in _WRAPS:
            step = (unique_id - last) % size
            if size - _NEAR_WRAP <= last % (1 << 32) < size and 0 < step < 2 * _NEAR_WRAP:
                return step - 1
        self.restarts += 1
        return 0
