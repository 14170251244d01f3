"""Data servers that end by themselves: restarted on the same listeners, and the session says so."""

from __future__ import annotations

from typing import Any

import pytest

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.endpoint import Endpoint
from scistream.core.events import Timer
from scistream.core.reservation import PortPool
from scistream.core.session import State
from scistream.core.table import Limits, SessionTable
from scistream.errors import DataServerError, WrongState
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


def test_an_update_that_is_put_back_has_not_come() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    before = session.table.get(KEY).copy()
    assert of_kind(session.update(APP), c.StartDataServer)
    session.table.put_back(before.copy())
    assert session.table.get(KEY) == before
    assert session.state is State.ANNOUNCED
    assert of_kind(session.update(OTHER), c.StartDataServer)[0].targets == (OTHER,)


def test_updates_while_it_is_restarted_wait_for_it_and_other_targets_follow_it() -> None:
    session = connected()
    session.died()
    assert session.update(APP) == ()
    assert of_kind(session.update(OTHER), c.RetargetDataServer)[0].generation == 3
    assert answered(session.ready(2)) == [4]
    assert answered(session.ready(3)) == [5]


def test_a_retarget_that_fails_refuses_its_update_and_the_session_goes_on_as_before() -> None:
    session = connected()
    session.update(OTHER, peer=b"another")
    (refused,) = session.retarget_failed(2, "no descriptors left")
    assert (refused.call, type(refused.error)) == (4, DataServerError)
    assert "session uid-1: no descriptors left; it forwards as before" in str(refused.error)
    known = session.table.get(KEY)
    assert (known.state, known.targets, known.peer_certificate_pem) == (State.CONNECTED, (APP,), PEER)
    assert answered(session.update(APP)) == [5]
    # the same order can be given again, and what is started anew gets what worked
    assert of_kind(session.update(OTHER), c.RetargetDataServer)[0].generation == 3
    session.retarget_failed(3)
    assert of_kind(session.died(), c.RestartDataServer)[0].targets == (APP,)


def test_of_several_retargets_those_that_fail_leave_the_last_one_that_worked() -> None:
    session = connected()
    third = Endpoint("10.0.0.7", 7000)
    session.update(OTHER)
    session.update(third)
    session.update(APP)
    assert answered(session.ready(2)) == [4]
    assert [refused.call for refused in session.retarget_failed(3)] == [5]
    assert session.table.get(KEY).targets == (APP,)
    assert [refused.call for refused in session.retarget_failed(4)] == [6]
    assert session.table.get(KEY).targets == (OTHER,)


def test_a_retarget_that_fails_because_the_data_server_died_is_left_to_the_next_one() -> None:
    session = connected()
    session.update(OTHER)
    session.died()
    assert session.retarget_failed(2) == ()
    assert session.state is State.CONNECTING
    assert answered(session.ready(3)) == [4]
    assert session.table.get(KEY).targets == (OTHER,)


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


def test_an_update_that_only_leads_elsewhere_need_not_say_again_who_the_other_side_is() -> None:
    session = connected()
    session.update(OTHER, peer=b"")
    assert session.table.get(KEY).targets == (OTHER,)
    assert session.table.get(KEY).peer_certificate_pem == PEER


def test_a_side_that_was_never_connected_is_not_without_saying_who_the_other_side_is() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    with pytest.raises(WrongState, match="peer certificate"):
        session.update(OTHER, peer=b"")


def test_the_kind_of_the_other_sides_data_server_stays_until_the_other_side_is_another_one() -> None:
    session = DrivenSession().announce()
    (order,) = of_kind(session.update(APP, peer_data_server="nginx"), c.StartDataServer)
    assert order.peer_data_server == "nginx"
    session.ready(1)
    # one that only leads elsewhere need not say it again
    (order,) = of_kind(session.update(OTHER, peer=b""), c.RetargetDataServer)
    assert order.peer_data_server == "nginx"
    session.ready(2)
    assert of_kind(session.died(), c.RestartDataServer)[0].peer_data_server == "nginx"
    session.ready(3)
    # a client that does not say it, with another peer: nobody knows
    (order,) = of_kind(session.update(OTHER, peer=b"another"), c.RetargetDataServer)
    assert order.peer_data_server == ""
    session.retarget_failed(4)
    assert session.table.get(KEY).peer_data_server == "nginx"


def test_an_update_that_only_tells_the_kind_of_data_server_is_an_order() -> None:
    session = DrivenSession().connect()
    (order,) = of_kind(session.update(APP, peer_data_server="nginx"), c.RetargetDataServer)
    assert (order.targets, order.peer_data_server) == ((APP,), "nginx")
    session.ready(2)
    assert answered(session.update(APP, peer_data_server="nginx"))
