"""Orders of views are permutations, and bit-reversed ones spread early."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.sources import ViewOrder, view_order


@given(st.integers(0, 2000), st.sampled_from(ViewOrder))
def test_every_view_comes_once(count: int, order: ViewOrder) -> None:
    assert sorted(view_order(count, order)) == list(range(count))


def test_as_measured_changes_nothing() -> None:
    assert list(view_order(5, ViewOrder.AS_MEASURED)) == [0, 1, 2, 3, 4]


def test_bit_reversed_of_a_power_of_two() -> None:
    assert list(view_order(8, ViewOrder.BIT_REVERSED)) == [0, 4, 2, 6, 1, 5, 3, 7]


def test_bit_reversed_of_another_count_leaves_out_what_is_not_there() -> None:
    assert list(view_order(6, ViewOrder.BIT_REVERSED)) == [0, 4, 2, 1, 5, 3]


@pytest.mark.parametrize("count", [100, 181, 256])
def test_the_first_views_are_spread_over_the_range(count: int) -> None:
    for first in (8, 16, 32):
        views = np.sort(view_order(count, ViewOrder.BIT_REVERSED)[:first])
        assert np.diff(views).max() <= 4 * count / first
