"""Nginx's words: what it is told, and what it says."""

from __future__ import annotations

import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver.nginx.program import MARK, Nginx, NginxInstance, escape
from scistream.dataserver.programs.plan import Channel, Plan
from scistream.errors import DataServerError

PLAN = Plan(
    uid="s",
    channels=(
        Channel(
            name="channel0",
            descriptor=3,
            listener=Endpoint("127.0.0.1", 1),
            addresses=(Endpoint("127.0.0.1", 2),),
        ),
    ),
    tls=None,
    rate_mbps=0,
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[::1]:80", '"[::1]:80"'),
        ("a b", '"a b"'),
        ("a;}", '"a;}"'),
        ('a"b', '"a\\"b"'),
        ("a\\", '"a\\\\"'),
        ("", '""'),
    ],
)
def test_what_is_not_plain_stands_in_quotes(text: str, word: str) -> None:
    assert escape(text) == word


@pytest.mark.parametrize("text", ["$remote_addr", "a\nuser root;", "a\0"])
def test_what_cannot_be_written_is_refused(text: str) -> None:
    with pytest.raises(DataServerError):
        escape(text)


def test_connections_that_have_ended_are_counted_by_their_status() -> None:
    instance = NginxInstance(PLAN)
    assert instance.on_line(f"{MARK} channel0 200 100 7 192.0.2.1 1001") == ""
    assert "target refuses" in instance.on_line(f"{MARK} channel0 502 50 0 192.0.2.1 1002")
    assert "has not proved itself" in instance.on_line(f"{MARK} channel0 400 0 0 ::1 1003")
    assert instance._ended == [[0, 3, 2, 100, 7]]


def test_only_errors_are_worth_a_line() -> None:
    assert Nginx.worth_saying("2026/11/21 17:09:27 [notice] 846#846: reconfiguring") == ""
    line = "2026/11/21 17:09:28 [error] 848#848: *5 connect() failed (111: Connection refused)"
    assert Nginx.worth_saying(line) == "*5 connect() failed (111: Connection refused)"
    assert Nginx.worth_saying("nginx: [emerg] unknown directive") == "nginx: [emerg] unknown directive"
