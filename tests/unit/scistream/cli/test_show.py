"""What people and programs see of sessions."""

from __future__ import annotations

import json

import pytest

from scistream.cli.show import show_pairs, show_sessions, status_as_json
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State
from scistream.core.status import ChannelStatistics, SessionStatus

STATUS = SessionStatus(
    uid="5218deff-cb0c-4f09-8118-09cc6e178884",
    role=Role.PRODUCER,
    state=State.FAILED,
    reason="killed by signal 9",
    num_conn=2,
    rate_mbps=100,
    listeners=(Endpoint("gw", 5100),),
    targets=(Endpoint("::1", 7),),
    channels=(ChannelStatistics(bytes_to_target=5), ChannelStatistics(bytes_to_target=6)),
)


def test_json_has_every_field_and_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {"server": "gw:5000", **status_as_json(STATUS)}
    show_sessions([shown], as_json=True)
    session = json.loads(capsys.readouterr().out)["sessions"][0]
    assert session == shown
    assert (session["targets"], session["state"], session["role"]) == (["[::1]:7"], "failed", "PROD")
    assert session["channels"][1]["bytes_to_target"] == 6


def test_the_table_shows_the_whole_uid_the_reason_and_sums(capsys: pytest.CaptureFixture[str]) -> None:
    show_sessions([{"server": "gw:5000", **status_as_json(STATUS)}], as_json=False)
    out = capsys.readouterr().out
    for part in (STATUS.uid, "killed by signal 9", "11", "gw:5100 → [::1]:7", "failed"):
        assert part in out


def test_no_sessions_are_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_sessions([], as_json=False)
    assert capsys.readouterr().out == "no sessions\n"


def test_pairs_are_aligned_and_lists_have_a_line_per_entry(capsys: pytest.CaptureFixture[str]) -> None:
    show_pairs({"uid": "x", "encrypted": True, "listeners": ["a:1", "b:2"]}, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "uid        x",
        "encrypted  yes",
        "listeners  a:1",
        "           b:2",
    ]
