"""What asking a provider is bounded by; how it goes with real ones is in the contract tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from scistream.auth import lookups
from scistream.auth.base import Credentials, Principal
from scistream.auth.lookups import ProviderLookups
from scistream.errors import AuthenticationError, PeerError


class Slow:
    """A provider that answers when it is let, and counts who asks."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.now = self.most = self.all = 0
        self.lock = threading.Lock()

    def ask(self, token: str) -> Principal | None:
        with self.lock:
            self.all += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.may_answer.wait(10)
        with self.lock:
            self.now -= 1
        return Principal(token) if token.startswith("known") else None


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.may_answer.set()


def caller(token: str) -> Credentials:
    return Credentials(token, "test")


async def test_few_are_asked_about_at_once_and_not_many_wait(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_MOST_WAITING", 40)
    found = ProviderLookups("the provider", slow.ask, timeout_s=5)
    waiting = [asyncio.ensure_future(found.find(caller(f"known{number}"))) for number in range(40)]
    await asyncio.sleep(0)
    while slow.now < 8:
        await asyncio.sleep(0.01)
    with pytest.raises(PeerError, match="too many"):
        await found.find(caller("known too late"))
    slow.may_answer.set()
    assert {one.name for one in await asyncio.gather(*waiting)} == {f"known{number}" for number in range(40)}
    assert slow.most == 8
    await found.close()


async def test_what_was_given_up_is_not_asked_later_and_a_silent_one_is_left_alone(slow: Slow) -> None:
    found = ProviderLookups("the provider", slow.ask, timeout_s=1.2)
    results = await asyncio.gather(
        *(found.find(caller(f"known{number}")) for number in range(30)), return_exceptions=True
    )
    assert {type(one) for one in results} == {PeerError}
    begin_s = time.monotonic()
    with pytest.raises(PeerError, match="does not answer"):
        await found.find(caller("known later"))
    assert time.monotonic() - begin_s < 0.5
    slow.may_answer.set()
    while slow.now:
        await asyncio.sleep(0.01)
    assert slow.all == 8
    await found.close()


async def test_guesses_are_remembered_for_a_while_and_not_too_many(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "_MOST_UNKNOWN", 10)
    monkeypatch.setattr(lookups, "_MOST_REMEMBERED", 10)
    slow.may_answer.set()
    found = ProviderLookups("the provider", slow.ask)
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            await found.find(caller("guess"))
    assert slow.all == 1
    for number in range(30):
        with pytest.raises(AuthenticationError):
            await found.find(caller(f"guess{number}"))
        await found.find(caller(f"known{number}"))
    assert len(found._unknown_until_s) == 10
    assert len(found._known) == 10
    await found.close()


async def test_who_gives_up_stops_nobody_else(slow: Slow) -> None:
    found = ProviderLookups("the provider", slow.ask, timeout_s=5)
    first, second = (asyncio.ensure_future(found.find(caller("known"))) for _ in range(2))
    while not slow.now:
        await asyncio.sleep(0.01)
    first.cancel()
    slow.may_answer.set()
    assert (await second).name == "known"
    assert slow.all == 1
    await found.close()
