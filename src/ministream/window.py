"""Which views the next update works on: while they arrive, and once all are there.

Views are indices, as the reconstruction numbers them; nothing here knows measurements or slices.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError

IndexArray = npt.NDArray[np.intp]


class SlidingWindow:
    """The newest views, of which an update is due each time that so many more have arrived.

    Parameters
    ----------
    length : int
        Most views of an update: the newest ones.
    step : int
        Arrivals from one update to the next; not more than `length`, or views would never be used.

    Raises
    ------
    InputError
        A number is out of its range.

    Examples
    --------
    >>> window = SlidingWindow(length=3, step=2)
    >>> [None if due is None else due.tolist() for due in map(window.push, range(5))]
    [None, [0, 1], None, [1, 2, 3], None]
    >>> window.flush().tolist()
    [2, 3, 4]
    """

    def __init__(self, length: int, step: int) -> None:
        if length < 1:
            raise InputError(f"window length is {length}: at least 1 view is needed")
        if not 1 <= step <= length:
            raise InputError(f"window step is {step}: from 1 to the window's length, {length}, is needed")
        self.length = length
        self.step = step
        self._views: deque[int] = deque(maxlen=length)
        self._waiting = 0

    def push(self, view: int) -> IndexArray | None:
        """Take in a view that has arrived; return the views of the update that is due, or None."""
        self._views.append(view)
        self._waiting += 1
        return self.flush() if self._waiting == self.step else None

    @property
    def newest(self) -> IndexArray:
        """The newest views, at most `length`, the oldest first."""
        return np.array(self._views, np.intp)

    @property
    def waiting(self) -> int:
        """Views that have arrived since the last update was due."""
        return self._waiting

    def restore(self, newest: IndexArray, waiting: int) -> None:
        """Go on where another window was, with its `newest` views, of which so many are `waiting`.

        Raises
        ------
        InputError
            No window of this length and step can be there.
        """
        if not 0 <= waiting < self.step or not waiting <= len(newest) <= self.length:
            raise InputError(
                f"a window of {self.length} views, due every {self.step}, cannot hold {len(newest)} views"
                f" of which {waiting} wait"
            )
        self._views = deque(newest.tolist(), maxlen=self.length)
        self._waiting = waiting

    def flush(self) -> IndexArray | None:
        """Return the window if a view has arrived since the last update, else None: when the scan ends."""
        if self._waiting == 0:
            return None
        self._waiting = 0
        return self.newest


def ordered_subsets(angles_rad: Sequence[float] | npt.NDArray[np.float64], subsets: int) -> list[IndexArray]:
    """Deal the views out to subsets, each of them spread evenly over the directions.

    Views half a turn apart see the same lines, so they count as neighbours. Neighbours go to different
    subsets, and the subsets follow each other in bit-reversed order, so that consecutive ones differ most.

    Parameters
    ----------
    angles_rad : (view,) float
        In any order; the position is the view's index.
    subsets : int
        As many as wanted; at most one for each view is made.

    Returns
    -------
    list of (k,) intp
        View indices: each view once, subsets of equal size or one less.

    Raises
    ------
    InputError
        There are no views, or fewer than one subset was asked for.

    Examples
    --------
    >>> [subset.tolist() for subset in ordered_subsets([0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1], 4)]
    [[0, 4], [2, 6], [1, 5], [3, 7]]
    """
    angles = np.asarray(angles_rad, np.float64)
    if angles.size == 0:
        raise InputError("there are no views to make subsets of")
    if subsets < 1:
        raise InputError(f"subsets is {subsets}: at least 1 is needed")
    count = min(subsets, angles.size)
    by_direction = np.argsort(np.mod(angles, math.pi), kind="stable")
    bits = max(1, (count - 1).bit_length())
    turns = sorted(range(count), key=lambda turn: int(f"{turn:0{bits}b}"[::-1], 2))
    return [by_direction[turn::count].astype(np.intp) for turn in turns]
