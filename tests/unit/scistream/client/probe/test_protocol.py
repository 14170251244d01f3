"""Greetings and frames, byte by byte, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scistream.client.probe.protocol import (
    FAR_GREETING,
    NEAR_GREETING,
    Frame,
    Kind,
    NotAProbe,
    expect_greeting,
    receive_frame,
    take_bytes,
)

Pair = tuple[socket.socket, socket.socket]
NUMBERS = st.integers(0, 2**64 - 1)


@contextlib.contextmanager
def connected() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


def soon() -> float:
    return time.monotonic() + 10


@given(st.sampled_from(Kind), NUMBERS, NUMBERS)
def test_frames_arrive_as_they_were_sent(kind: Kind, first: int, second: int) -> None:
    with connected() as (ours, theirs):
        Frame(kind, first, second).send(theirs)
        Frame(Kind.PING, 7).send(theirs)
        assert receive_frame(ours) == Frame(kind, first, second)
        assert receive_frame(ours) == Frame(Kind.PING, 7)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_or_one_of_two_errors(content: bytes) -> None:
    with connected() as (ours, theirs):
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        with contextlib.suppress(NotAProbe, ConnectionAbortedError):
            assert content.startswith(receive_frame(ours).kind.value)


@pytest.mark.parametrize("greeting", [NEAR_GREETING, FAR_GREETING])
def test_a_greeting_may_come_in_pieces_and_what_follows_is_left(greeting: bytes) -> None:
    for cut in range(1, len(greeting)):
        with connected() as (ours, theirs):
            theirs.sendall(greeting[:cut])
            theirs.sendall(greeting[cut:] + b"more")
            assert expect_greeting(ours, greeting, soon())
            assert ours.recv(10) == b"more"


def test_the_first_byte_that_is_another_one_is_enough() -> None:
    for cut in range(len(FAR_GREETING)):
        with connected() as (ours, theirs):
            theirs.sendall(FAR_GREETING[:cut] + b"?")  # and stays open
            with pytest.raises(NotAProbe, match=r"\?"):
                expect_greeting(ours, FAR_GREETING, soon())


def test_a_probe_of_another_version_is_none() -> None:
    with connected() as (ours, theirs):
        theirs.sendall(b"scistream-probe/2 ready\n")
        with pytest.raises(NotAProbe, match="of this version"):
            expect_greeting(ours, FAR_GREETING, soon())


def test_a_greeting_that_is_cut_is_none_and_one_that_never_began_is_told_apart() -> None:
    with connected() as (ours, theirs):
        theirs.sendall(FAR_GREETING[:5])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(NotAProbe):
            expect_greeting(ours, FAR_GREETING, soon())
    with connected() as (ours, theirs):
        theirs.shutdown(socket.SHUT_WR)
        assert not expect_greeting(ours, FAR_GREETING, soon())


def test_a_greeting_that_does_not_come_is_not_waited_for_beyond_the_deadline() -> None:
    with connected() as (ours, theirs):
        theirs.sendall(FAR_GREETING[:5])
        with pytest.raises(TimeoutError):
            expect_greeting(ours, FAR_GREETING, time.monotonic() + 0.05)


def test_what_was_taken_is_reported_whether_bytes_come_or_not() -> None:
    reports: list[tuple[int, int]] = []
    with connected() as (ours, theirs):
        theirs.sendall(bytes(1000))

        def report(total: int, time_ns: int) -> None:
            reports.append((total, time_ns))
            if len(reports) == 3:
                theirs.close()

        take_bytes(ours, soon(), report)
    assert [total for total, _ in reports] == [1000] * 3
    assert 0 < reports[0][1] < reports[1][1] < reports[2][1]
