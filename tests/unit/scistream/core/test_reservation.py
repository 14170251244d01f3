"""Pools of ports: free or held, never both."""

from __future__ import annotations

import pytest

from scistream.core.reservation import EphemeralPool, PortPool
from scistream.errors import InvalidArgument, ResourceExhausted


def test_a_taken_port_is_not_given_out_again_until_it_is_given_back() -> None:
    pool = PortPool(range(5100, 5103))
    first = pool.take(2)
    second = pool.take(1)
    assert set(first) | set(second) == {5100, 5101, 5102}
    with pytest.raises(ResourceExhausted, match="1 ports wanted, 0 of 3 free"):
        pool.take(1)
    pool.give_back(first)
    assert set(pool.take(2)) == set(first)


def test_a_shortage_holds_nothing() -> None:
    pool = PortPool(range(5100, 5103))
    with pytest.raises(ResourceExhausted):
        pool.take(2, avoid={5100, 5101})
    assert (pool.free, pool.held) == (3, 0)


def test_the_port_given_back_longest_ago_comes_first() -> None:
    pool = PortPool(range(5100, 5103))
    pool.give_back(pool.take(1))
    assert pool.take(2) == (5101, 5102)


@pytest.mark.parametrize("ports", [[], [5100, 5100], [0], [65536]])
def test_ranges_that_are_none_are_refused(ports: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        PortPool(ports)


def test_giving_back_what_was_not_taken_is_an_error() -> None:
    pool = PortPool([5100])
    with pytest.raises(InvalidArgument):
        pool.give_back([5100])
    with pytest.raises(InvalidArgument):
        EphemeralPool(1).give_back([0])


def test_an_ephemeral_pool_is_bounded() -> None:
    pool = EphemeralPool(2)
    assert pool.take(2) == (0, 0)
    with pytest.raises(ResourceExhausted):
        pool.take(1)
    pool.give_back((0,))
    assert pool.free == 1
    with pytest.raises(InvalidArgument):
        EphemeralPool(0)
