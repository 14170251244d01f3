"""Slices are shared out evenly, in order, and completely."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministream.errors import InputError
from ministream.partition import overlap, share_slices, slice_range


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


@given(st.integers(1, 24), st.lists(st.integers(0, 24), max_size=6), st.integers(0, 3), st.randoms())
def test_slices_are_shared_so_that_the_fewest_change_hands(
    total: int, cuts: list[int], newcomers: int, chance: random.Random
) -> None:
    edges = sorted({cut for cut in cuts if cut <= total})
    held = [range(*pair) for pair in zip(edges[::2], edges[1::2], strict=False)] + [range(0)] * newcomers
    chance.shuffle(held)
    shares = share_slices(total, held)
    if not held:
        assert shares == []
        return
    assert sorted(index for share in shares for index in share) == list(range(total))
    lengths = [len(share) for share in shares if share]
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) == min(total, len(held))
    if len(held) <= total:
        stays = sum(len(overlap(*pair)) for pair in zip(held, shares, strict=True))
        assert stays == most_that_can_stay(total, held)


@given(
    st.integers(1, 24),
    st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 24)), min_size=1, max_size=6),
    st.randoms(),
)
def test_nobody_gets_more_than_there_is_room_for(
    total: int, workers: list[tuple[bool, int | None]], chance: random.Random
) -> None:
    cuts = sorted(chance.randrange(total + 1) for _ in range(2 * len(workers)))
    held = [range(*cuts[2 * n : 2 * n + 2]) if holds else range(0) for n, (holds, _) in enumerate(workers)]
    room = [most for _, most in workers]
    most = [total if limit is None else min(limit, total) for limit in room]
    if sum(most) < total:
        with pytest.raises(InputError, match=f"{total} slices, and room for {sum(most)} at {len(held)}"):
            share_slices(total, held, room)
        return
    shares = share_slices(total, held, room)
    assert sorted(index for share in shares for index in share) == list(range(total))
    assert all(len(share) <= limit for share, limit in zip(shares, most, strict=True))
    # as equal as can be: who has room for more has at least as much as anybody, but for one
    for share, limit in zip(shares, most, strict=True):
        if len(share) < limit and len(shares) <= total:
            assert len(share) >= max(map(len, shares)) - 1
    holders = [
        share.start
        for share, was in sorted(zip(shares, held, strict=True), key=lambda x: x[1].start)
        if was and share
    ]
    assert holders == sorted(holders)


@pytest.mark.parametrize(
    ("held", "shares"),
    [
        ([range(6), range(3)], [range(3, 6), range(3)]),
        ([range(6), range(3, 6)], [range(3), range(3, 6)]),
        ([range(3), range(6)], [range(3), range(3, 6)]),
    ],
)
def test_one_that_comes_back_gets_its_own(held: list[range], shares: list[range]) -> None:
    assert share_slices(6, held) == shares


def most_that_can_stay(total: int, held: list[range]) -> int:
    """Try every order of the workers that keeps the order of those who hold slices."""
    best = 0
    for order in itertools.permutations(range(len(held))):
        holders = [worker for worker in order if held[worker]]
        if holders == sorted(holders, key=lambda worker: held[worker].start):
            parts = [slice_range(total, place, len(held)) for place in range(len(held))]
            best = max(
                best,
                sum(len(overlap(held[worker], part)) for worker, part in zip(order, parts, strict=True)),
            )
    return best
