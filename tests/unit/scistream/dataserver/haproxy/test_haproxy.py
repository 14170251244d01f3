"""HAProxy's words: what it is told, and what it answers."""

from __future__ import annotations

import pytest

from scistream.dataserver.haproxy.program import Haproxy, escape
from scistream.dataserver.haproxy.statistics import Failure, is_stopping, read_failure, read_figures
from scistream.errors import DataServerError

NAMES = {"channel0": 0, "channel1": 1}
HEADER = "# pxname,svname,scur,smax,bin,bout,conn_tot,"


def test_plain_words_stay_as_they_are() -> None:
    for text in ("10.0.0.1:80", "1/own.pem", "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", "5000"):
        assert escape(text) == text


@pytest.mark.parametrize(
    "text", ["a b", 'a"b', "a'b", "a#b", "a\\b", "$HOME", "%[env(HOME)]", "é", "[::1]:5"]
)
def test_what_means_something_to_the_reader_is_written_in_hexadecimal(text: str) -> None:
    escaped = escape(text)
    assert not set(escaped) & set(" \"'#$%[]é")
    assert escaped.encode().decode("unicode_escape").encode("latin-1").decode() == text


@pytest.mark.parametrize("text", ["a\nglobal", "a\0"])
def test_what_cannot_be_written_is_refused(text: str) -> None:
    with pytest.raises(DataServerError):
        escape(text)


def test_figures_are_found_by_name_whatever_the_order() -> None:
    rows = "channel1,FRONTEND,1,2,30,40,5,", "GLOBAL,FRONTEND,9,9,9,9,9,", "channel0,FRONTEND,0,2,1,2,3,"
    answer = "\n".join([HEADER, *rows, "", ""])
    assert read_figures(answer, NAMES) == [[0, 3, 1, 2], [1, 5, 30, 40]]


@pytest.mark.parametrize(
    "answer",
    ["", HEADER, f"{HEADER}\nchannel0,FRONTEND,0,2,1,2,3,", f"{HEADER}\nchannel0,FRONTEND,x,,,,,\n", "no"],
)
def test_an_answer_without_all_channels_is_an_error(answer: str) -> None:
    with pytest.raises(DataServerError, match="haproxy"):
        read_figures(answer, NAMES)


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        (" channel1 SC 17", Failure("channel1", "the target refuses", 17)),
        (" channel0 sC 0", Failure("channel0", "the target is silent", 0)),
        (" channel0 CC 5", Failure("channel0", "its client has gone", 5)),
        (" channel0 PR 5", Failure("channel0", "PR", 5)),
        (" channel0 SSL handshake failure", Failure("channel0", "SSL handshake failure")),
        (" channel0 CD 100", None),
        (" channel0 SD 100", None),
        (" channel0 cL 100", None),
    ],
)
def test_only_connections_that_never_had_a_target_have_failed(line: str, failure: Failure | None) -> None:
    assert read_failure(line) == failure


def test_it_says_whether_it_accepts() -> None:
    assert is_stopping("Name: HAProxy\nStopping: 1\nJobs: 2\n")
    assert not is_stopping("Name: HAProxy\nStopping: 0\nJobs: 2\n")


def test_only_what_is_not_always_said_is_worth_a_line() -> None:
    assert Haproxy.worth_saying("[NOTICE]   (77) : haproxy version is 2.6.12") == ""
    assert Haproxy.worth_saying("[ALERT]    (77) : config : unknown keyword") == "config : unknown keyword"
    assert Haproxy.worth_saying("") == ""
