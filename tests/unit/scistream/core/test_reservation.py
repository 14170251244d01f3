"""Pools of ports: free or held, never both."""

from __future__ import annotations

import pytest

from scistream.core.reservation import Capacity, EphemeralPool, PortPool
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


def test_ports_held_before_are_held_again_once_and_only_all_together() -> None:
    pool = PortPool(range(5100, 5103))
    pool.hold((5101,))
    assert pool.take(2) == (5100, 5102)
    pool.give_back((5100,))
    with pytest.raises(InvalidArgument, match="port 5101 is held already"):
        pool.hold((5100, 5101))
    assert pool.take(1) == (5100,)


@pytest.mark.parametrize("ports", [(5101, 5101), (6000, 6000), (0,), (65536,)])
def test_ports_that_cannot_be_held_are_refused(ports: tuple[int, ...]) -> None:
    pool = PortPool(range(5100, 5103))
    with pytest.raises(InvalidArgument, match=r"held already|cannot be held"):
        pool.hold(ports)
    assert (pool.free, pool.held) == (3, 0)


def test_a_port_outside_of_the_range_is_held_until_it_is_given_back_and_is_never_given_out() -> None:
    pool = PortPool([5100])
    pool.hold((6000,))
    assert (pool.free, pool.held) == (1, 0)
    with pytest.raises(InvalidArgument, match="port 6000 is held already"):
        pool.hold((6000,))
    pool.give_back((6000,))
    assert pool.take(1) == (5100,)
    with pytest.raises(InvalidArgument):
        pool.give_back((6000,))


def test_an_ephemeral_pool_holds_what_was_held_even_beyond_its_size() -> None:
    pool = EphemeralPool(2)
    pool.hold((40001, 40002, 40003))
    assert pool.free == 0
    pool.give_back((40001, 40002))
    assert pool.take(1) == (0,)


def test_capacity_is_reserved_up_to_its_limit_and_comes_back_exactly() -> None:
    capacity = Capacity(1)
    for _ in range(10):
        capacity.take(0.1)
    assert (capacity.free_mbps, capacity.fits(0.1), capacity.fits(0)) == (0, False, True)
    with pytest.raises(ResourceExhausted, match=r"0\.1 Mb/s wanted, 0 of 1 Mb/s free"):
        capacity.take(0.1)
    for _ in range(10):
        capacity.give_back(0.1)
    assert (capacity.held_mbps, capacity.free_mbps) == (0, 1)
    with pytest.raises(InvalidArgument, match="given back"):
        capacity.give_back(0.1)


def test_capacity_without_limit_counts_only() -> None:
    capacity = Capacity(0)
    capacity.take(1e9)
    assert (capacity.held_mbps, capacity.free_mbps) == (1e9, float("inf"))


@pytest.mark.parametrize("limit_mbps", [-1, float("nan"), float("inf")])
def test_capacities_that_are_none_are_refused(limit_mbps: float) -> None:
    with pytest.raises(InvalidArgument, match="capacity"):
        Capacity(limit_mbps)
