"""What ends a session by time, and what keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scistream.core import commands as c
from scistream.core.endpoint import Endpoint
from scistream.core.events import Timer
from scistream.core.leases import lease_s
from scistream.core.reservation import PortPool
from scistream.core.session import State
from scistream.core.table import Limits, SessionTable
from scistream.errors import InvalidArgument, WrongState
from support.driven_session import APP, KEY, OTHER, DrivenSession, answered, of_kind


def session_with(**limits: Any) -> DrivenSession:
    return DrivenSession(SessionTable(PortPool(range(5100, 5104)), limits=Limits(**limits)))


def timers(commands: tuple[c.Command, ...]) -> dict[Timer, float]:
    return {command.timer: command.seconds for command in of_kind(commands, c.SetTimer)}


@pytest.mark.parametrize(
    ("asked_s", "most_s", "given_s"),
    [(None, 0, 0), (None, 60, 60), (10, 60, 10), (90, 60, 60), (0, 60, 60), (0, 0, 0), (90, 0, 90)],
)
def test_a_lease_is_what_was_asked_for_within_what_the_gateway_gives(
    asked_s: float | None, most_s: float, given_s: float
) -> None:
    assert lease_s(asked_s, most_s) == given_s
    session = session_with(idle_timeout_s=most_s, lifetime_s=most_s)
    session.request(idle_timeout_s=asked_s, lifetime_s=asked_s)
    known = session.table.get(KEY)
    assert (known.idle_timeout_s, known.lifetime_s) == (given_s, given_s)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("lease", ["idle_timeout_s", "lifetime_s"])
def test_leases_that_are_none_are_refused(lease: str, seconds: float) -> None:
    with pytest.raises(InvalidArgument, match=r"idle timeout|lifetime"):
        session_with().request(**{lease: seconds})


# --- the lifetime ----------------------------------------------------------------------------------------


def test_the_lifetime_begins_when_the_request_is_accepted() -> None:
    assert timers(session_with(lifetime_s=60).request()) == {Timer.LIFETIME: 60}
    assert timers(session_with().request()) == {}


@pytest.mark.parametrize(
    "come_so_far",
    [lambda s: s.request(), DrivenSession.reserve, DrivenSession.announce, DrivenSession.connect],
)
def test_the_end_of_the_lifetime_frees_a_session_in_any_state(
    come_so_far: Callable[[DrivenSession], Any],
) -> None:
    session = session_with(lifetime_s=60)
    come_so_far(session)
    assert of_kind(session.fire(Timer.LIFETIME), c.FreeSession)
    session.freed()
    assert (session.state, session.reason[:25]) == (State.EXPIRED, "its lifetime of 60 s is o")


def test_a_timer_that_nothing_waits_for_is_illegal() -> None:
    session = session_with().connect()
    for timer in (Timer.LIFETIME, Timer.IDLE, Timer.HELLO, Timer.UPDATE, Timer.QUEUE):
        with pytest.raises(WrongState, match=f"TimerFired.{timer}.*nothing waits for it"):
            session.fire(timer)
    assert session.state is State.CONNECTED


# --- idleness --------------------------------------------------------------------------------------------


def test_a_session_that_carries_nothing_ends_after_its_idle_time() -> None:
    session = session_with(idle_timeout_s=40).announce()
    session.update(APP)
    assert timers(session.ready()) == {Timer.IDLE: 10}
    for _ in range(3):
        assert session.fire(Timer.IDLE) == (c.LookForTraffic(key=KEY),)
        assert session.carried(0) == (c.SetTimer(key=KEY, timer=Timer.IDLE, seconds=10),)
    session.fire(Timer.IDLE)
    assert of_kind(session.carried(0), c.FreeSession)
    session.freed()
    assert (session.state, session.reason) == (State.EXPIRED, "no byte moved for 40 s")


def test_traffic_begins_the_idle_time_anew() -> None:
    session = session_with(idle_timeout_s=40).connect()
    for total in (1, 1, 1, 1, 2, 2, 2, 2):
        session.fire(Timer.IDLE)
        assert timers(session.carried(total)) == {Timer.IDLE: 10}
    session.fire(Timer.IDLE)
    session.carried(2)
    assert session.state is State.RELEASING


def test_other_targets_do_not_begin_the_idle_time_anew() -> None:
    session = session_with(idle_timeout_s=40).connect()
    session.update(OTHER)
    assert timers(session.ready(2)) == {}


def test_an_answer_that_comes_twice_counts_once() -> None:
    session = session_with(idle_timeout_s=40).connect()
    session.fire(Timer.IDLE)
    session.carried(0)
    for _ in range(9):
        assert session.carried(0) == ()
    assert session.table.get(KEY).idle_looks == 1


def test_the_idle_time_rests_while_a_data_server_is_restarted() -> None:
    session = session_with(idle_timeout_s=40).connect()
    session.fire(Timer.IDLE)
    assert c.CancelTimer(key=KEY, timer=Timer.IDLE) in session.died()
    assert session.carried(0) == ()
    assert timers(session.ready(2))[Timer.IDLE] == 10
    assert session.table.get(KEY).idle_looks == 0


# --- renewal ---------------------------------------------------------------------------------------------


def test_renewing_begins_both_leases_anew() -> None:
    session = session_with(idle_timeout_s=40, lifetime_s=60).connect()
    for _ in range(3):
        session.fire(Timer.IDLE)
        session.carried(0)
    renewed = session.renew()
    assert timers(renewed) == {Timer.LIFETIME: 60, Timer.IDLE: 10}
    assert answered(renewed) == [4]
    for _ in range(3):
        session.fire(Timer.IDLE)
        session.carried(0)
    assert session.state is State.CONNECTED


def test_renewing_lets_a_session_wait_longer_for_the_other_side() -> None:
    session = session_with()
    session.request()
    session.bound()
    assert timers(session.renew()) == {Timer.HELLO: 180}
    session.hello(Endpoint("10.0.1.5", 5001))
    assert timers(session.renew()) == {Timer.UPDATE: 180}


def test_a_session_without_leases_is_renewed_by_an_answer() -> None:
    assert [type(command) for command in session_with().connect().renew()] == [c.Reply]


def test_a_lifetime_that_has_not_begun_is_not_begun_by_renewing() -> None:
    session = session_with(lifetime_s=60)
    first = DrivenSession(session.table, type(KEY)("alice", "first"))
    first.request(num_conn=4)
    session.request(queue=True)
    assert [type(command) for command in session.renew()] == [c.Reply]
    first.release()
    assert timers(first.freed()) == {Timer.LIFETIME: 60}


def test_what_has_ended_cannot_be_renewed() -> None:
    session = session_with().connect()
    session.release()
    with pytest.raises(WrongState, match=r"Renew cannot come.*releasing.*ask for a new session"):
        session.renew()
