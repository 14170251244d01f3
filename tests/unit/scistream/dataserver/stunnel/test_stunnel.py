"""stunnel's words: what it is told, and what it says."""

from __future__ import annotations

import pytest

from scistream.dataserver.stunnel.log import ConnectionLog, split
from scistream.dataserver.stunnel.program import escape
from scistream.errors import DataServerError

NAMES = {"channel0": 0, "channel1": 1}


def _say(log: ConnectionLog, number: int, *words: str, level: int = 5) -> list[str]:
    return [log.read(f"2026.11.21 17:11:42 LOG{level}[{number}]: {one}") for one in words]


ACCEPTED = "Service [channel1] accepted connection from 127.0.0.1:47618"
PROVED = "TLS accepted: new session negotiated"
REACHED = "Service [channel1] connected remote server from 127.0.0.1:55032"
CLOSED = "Connection closed: 30 byte(s) sent to TLS, 1002 byte(s) sent to socket"
RESET = "Connection reset/closed: 0 byte(s) sent to TLS, 0 byte(s) sent to socket"


@pytest.mark.parametrize(("accepts_tls", "expected"), [(True, [1002, 30]), (False, [30, 1002])])
def test_the_plain_leg_says_which_way_bytes_went(accepts_tls: bool, expected: list[int]) -> None:
    log = ConnectionLog(NAMES, accepts_tls=accepts_tls)
    assert not any(_say(log, 7, ACCEPTED, PROVED, REACHED, CLOSED))
    assert log.ended == [[0] * 5, [0, 1, 0, *expected]]


def test_connections_are_told_apart_by_their_numbers() -> None:
    log = ConnectionLog(NAMES, accepts_tls=True)
    _say(log, 1, ACCEPTED, PROVED)
    _say(log, 2, ACCEPTED.replace("channel1", "channel0"), PROVED, REACHED)
    _say(log, 1, REACHED, CLOSED)
    assert log.ended == [[0] * 5, [0, 1, 0, 1002, 30]]
    _say(log, 2, CLOSED)
    assert log.ended == [[0, 1, 0, 1002, 30], [0, 1, 0, 1002, 30]]


@pytest.mark.parametrize("seen", [(), (PROVED,), (REACHED,)])
def test_a_connection_without_proof_or_target_has_failed(seen: tuple[str, ...]) -> None:
    log = ConnectionLog(NAMES, accepts_tls=True)
    _say(log, 3, ACCEPTED, *seen)
    _say(log, 3, "SSL_accept: certificate verify failed", level=3)
    (said,) = _say(log, 3, RESET)
    assert said == "channel1: connection refused: SSL_accept: certificate verify failed"
    assert log.failed == 1
    assert log.ended[1] == [0, 1, 1, 0, 0]


def test_what_the_program_complains_of_is_passed_on() -> None:
    log = ConnectionLog(NAMES, accepts_tls=True)
    assert log.read("2026.11.21 17:11:42 LOG3[ui]: bind failed") == "bind failed"
    assert log.read("2026.11.21 17:11:42 LOG6[ui]: Initializing") == ""
    assert log.read("something else") == "something else"
    assert split("2026.11.21 17:11:42 LOG5[main]: a: b") == (5, "main", "a: b")


def test_the_end_of_an_unknown_connection_is_no_matter() -> None:
    log = ConnectionLog(NAMES, accepts_tls=True)
    _say(log, 9, CLOSED)
    assert log.ended == [[0] * 5, [0] * 5]


@pytest.mark.parametrize("text", ["a\nexec = /bin/sh", "a\r", " a", "a "])
def test_what_could_end_a_line_or_would_be_changed_is_refused(text: str) -> None:
    with pytest.raises(DataServerError):
        escape(text)


def test_other_values_stay_as_they_are() -> None:
    assert escape("a ; b # c") == "a ; b # c"
