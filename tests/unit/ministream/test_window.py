"""`ministream.window`: which views are due when."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import InputError
from ministream.window import SlidingWindow, ordered_subsets


@given(length=st.integers(1, 40), step=st.integers(1, 40), arrivals=st.integers(0, 120))
def test_window_is_due_each_step_with_the_newest_views(length: int, step: int, arrivals: int) -> None:
    step = min(step, length)
    window = SlidingWindow(length, step)
    for view in range(arrivals):
        due = window.push(view)
        if (view + 1) % step:
            assert due is None
        else:
            assert due is not None
            assert due.tolist() == list(range(max(0, view + 1 - length), view + 1))


@given(length=st.integers(1, 40), step=st.integers(1, 40), arrivals=st.integers(1, 120))
def test_every_view_is_in_an_update_once_the_window_is_flushed(length: int, step: int, arrivals: int) -> None:
    window = SlidingWindow(length, min(step, length))
    used: set[int] = set()
    for due in [*(window.push(view) for view in range(arrivals)), window.flush()]:
        used.update([] if due is None else due.tolist())
    assert used == set(range(arrivals))


def test_flush_neither_repeats_an_update_nor_shrinks_the_window() -> None:
    window = SlidingWindow(4, 2)
    assert window.flush() is None
    for view in range(7):
        window.push(view)
    last = window.flush()
    assert last is not None
    assert last.tolist() == [3, 4, 5, 6]
    assert window.flush() is None


def test_views_need_not_be_consecutive() -> None:
    window = SlidingWindow(2, 1)
    window.push(9)
    due = window.push(4)
    assert due is not None
    assert due.tolist() == [9, 4]
    assert due.dtype == np.intp


@pytest.mark.parametrize(("length", "step"), [(0, 1), (-1, 1), (4, 0), (4, 5), (4, -2)])
def test_impossible_window_is_refused_with_its_numbers(length: int, step: int) -> None:
    with pytest.raises(InputError, match=str(length if length < 1 else step)):
        SlidingWindow(length, step)


@given(
    angles=st.lists(st.floats(-20, 20), min_size=1, max_size=60),
    subsets=st.integers(1, 80),
)
def test_subsets_hold_each_view_once_and_are_of_about_equal_size(angles: list[float], subsets: int) -> None:
    dealt = ordered_subsets(angles, subsets)
    assert len(dealt) == min(subsets, len(angles))
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(angles)))
    sizes = [len(subset) for subset in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert all(subset.dtype == np.intp for subset in dealt)


@pytest.mark.parametrize("turns", [0.5, 1.0, 3.0])
def test_each_subset_covers_the_directions_evenly_whatever_the_order(turns: float) -> None:
    angles = np.linspace(0, 2 * math.pi * turns, 120, endpoint=False)
    angles = np.random.default_rng(1).permutation(angles)
    for subset in ordered_subsets(angles, 12):
        directions = np.sort(angles[subset] % math.pi)
        gaps = np.diff(np.append(directions, directions[0] + math.pi))
        assert gaps.max() < 2 * math.pi / 10  # even would be pi / 10


def test_consecutive_subsets_are_not_neighbours() -> None:
    angles = np.linspace(0, math.pi, 64, endpoint=False)
    first = [int(subset[0]) for subset in ordered_subsets(angles, 8)]
    assert first == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize(("angles", "subsets"), [([], 3), ([0.0, 1.0], 0), ([0.0], -1)])
def test_impossible_subsets_are_refused(angles: list[float], subsets: int) -> None:
    with pytest.raises(InputError, match="views" if not angles else str(subsets)):
        ordered_subsets(angles, subsets)
