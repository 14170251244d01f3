"""Orders of views are permutations, and the spread ones spread early."""

from __future__ import annotations

import math

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


def test_interlaced_passes_have_sixteen_views_of_the_whole_range() -> None:
    views = view_order(48, ViewOrder.INTERLACED)
    for turn in range(3):
        assert list(views[16 * turn : 16 * turn + 16]) == list(range(turn, 48, 3))
    # where 16 do not divide the count, the mini-app has the stride of the next larger one
    assert list(view_order(33, ViewOrder.INTERLACED)[:12]) == [*range(0, 33, 3), 1]


def test_golden_angle_points_by_the_golden_section() -> None:
    count = 10_000
    views = view_order(count, ViewOrder.GOLDEN_ANGLE)
    section = (math.sqrt(5) - 1) / 2
    wanted = np.arange(count) * section % 1 * count
    # while there is room, a view is the nearest one to where it should be
    np.testing.assert_allclose(views[:1000], wanted[:1000], atol=0.5 + 1e-6)


@pytest.mark.parametrize("count", [100, 181, 256])
@pytest.mark.parametrize(("order", "within"), [(ViewOrder.BIT_REVERSED, 4), (ViewOrder.GOLDEN_ANGLE, 2.2)])
def test_the_first_views_are_spread_over_the_range(count: int, order: ViewOrder, within: float) -> None:
    for first in (8, 16, 32):
        views = np.sort(view_order(count, order)[:first])
        assert np.diff(views).max() <= within * count / first


@pytest.mark.parametrize("first", [5, 11, 19, 37])
def test_any_number_of_golden_views_is_spread(first: int) -> None:
    """Three distances at most, the largest below 2.62 of the mean: also between powers of two."""
    views = np.sort(view_order(1000, ViewOrder.GOLDEN_ANGLE)[:first])
    around = np.diff(np.append(views, views[0] + 1000))
    assert around.max() <= 2.62 * 1000 / first + 1
