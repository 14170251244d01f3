"""Limits on calls under way, and the delays of those who guess."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.control.crowds import (
    FIRST_DELAY_S,
    FORGET_S,
    FREE_FAILURES,
    LONGEST_DELAY_S,
    MAX_WAITING,
    Crowd,
    FailedAttempts,
    address_of,
)
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import AuthenticationError, ResourceExhausted, SciStreamError
from support.control_servers import Start
from support.watching import until

APP = Endpoint("127.0.0.1", 9)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:40000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:0:1::5%5D:40000", "2001:db8:0:1::/64"),
        ("ipv6:[2001:db8:0:1:ffff::5]:40000", "2001:db8:0:1::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:40000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40000", "fe80::/64"),
        ("unix:/tmp/x", "unix:/tmp/x"),
        ("", ""),
    ],
)
def test_an_address_is_counted_whatever_its_port_and_an_ipv6_network_as_one(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_so_many_may_be_under_way_and_nothing_is_kept_of_those_that_are_over() -> None:
    crowd = Crowd("user", 2)
    with crowd.one_of("alice"), crowd.one_of("alice"), crowd.one_of("bob"):
        with (
            pytest.raises(ResourceExhausted, match="2 calls of this user"),
            crowd.one_of("alice"),
        ):
            pass
        assert len(crowd) == 2
    assert len(crowd) == 0


def test_delays_double_up_to_the_longest_and_are_forgotten_after_a_while() -> None:
    now_s = 1000.0
    attempts = FailedAttempts(lambda: now_s)
    delays = [attempts.delay_s("a") for _ in range(12)]
    assert delays[:FREE_FAILURES] == [0] * FREE_FAILURES
    assert delays[FREE_FAILURES : FREE_FAILURES + 3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == LONGEST_DELAY_S
    assert attempts.delay_s("b") == 0
    now_s += FORGET_S + 1
    assert attempts.delay_s("a") == 0


@given(st.lists(st.integers(0, 1_000_000), max_size=50))
def test_memory_is_bounded_whoever_comes(addresses: list[int]) -> None:
    attempts = FailedAttempts()
    for number in range(5000):
        attempts.delay_s(f"{number}")
    for number in addresses:
        attempts.delay_s(str(number))
    assert len(attempts) <= 4096


@pytest.mark.attack("guessing tokens")
async def test_who_guesses_waits_and_too_many_at_a_time_are_refused_unheard(start: Start) -> None:
    running = await start()
    guesser = replace(running.facility(), token="guessed")
    began_s = time.monotonic()
    async with guesser.connect() as client:
        for _ in range(FREE_FAILURES + 2):
            with pytest.raises(AuthenticationError):
                await client.status()
        assert time.monotonic() - began_s >= FIRST_DELAY_S * 3
        guesses = [asyncio.create_task(client.status()) for _ in range(3 * MAX_WAITING)]
        outcomes = await asyncio.gather(*guesses, return_exceptions=True)
    refused_unheard = [one for one in outcomes if isinstance(one, ResourceExhausted)]
    assert len(refused_unheard) >= MAX_WAITING
    assert all(isinstance(one, SciStreamError) for one in outcomes)
    async with running.facility().connect() as alice:
        began_s = time.monotonic()
        await alice.status()
        assert time.monotonic() - began_s < FIRST_DELAY_S * 4


async def test_a_user_with_many_calls_under_way_is_refused_more_and_others_are_not(start: Start) -> None:
    running = await start(calls_per_user=3)
    async with running.facility().connect() as alice, running.facility("bob").connect() as bob:
        waiting = [asyncio.create_task(alice.request(f"u{number}", Role.PRODUCER)) for number in range(3)]
        await until(lambda: len(list(running.server._runtime._table)) == 3)  # type: ignore[union-attr]
        with pytest.raises(ResourceExhausted, match="3 calls of this user"):
            await alice.status()
        assert await bob.status() == ()
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_address_with_many_calls_under_way_is_refused_more(start: Start) -> None:
    running = await start(calls_per_address=2)
    async with running.facility().connect() as alice, running.facility("bob").connect() as bob:
        waiting = [asyncio.create_task(alice.request(f"u{number}", Role.PRODUCER)) for number in range(2)]
        await until(lambda: len(list(running.server._runtime._table)) == 2)  # type: ignore[union-attr]
        with pytest.raises(ResourceExhausted, match="2 calls of this address"):
            await bob.status()
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        served = False
        while not served:  # the server learns of the cancellation in a moment
            try:
                await bob.status()
                served = True
            except ResourceExhausted:
                await asyncio.sleep(0.02)
