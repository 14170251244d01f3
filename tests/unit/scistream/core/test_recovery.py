"""A control server that was killed: what the next one makes of the sessions in its journal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.events import SessionKey, Timer
from scistream.core.record import from_record, to_record
from scistream.core.reservation import Capacity, EphemeralPool, Pool, PortPool
from scistream.core.session import State
from scistream.core.table import Limits, SessionTable
from scistream.errors import DataServerError, InvalidArgument, ResourceExhausted, SessionExists
from support.driven_session import APP, KEY, OTHER, PEER, DrivenSession, answered, of_kind


def killed(
    before: DrivenSession,
    pool: Pool | None = None,
    capacity: Capacity | None = None,
    **limits: Any,
) -> tuple[DrivenSession, tuple[c.Command, ...]]:
    """Return the session in the table of the next control server, and what that is told to do for it."""
    table = SessionTable(pool or PortPool(range(5100, 5104)), capacity=capacity, limits=Limits(**limits))
    record = json.loads(json.dumps(to_record(before.table.get(before.key))))
    commands = table.restore(from_record(record))
    after = DrivenSession(table, before.key, before.role)
    after.calls = 100
    return after, after.ordered(commands)


@pytest.mark.parametrize("come_so_far", [DrivenSession.reserve, DrivenSession.announce])
def test_listeners_without_a_data_server_are_bound_again_where_they_were(come_so_far: Any) -> None:
    pool, capacity = PortPool(range(5100, 5104)), Capacity(1000)
    session, commands = killed(come_so_far(DrivenSession()), pool, capacity)
    assert commands == (c.RecoverListeners(key=KEY, ports=(5100, 5101)),)
    assert (pool.held, capacity.held_mbps) == (2, 100)
    assert answered(session.hello(APP)) == [101]
    assert of_kind(session.update(APP), c.StartDataServer)
    assert answered(session.ready()) == [102]


def test_a_request_that_is_sent_again_is_answered_as_before() -> None:
    session, _ = killed(DrivenSession().reserve())
    assert session.request() == ()
    assert answered(session.hello(APP)) == [101, 102]


@pytest.mark.parametrize("come_so_far", [DrivenSession.reserve, DrivenSession.announce])
def test_listeners_that_cannot_be_had_again_fail_the_session_with_the_reason(come_so_far: Any) -> None:
    pool = PortPool(range(5100, 5104))
    session, _ = killed(come_so_far(DrivenSession()), pool)
    session.request()
    commands = session.table.handle(e.ReservationFailed(key=KEY, reason="port 5100 was taken meanwhile"))
    assert of_kind(commands, c.FreeSession)
    session.freed()
    assert (session.state, session.reason) == (State.FAILED, "port 5100 was taken meanwhile")
    assert pool.held == 0


def test_ports_that_the_operating_system_chose_are_bound_again_not_chosen_again() -> None:
    before = DrivenSession(SessionTable(EphemeralPool(4)))
    before.request()
    before.bound(40001, 40002)
    pool = EphemeralPool(4)
    _, commands = killed(before, pool)
    assert commands == (c.RecoverListeners(key=KEY, ports=(40001, 40002)),)
    assert pool.held == 2


def test_a_data_server_that_runs_on_is_found_and_everything_works_as_before() -> None:
    session, commands = killed(DrivenSession().connect())
    assert commands == (c.AdoptDataServer(key=KEY, generation=1, targets=(APP,), peer_certificate_pem=PEER),)
    assert session.ready() == ()
    assert session.state is State.CONNECTED
    assert of_kind(session.update(OTHER), c.RetargetDataServer)[0].generation == 2
    assert answered(session.ready(2)) == [101]
    session.release()
    assert answered(session.freed()) == [102]


def test_who_asks_again_for_an_update_that_was_under_way_is_answered_by_the_found_data_server() -> None:
    before = DrivenSession().connect()
    before.update(OTHER)
    session, (adopt,) = killed(before)
    assert (adopt.generation, adopt.targets) == (2, (OTHER,))
    assert session.update(OTHER) == ()
    assert answered(session.ready(2)) == [101]


def test_a_data_server_that_died_meanwhile_fails_the_session_and_frees_it() -> None:
    pool = PortPool(range(5100, 5104))
    session, _ = killed(DrivenSession().connect(), pool)
    session.table.handle(e.DataServerFailed(key=KEY, reason="the data server is not there any more"))
    session.freed()
    assert (session.state, pool.held) == (State.FAILED, 0)


def test_a_found_data_server_that_cannot_be_retargeted_goes_on_with_the_targets_that_it_has() -> None:
    before = DrivenSession().connect()
    before.update(OTHER, peer=b"another")
    session, _ = killed(before)
    assert session.update(OTHER, peer=b"another") == ()
    (refused,) = of_kind(session.retarget_failed(2), c.Refuse)
    assert (refused.call, type(refused.error)) == (101, DataServerError)
    known = session.table.get(KEY)
    assert (known.state, known.targets, known.peer_certificate_pem) == (State.CONNECTED, (APP,), PEER)


def test_a_found_data_server_that_never_forwarded_and_cannot_be_retargeted_fails_the_session() -> None:
    before = DrivenSession().announce()
    before.update(APP)
    session, _ = killed(before)
    assert of_kind(session.retarget_failed(1), c.FreeSession)
    session.freed()
    assert (session.state, session.reason) == (State.FAILED, "no descriptors left")


def test_a_restart_that_was_under_way_is_over_once_the_data_server_is_found() -> None:
    before = DrivenSession().connect()
    before.died("killed by signal 9")
    session, (adopt,) = killed(before)
    session.ready(adopt.generation)
    known = session.table.get(KEY)
    assert (known.state, known.restarts, known.notice) == (State.CONNECTED, 1, "killed by signal 9")


@pytest.mark.parametrize("queued", [False, True])
def test_a_request_without_listeners_has_failed_and_holds_nothing(queued: bool) -> None:
    before = DrivenSession()
    if queued:
        DrivenSession(before.table, SessionKey("alice", "first")).request(num_conn=4)
    before.request(queue=True)
    pool, capacity = PortPool(range(5100, 5104)), Capacity(1000)
    session, commands = killed(before, pool, capacity)
    assert commands == ()
    assert (session.state, session.table.get(KEY).freed) == (State.FAILED, True)
    assert "before the request was answered" in session.reason
    assert (pool.held, capacity.held_mbps) == (0, 0)
    assert of_kind(session.request(), c.BindListeners)


def test_what_was_being_freed_is_freed_with_the_same_outcome() -> None:
    before = DrivenSession().connect()
    before.release()
    pool = PortPool(range(5100, 5104))
    session, commands = killed(before, pool)
    assert commands == (c.FreeSession(key=KEY),)
    assert pool.held == 2
    session.freed()
    assert (session.state, session.reason, pool.held) == (State.RELEASED, "released on request", 0)


def test_what_was_being_freed_before_its_ports_were_known_holds_none() -> None:
    before = DrivenSession(SessionTable(EphemeralPool(4)))
    before.request()
    before.release()
    pool = PortPool(range(5100, 5104))
    session, _ = killed(before, pool)
    session.freed()
    assert pool.held == 0


def test_what_had_ended_is_remembered_up_to_a_bound() -> None:
    before = DrivenSession().connect()
    before.release()
    before.freed()
    session, commands = killed(before)
    assert commands == ()
    assert (session.state, session.reason) == (State.RELEASED, "released on request")
    session, _ = killed(before, ended_sessions=0)
    assert session.table.remembered == 0


def test_ports_outside_of_todays_range_are_held_and_then_forgotten() -> None:
    pool = PortPool(range(6000, 6004))
    session, _ = killed(DrivenSession().connect(), pool)
    assert (pool.held, pool.free) == (0, 4)
    session.release()
    session.freed()
    assert (pool.held, pool.free) == (0, 4)


def test_what_was_reserved_stays_reserved_where_the_gateway_has_less_now() -> None:
    capacity = Capacity(50)
    session, _ = killed(DrivenSession().connect(), capacity=capacity)
    assert (capacity.held_mbps, capacity.free_mbps) == (100, 0)
    other = DrivenSession(session.table, SessionKey("alice", "other"))
    with pytest.raises(ResourceExhausted):
        other.request(rate_mbps=1)
    session.release()
    session.freed()
    other.request(rate_mbps=1)


def test_two_sessions_of_one_name_or_one_port_are_refused() -> None:
    before = DrivenSession().connect()
    session, _ = killed(before)
    record = to_record(before.table.get(KEY))
    with pytest.raises(SessionExists):
        session.table.restore(from_record(record))
    record["key"] = ["bob", "uid-1"]
    with pytest.raises(InvalidArgument, match="port 5100 is held already"):
        session.table.restore(from_record(record))
    assert session.table.remembered == 1


def test_leases_go_on_after_the_control_server_was_killed() -> None:
    before = DrivenSession(SessionTable(PortPool(range(5100, 5104)), limits=Limits(idle_timeout_s=40)))
    before.connect(lifetime_s=60)
    for _ in range(3):
        before.fire(Timer.IDLE)
        before.carried(0)
    session, _ = killed(before, idle_timeout_s=40)
    session.fire(Timer.IDLE)
    session.carried(0)
    session.freed()
    assert (session.state, session.reason) == (State.EXPIRED, "no byte moved for 40 s")


def test_a_look_for_traffic_whose_answer_was_lost_is_made_again() -> None:
    before = DrivenSession(SessionTable(PortPool(range(5100, 5104)), limits=Limits(idle_timeout_s=40)))
    before.connect().fire(Timer.IDLE)
    session, commands = killed(before)
    assert commands[1:] == (c.LookForTraffic(key=KEY),)
    assert of_kind(session.carried(0), c.SetTimer)
