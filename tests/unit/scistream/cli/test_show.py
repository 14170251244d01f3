"""What people and programs see of sessions."""

from __future__ import annotations

import dataclasses
import json

import pytest

from scistream.cli.show import (
    human_bytes,
    human_seconds,
    show_list,
    show_listeners,
    show_pairs,
    show_sessions,
    status_as_json,
)
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


def test_connections_that_failed_are_seen_by_people_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A target that refuses carries nothing: only this counter says so."""
    channels = [
        {**status_as_json(STATUS)["channels"][0], "connections_total": 4, "connections_failed": 3},
        {**status_as_json(STATUS)["channels"][0], "connections_total": 3, "connections_failed": 2},
    ]
    show_sessions([side(channels=channels)], as_json=False)
    assert "connections: 0 open, 7 in all, 5 failed" in capsys.readouterr().out
    show_list([side(channels=channels, state="connected")], ended_too=False, as_json=False)
    assert "7 connections, 5 failed" in capsys.readouterr().out


def test_a_reverse_session_says_whether_the_other_gateway_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    channels = [{**status_as_json(STATUS)["channels"][0], "connections_ready": 4}] * 2
    show_sessions([side(channels=channels, reverse=True)], as_json=False)
    assert "failed, 8 between the gateways ready" in capsys.readouterr().out
    show_sessions([side(channels=channels)], as_json=False)
    assert "ready" not in capsys.readouterr().out


def test_nothing_of_a_session_needs_more_than_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_sessions([side(server="gateway-12.beamline.facility.example:50000")], as_json=False)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("state", "encrypted", "in_json", "text"),
    [
        (State.ANNOUNCED, False, None, "gateways: not yet"),
        (State.CONNECTED, False, False, "gateways: no"),
        (State.CONNECTED, True, True, "gateways: yes"),
    ],
)
def test_encryption_that_is_not_settled_is_not_called_missing(
    capsys: pytest.CaptureFixture[str], state: State, encrypted: bool, in_json: bool | None, text: str
) -> None:
    shown = status_as_json(dataclasses.replace(STATUS, state=state, encrypted=encrypted))
    assert shown["encrypted"] is in_json
    show_sessions([{"server": "gw:1", **shown}], as_json=False)
    assert text in [
        line.strip().removeprefix("TLS between the ") for line in capsys.readouterr().out.splitlines()
    ]


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


def side(**changes: object) -> dict[str, object]:
    return {"server": "gw:5000", **status_as_json(STATUS), **changes}


def test_a_list_has_one_line_per_session_and_leaves_out_what_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sessions = [
        side(uid="a", state="connected", seconds=3661.0),
        side(uid="a", state="failed", role="CONS", server="gw:6000"),
        side(uid="b"),
    ]
    show_list(sessions, ended_too=False, as_json=False)
    (line,) = capsys.readouterr().out.splitlines()
    for part in ("a  ", "PROD connected at gw:5000", "CONS failed at gw:6000", "11 B", "1:01:01"):
        assert part in line
    show_list(sessions, ended_too=True, as_json=True)
    listed = json.loads(capsys.readouterr().out)["sessions"]
    assert [(one["uid"], len(one["sides"])) for one in listed] == [("a", 2), ("b", 1)]
    show_list([side()], ended_too=False, as_json=False)
    assert capsys.readouterr().out == "no sessions\n"


def test_leases_and_restarts_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_sessions(
        [side(lifetime_left_s=65.0, idle_timeout_s=30.0, restarts=2, notice="killed by signal 9")],
        as_json=False,
    )
    out = " ".join(capsys.readouterr().out.split())
    for part in ("ends in 0:01:05", "after 30 s without traffic", "restarted 2 times: killed by signal 9"):
        assert part in out


def test_listeners_are_printed_as_the_reference_client_does(capsys: pytest.CaptureFixture[str]) -> None:
    show_listeners([Endpoint("127.0.0.1", 5100), Endpoint("::1", 5101)])
    assert capsys.readouterr().out == "Listeners: ['127.0.0.1:5100', '[::1]:5101']\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_300_000, "12.3 MB"), (5e15, "5000.0 TB")],
)
def test_bytes_are_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_durations_have_hours_minutes_and_seconds() -> None:
    assert human_seconds(3723.9) == "1:02:03"
