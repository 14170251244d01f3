"""Hosts that a caller names: whose fault it is that one has no address here."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from scistream.control.names import check_hosts
from scistream.core.endpoint import Endpoint
from scistream.errors import InvalidArgument, PeerError

NAMED = [Endpoint("detector.example", 5000)]


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that is set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_host_that_there_is_not_is_the_callers_fault() -> None:
    with pytest.raises(InvalidArgument, match=r"uid: .* does not know the host no-such-host\.invalid"):
        await check_hosts([Endpoint("no-such-host.invalid", 1)], "uid")


async def test_a_name_server_that_says_try_again_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def try_again(*_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", try_again)
    with pytest.raises(PeerError, match=r"detector\.example.*ask again in a moment"):
        await check_hosts(NAMED, "uid")


async def test_a_name_server_that_does_not_answer_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch, never: threading.Event
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait())
    with pytest.raises(PeerError, match="its name server does not answer"):
        await check_hosts(NAMED, "uid", timeout_s=0.01)
    never.set()


async def test_addresses_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    await check_hosts([Endpoint("127.0.0.1", 1), Endpoint("::1", 1)], "uid")
