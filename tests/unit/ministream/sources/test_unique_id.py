"""What is missing between two images, also where the detector's counter wraps or begins anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.sources.unique_id import UniqueIds


def missing(*numbers: int) -> tuple[int, UniqueIds]:
    ids = UniqueIds()
    return sum(map(ids.missing_before, numbers)), ids


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ((5, 6, 7), 0),
        ((5, 6, 9), 2),
        ((-3, -1), 1),
        # 16 bits
        ((65534, 65535, 0, 1), 0),
        ((65535, 1), 1),
        ((65530, 3), 8),
        # 32 bits, signed, and those who leave out the sign
        ((2**31 - 1, -(2**31)), 0),
        ((2**31 - 2, -(2**31) + 1), 2),
        ((2**31 - 1, 0), 0),
        ((-1, 0, 1), 0),
        # a 32-bit counter may pass by the 16-bit one's end
        ((65535, 65536, 65537), 0),
    ],
)
def test_gaps_are_counted_also_where_the_counter_wraps(numbers: tuple[int, ...], lost: int) -> None:
    count, ids = missing(*numbers)
    assert (count, ids.restarts, ids.repeated) == (lost, 0, 0)


def test_a_counter_that_begins_anew_is_no_gap() -> None:
    count, ids = missing(500, 501, 1, 2)
    assert (count, ids.restarts) == (0, 1)
    count, ids = missing(40_000, 0)
    assert (count, ids.restarts) == (0, 1)


def test_a_detector_that_does_not_count_is_noticed() -> None:
    count, ids = missing(0, 0, 0)
    assert (count, ids.repeated, ids.last) == (0, 2, 0)


@given(
    start=st.integers(-(2**31), 2**31 - 1),
    steps=st.lists(st.integers(1, 4000), max_size=20),
    bits=st.sampled_from([16, 32]),
)
def test_what_a_counter_leaves_out_is_what_is_missing(start: int, steps: list[int], bits: int) -> None:
    def shown(count: int) -> int:
        wrapped = count % 2**bits
        return wrapped - 2**32 if bits == 32 and wrapped >= 2**31 else wrapped

    ids = UniqueIds()
    count = start % 2**bits
    ids.missing_before(shown(count))
    for step in steps:
        count += step
        assert ids.missing_before(shown(count)) == step - 1
    assert ids.restarts == 0
