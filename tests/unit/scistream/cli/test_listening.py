"""Whether a program listens somewhere, seen without connecting to it where it is on this host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scistream.cli.listening import Place
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, DeadlineExceeded


@contextmanager
def listening(host: str, family: int = socket.AF_INET, *, dual: bool = False) -> Iterator[socket.socket]:
    with socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as listener:
        listener.settimeout(0)
        yield listener


async def is_listening(host: str, port: int) -> bool:
    return await (await Place.find(Endpoint(host, port))).is_listening()


@pytest.mark.parametrize(
    ("bound", "family", "asked"),
    [
        ("127.0.0.1", socket.AF_INET, ["127.0.0.1", "localhost"]),
        ("0.0.0.0", socket.AF_INET, ["127.0.0.1", "127.0.0.9"]),
        ("::1", socket.AF_INET6, ["::1"]),
    ],
)
async def test_a_listener_of_this_host_is_seen_and_gets_no_connection(
    bound: str, family: int, asked: list[str]
) -> None:
    with listening(bound, family) as listener:
        for host in asked:
            assert await is_listening(host, listener.getsockname()[1])
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_a_listener_for_both_families_is_seen_by_both() -> None:
    with listening("::", socket.AF_INET6, dual=True) as listener:
        port = listener.getsockname()[1]
        assert await is_listening("::1", port)
        assert await is_listening("127.0.0.1", port)


async def test_other_addresses_ports_and_states_are_not_listeners() -> None:
    with listening("127.0.0.1") as listener:
        port = listener.getsockname()[1]
        assert not await is_listening("127.0.0.2", port)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert not await is_listening("127.0.0.1", connection.getsockname()[1])
    assert not await is_listening("127.0.0.1", port)


async def test_it_waits_until_a_program_listens() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        place = await Place.find(Endpoint("127.0.0.1", late.getsockname()[1]))
        waiting = asyncio.ensure_future(place.wait(10))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        late.listen()
        await asyncio.wait_for(waiting, 5)


async def test_it_waits_no_longer_than_it_may() -> None:
    with socket.socket() as never:
        never.bind(("127.0.0.1", 0))
        place = await Place.find(Endpoint("127.0.0.1", never.getsockname()[1]))
        with pytest.raises(DeadlineExceeded, match=r"nothing listens at 127\.0\.0\.1:\d+ after 0\.1 s"):
            await place.wait(0.1)


async def test_a_host_that_is_not_known_cannot_be_announced() -> None:
    with pytest.raises(ConfigurationError, match=r"no\.invalid:1 cannot be announced"):
        await Place.find(Endpoint("no.invalid", 1))
