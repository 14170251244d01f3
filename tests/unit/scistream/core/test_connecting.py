"""Data servers that end by themselves: restarted on the same listeners, and the session says so."""

from __future__ import annotations

from typing import Any

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.events import Timer
from scistream.core.reservation import PortPool
from scistream.core.session import State
from scistream.core.table import Limits, SessionTable
from scistream.errors import DataServerError
from support.driven_session import APP, KEY, OTHER, PEER, DrivenSession, answered, of_kind


def connected(**limits: Any) -> DrivenSession:
    return DrivenSession(SessionTable(PortPool(range(5100, 5104)), limits=Limits(**limits))).connect()


def test_a_data_server_that_dies_is_started_again_with_the_same_targets_and_the_session_says_so() -> None:
    session = connected()
    commands = session.died("killed by signal 9")
    assert of_kind(commands, c.RestartDataServer) == [
        c.RestartDataServer(key=KEY, generation=2, targets=(APP,), peer_certificate_pem=PEER)
    ]
    assert session.state is State.CONNECTING
    known = session.table.get(KEY)
    assert (known.restarts, known.notice, known.reason) == (1, "killed by signal 9", "")
    session.ready(2)
    assert session.state is State.CONNECTED
    assert known.ports == (5100, 5101)


def test_who_waits_for_an_update_is_answered_once_the_restarted_data_server_is_ready() -> None:
    session = connected()
    session.update(OTHER)
    assert of_kind(session.died(), c.RestartDataServer)[0].targets == (OTHER,)
    # what the ended one had still reported
    assert session.ready(2) == ()
    assert session.state is State.CONNECTING
    assert answered(session.ready(3)) == [4]
    assert session.state is State.CONNECTED


def test_updates_while_it_is_restarted_wait_for_it_and_other_targets_follow_it() -> None:
    session = connected()
    session.died()
    assert session.update(APP) == ()
    assert of_kind(session.update(OTHER), c.RetargetDataServer)[0].generation == 3
    assert answered(session.ready(2)) == [4]
    assert answered(session.ready(3)) == [5]


def test_hello_request_renewal_and_release_are_served_while_it_is_restarted() -> None:
    session = connected()
    session.died()
    assert answered(session.hello(APP)) == [4]
    assert answered(session.request()) == [5]
    assert answered(session.renew()) == [6]
    assert of_kind(session.release(), c.FreeSession)
    assert session.ready(2) == ()
    assert answered(session.freed()) == [7]
    assert session.state is State.RELEASED


def test_a_data_server_that_dies_again_and_again_fails_the_session() -> None:
    session = connected(restarts_in_a_row=2)
    for generation in (2, 3):
        session.died()
        session.ready(generation)
    session.update(OTHER)
    commands = session.died("killed by signal 9")
    (refused,) = of_kind(commands, c.Refuse)
    assert isinstance(refused.error, DataServerError)
    assert of_kind(commands, c.FreeSession)
    session.freed()
    assert session.state is State.FAILED
    assert "killed by signal 9 (after 2 restarts in a row" in session.reason


def test_without_restarts_the_first_death_is_the_end() -> None:
    session = connected(restarts_in_a_row=0)
    session.died("killed by signal 9")
    assert (session.state, session.reason) == (State.RELEASING, "killed by signal 9")


def test_a_restarted_data_server_that_stays_makes_earlier_deaths_count_no_more() -> None:
    session = connected(restarts_in_a_row=1, steady_s=30)
    session.died()
    assert c.SetTimer(key=KEY, timer=Timer.STEADY, seconds=30) in session.ready(2)
    assert session.fire(Timer.STEADY) == ()
    session.died()
    assert session.state is State.CONNECTING
    assert session.table.get(KEY).restarts == 2


def test_a_data_server_that_dies_before_it_was_steady_is_not_steady_later() -> None:
    session = connected()
    session.died()
    session.ready(2)
    assert c.CancelTimer(key=KEY, timer=Timer.STEADY) in session.died()


def test_a_data_server_that_restarts_itself_is_noted_and_changes_nothing_else() -> None:
    session = connected(restarts_in_a_row=0)
    for number in (1, 2, 3):
        assert session.table.handle(e.DataServerRestarted(key=KEY, reason="its worker ended")) == ()
        known = session.table.get(KEY)
        assert (known.state, known.restarts, known.notice) == (State.CONNECTED, number, "its worker ended")


def test_a_restart_that_fails_ends_the_session() -> None:
    session = connected()
    session.died()
    session.table.handle(e.DataServerFailed(key=KEY, reason="no descriptors left"))
    session.freed()
    assert (session.state, session.reason) == (State.FAILED, "no descriptors left")
