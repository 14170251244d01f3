"""Slices are shared out evenly, in order, and completely."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import InputError
from ministream.partition import slice_range


@given(st.integers(1, 200), st.integers(1, 200))
def test_every_slice_has_one_worker(total: int, size: int) -> None:
    if total < size:
        with pytest.raises(InputError, match="at least one"):
            slice_range(total, 0, size)
        return
    ranges = [slice_range(total, rank, size) for rank in range(size)]
    assert [index for part in ranges for index in part] == list(range(total))
    lengths = [len(part) for part in ranges]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


def test_the_first_ranks_have_one_more() -> None:
    assert [slice_range(11, rank, 4) for rank in range(4)] == [
        range(3),
        range(3, 6),
        range(6, 9),
        range(9, 11),
    ]


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_is_not_there_is_refused(rank: int, size: int) -> None:
    with pytest.raises(InputError, match=str(rank)):
        slice_range(10, rank, size)
