"""Sessions' rules: sequences of events in, commands out."""

from __future__ import annotations

import pytest

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey, Timer
from scistream.core.record import to_record
from scistream.core.reservation import EphemeralPool, PortPool
from scistream.core.session import AWAITED, BEGINNINGS, ENDS, TRANSITIONS, Encryption, State
from scistream.core.table import Limits, SessionTable
from scistream.errors import (
    DataServerError,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SessionExists,
    SessionNotFound,
    WrongState,
)
from support.driven_session import APP, CERTIFICATE, KEY, OTHER, PEER, DrivenSession, answered, of_kind

# --- the main path ---------------------------------------------------------------------------------------


def test_request_binds_ports_and_is_answered_at_hello_with_listeners_destinations_and_certificate() -> None:
    session = DrivenSession()
    assert session.request() == (c.BindListeners(key=KEY, ports=(5100, 5101), wanted=2),)
    assert session.state is State.REQUESTED
    assert session.bound() == (c.SetTimer(key=KEY, timer=Timer.HELLO, seconds=180),)
    assert session.state is State.RESERVED
    replies = of_kind(session.hello(APP), c.Reply)
    assert [reply.call for reply in replies] == [1, 2]
    assert replies[0].listeners == (Endpoint("gw", 15100), Endpoint("gw", 15101))
    assert replies[0].destinations == (APP,)
    assert replies[0].certificate_pem == CERTIFICATE
    assert session.state is State.ANNOUNCED


def test_update_starts_the_data_server_and_is_answered_when_it_forwards() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    commands = session.update(OTHER)
    assert commands == (
        c.CancelTimer(key=KEY, timer=Timer.UPDATE),
        c.StartDataServer(key=KEY, generation=1, targets=(OTHER,), peer_certificate_pem=PEER),
    )
    assert session.state is State.CONNECTING
    assert [reply.call for reply in of_kind(session.ready(), c.Reply)] == [3]
    assert session.state is State.CONNECTED
    assert session.table.get(KEY).encrypted


def test_release_is_answered_only_when_everything_is_free_and_then_the_ports_can_be_had_again() -> None:
    pool = PortPool(range(5100, 5102))
    session = DrivenSession(SessionTable(pool)).connect()
    assert of_kind(session.release(), c.FreeSession)
    assert session.state is State.RELEASING
    assert pool.free == 0
    assert answered(session.freed()) == [4]
    assert session.state is State.RELEASED
    assert pool.free == 2


def test_an_update_without_targets_takes_what_the_application_announced() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    assert of_kind(session.update(), c.StartDataServer)[0].targets == (APP,)


def test_a_consumer_session_takes_hello_as_producer_with_the_producers_listeners() -> None:
    session = DrivenSession(role=Role.CONSUMER)
    session.request()
    session.bound()
    replies = of_kind(session.hello(OTHER, role=Role.PRODUCER), c.Reply)
    assert replies[0].destinations == (OTHER,)


def test_a_consumer_session_takes_hello_without_addresses_but_not_an_update_without_targets() -> None:
    session = DrivenSession(role=Role.CONSUMER)
    session.request()
    session.bound()
    assert len(of_kind(session.hello(), c.Reply)) == 2
    with pytest.raises(InvalidArgument, match="no target"):
        session.update()


# --- every message twice ---------------------------------------------------------------------------------


def test_the_same_request_twice_waits_twice_and_reserves_once() -> None:
    pool = PortPool(range(5100, 5104))
    session = DrivenSession(SessionTable(pool))
    session.request()
    assert session.request() == ()
    session.bound()
    assert session.request() == ()
    assert [reply.call for reply in of_kind(session.hello(APP), c.Reply)] == [1, 2, 3, 4]
    assert pool.held == 2
    assert [reply.call for reply in of_kind(session.request(), c.Reply)] == [5]


def test_another_request_with_the_same_uid_is_refused() -> None:
    session = DrivenSession().connect()
    for change in ({"num_conn": 1}, {"role": Role.CONSUMER}, {"rate_mbps": 1}):
        with pytest.raises(SessionExists, match="uid-1"):
            session.request(**change)
    with pytest.raises(SessionExists, match="as PROD, and producer and consumer need two control servers"):
        session.request(role=Role.CONSUMER)
    with pytest.raises(SessionExists, match="as PROD with 2 channels at 100 Mb/s"):
        session.request(num_conn=1)


def test_the_same_hello_twice_has_the_effect_of_one_and_another_one_is_refused() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    assert len(session.hello(APP)) == 1
    with pytest.raises(WrongState, match="Hello cannot change"):
        session.hello(OTHER)


def test_the_same_update_twice_starts_one_data_server_and_answers_both() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    session.update(APP)
    assert session.update(APP) == ()
    assert [reply.call for reply in of_kind(session.ready(), c.Reply)] == [3, 4]
    assert [type(command) for command in session.update(APP)] == [c.Reply]


def test_another_update_retargets_and_each_is_answered_when_its_own_has_been_taken_over() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    session.update(APP)
    retarget = of_kind(session.update(OTHER), c.RetargetDataServer)[0]
    assert (retarget.generation, retarget.targets) == (2, (OTHER,))
    assert [reply.call for reply in of_kind(session.ready(1), c.Reply)] == [3]
    assert [reply.call for reply in of_kind(session.ready(2), c.Reply)] == [4]
    assert session.state is State.CONNECTED


def test_updates_faster_than_the_data_server_are_refused_at_a_bound() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.hello(APP)
    for port in range(1, 17):
        session.update(Endpoint("gw", port))
    with pytest.raises(ResourceExhausted, match="16 updates"):
        session.update(Endpoint("gw", 17))


def test_release_is_fine_twice_during_the_end_after_it_and_for_an_unknown_session() -> None:
    session = DrivenSession().connect()
    session.release()
    assert session.release() == ()
    assert [reply.call for reply in of_kind(session.freed(), c.Reply)] == [4, 5]
    assert [type(command) for command in session.release()] == [c.Reply]
    stranger = DrivenSession(session.table, SessionKey("alice", "never-seen"))
    assert [type(command) for command in stranger.release()] == [c.Reply]


# --- wrong order, wrong values ---------------------------------------------------------------------------


def test_update_before_hello_is_illegal_and_says_event_uid_and_state() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    with pytest.raises(WrongState, match=r"Update cannot come while session uid-1 is reserved.*hello"):
        session.update(APP)


def test_update_and_hello_of_an_ended_session_say_why_it_ended() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    session.table.handle(e.TimerFired(key=KEY, timer=Timer.HELLO))
    for late in (session.update, session.hello):
        with pytest.raises(WrongState, match="releasing: no hello came within 180 s"):
            late(APP)
    session.freed()
    with pytest.raises(WrongState, match="expired: no hello came within 180 s"):
        session.update(APP)
    session.hello(APP)
    (refused,) = session.fire(Timer.EARLY_HELLO)
    assert isinstance(refused, c.Refuse)
    assert "expired: no hello came within 180 s; ask for a new session" in str(refused.error)


def test_roles_are_checked() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    with pytest.raises(InvalidArgument, match="CONS"):
        session.hello(APP, role=Role.CONSUMER)
    with pytest.raises(InvalidArgument, match="no address"):
        session.hello()
    session.hello(APP)
    with pytest.raises(InvalidArgument, match="role CONS"):
        session.update(APP, role=Role.CONSUMER)


@pytest.mark.parametrize("num_conn", [0, -1, -(2**31)])
def test_fewer_channels_than_one_are_refused(num_conn: int) -> None:
    with pytest.raises(InvalidArgument, match="num_conn"):
        DrivenSession().request(num_conn=num_conn)


def test_more_channels_than_the_pool_has_are_an_error_of_the_caller_and_an_empty_pool_is_not() -> None:
    session = DrivenSession()
    with pytest.raises(InvalidArgument, match="4 ports in all"):
        session.request(num_conn=5)
    session.request(num_conn=3)
    with pytest.raises(ResourceExhausted, match="2 ports wanted, 1 of 4 free"):
        DrivenSession(session.table, SessionKey("alice", "uid-2")).request()
    assert session.table.remembered == 1


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), 2.0**31])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(InvalidArgument, match="rate"):
        DrivenSession().request(rate_mbps=rate)


@pytest.mark.parametrize("uid", ["", "a" * 65, "../../x", "a b", "a\n", "ü", "a.b", "a\x00"])
def test_uids_that_could_mean_something_to_a_file_system_or_log_are_refused(uid: str) -> None:
    with pytest.raises(InvalidArgument, match="uid"):
        SessionKey("alice", uid)


def test_port_zero_and_too_many_addresses_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="port 0"):
        e.Hello(key=KEY, call=1, role=Role.PRODUCER, addresses=(Endpoint("h", 0),))
    with pytest.raises(InvalidArgument, match="1025 addresses"):
        e.Update(key=KEY, call=1, role=None, targets=(APP,) * 1025)


# --- hello before request --------------------------------------------------------------------------------


def test_a_hello_that_overtakes_its_request_waits_for_it() -> None:
    session = DrivenSession()
    assert session.hello(APP) == (c.SetTimer(key=KEY, timer=Timer.EARLY_HELLO, seconds=4),)
    assert c.CancelTimer(key=KEY, timer=Timer.EARLY_HELLO) in session.request()
    assert [reply.call for reply in of_kind(session.bound(), c.Reply)] == [2, 1]
    assert session.state is State.ANNOUNCED


def test_a_hello_without_request_is_refused_in_time() -> None:
    session = DrivenSession()
    session.hello(APP)
    refused = session.table.handle(e.TimerFired(key=KEY, timer=Timer.EARLY_HELLO))
    assert isinstance(of_kind(refused, c.Refuse)[0].error, SessionNotFound)
    assert of_kind(session.hello(APP), c.SetTimer), "nobody waits any more"


def test_a_hello_after_the_end_waits_for_the_next_request_of_that_name() -> None:
    session = DrivenSession().connect()
    session.release()
    with pytest.raises(WrongState, match="ask for a new session"):
        session.hello(APP)
    session.freed()
    assert session.hello(APP) == (c.SetTimer(key=KEY, timer=Timer.EARLY_HELLO, seconds=4),)
    assert c.CancelTimer(key=KEY, timer=Timer.EARLY_HELLO) in session.request()
    assert answered(session.bound()) == [7, 6]


def test_a_hello_after_the_end_is_refused_in_time_and_forgotten_with_its_caller() -> None:
    session = DrivenSession().connect()
    session.release()
    session.freed()
    session.hello(APP)
    (refused,) = session.fire(Timer.EARLY_HELLO)
    assert isinstance(refused, c.Refuse)
    assert (refused.call, type(refused.error)) == (5, WrongState)
    session.hello(APP)
    assert session.abandon(6) == (c.CancelTimer(key=KEY, timer=Timer.EARLY_HELLO),)
    assert session.state is State.RELEASED


def test_an_early_hello_that_does_not_fit_its_request_is_refused_and_the_request_goes_on() -> None:
    session = DrivenSession()
    session.hello(role=Role.CONSUMER)
    session.request()
    assert isinstance(of_kind(session.bound(), c.Refuse)[0].error, InvalidArgument)
    assert session.state is State.RESERVED


def test_early_hellos_are_bounded_and_forgotten_with_their_callers() -> None:
    table = SessionTable(PortPool([5100]), limits=Limits(early_hellos=1))
    first = DrivenSession(table)
    first.hello(APP)
    with pytest.raises(ResourceExhausted):
        DrivenSession(table, SessionKey("alice", "uid-2")).hello(APP)
    assert table.handle(e.CallAbandoned(key=KEY, call=1)) == (
        c.CancelTimer(key=KEY, timer=Timer.EARLY_HELLO),
    )
    assert of_kind(DrivenSession(table, SessionKey("alice", "uid-2")).hello(APP), c.SetTimer)


# --- ports held by others --------------------------------------------------------------------------------


def test_a_port_that_somebody_else_holds_is_skipped() -> None:
    session = DrivenSession()
    session.request()
    commands = session.table.handle(e.PortsTaken(key=KEY, ports=(5100,)))
    assert commands == (c.BindListeners(key=KEY, ports=(5102,), wanted=2),)
    assert session.table.get(KEY).ports == (5101, 5102)


def test_a_port_that_was_replaced_already_is_not_replaced_again() -> None:
    session = DrivenSession()
    session.request()
    session.table.handle(e.PortsTaken(key=KEY, ports=(5100,)))
    assert session.table.handle(e.PortsTaken(key=KEY, ports=(5100,))) == ()
    assert session.table.get(KEY).ports == (5101, 5102)


def test_no_port_left_is_an_error_and_frees_what_was_bound() -> None:
    pool = PortPool(range(5100, 5102))
    session = DrivenSession(SessionTable(pool))
    session.request()
    commands = session.table.handle(e.PortsTaken(key=KEY, ports=(5101,)))
    assert isinstance(of_kind(commands, c.Refuse)[0].error, ResourceExhausted)
    assert len(of_kind(commands, c.FreeSession)) == 1
    session.freed()
    assert session.state is State.FAILED
    assert pool.free == 2


# --- the ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timer", [Timer.HELLO, Timer.UPDATE])
def test_a_lease_that_runs_out_frees_everything_and_answers_who_waits(timer: Timer) -> None:
    pool = PortPool(range(5100, 5104))
    session = DrivenSession(SessionTable(pool))
    session.request()
    session.bound()
    if timer is Timer.UPDATE:
        session.hello(APP)
    commands = session.table.handle(e.TimerFired(key=KEY, timer=timer))
    waiting = [type(refused.error) for refused in of_kind(commands, c.Refuse)]
    assert waiting == ([DeadlineExceeded] if timer is Timer.HELLO else [])
    assert of_kind(commands, c.FreeSession)
    assert session.state is State.RELEASING
    session.freed()
    assert session.state is State.EXPIRED
    assert pool.held == 0


def test_a_request_whose_caller_has_gone_is_freed_but_not_while_another_waits() -> None:
    session = DrivenSession()
    session.request()
    session.request()
    assert session.table.handle(e.CallAbandoned(key=KEY, call=1)) == ()
    assert of_kind(session.table.handle(e.CallAbandoned(key=KEY, call=2)), c.FreeSession)
    session.freed()
    assert session.state is State.RELEASED


def test_a_caller_that_goes_after_its_answer_changes_nothing() -> None:
    session = DrivenSession().connect()
    assert session.table.handle(e.CallAbandoned(key=KEY, call=1)) == ()
    assert session.state is State.CONNECTED


def test_releasing_ends_the_pending_request_with_an_error() -> None:
    session = DrivenSession()
    session.request()
    session.bound()
    refused = of_kind(session.release(), c.Refuse)
    assert [one.call for one in refused] == [1]
    assert "released" in str(refused[0].error)


def test_a_data_server_that_fails_ends_the_session_with_its_reason() -> None:
    session = DrivenSession().connect()
    session.update(OTHER)
    commands = session.table.handle(e.DataServerFailed(key=KEY, reason="no descriptors left"))
    assert isinstance(of_kind(commands, c.Refuse)[0].error, DataServerError)
    assert of_kind(commands, c.FreeSession)
    session.freed()
    assert (session.state, session.reason) == (State.FAILED, "no descriptors left")


@pytest.mark.parametrize("freed", [False, True])
def test_reports_that_come_after_the_end_change_nothing(freed: bool) -> None:
    session = DrivenSession()
    session.request()
    session.release()
    if freed:
        session.freed()
    before = to_record(session.table.get(KEY))
    for late in (
        e.ListenersBound(key=KEY, listeners=(APP, APP), ports=(5100, 5101), certificate_pem=CERTIFICATE),
        e.PortsTaken(key=KEY, ports=(5100,)),
        e.ReservationFailed(key=KEY, reason="late"),
        e.DataServerReady(key=KEY, generation=1, targets=(APP,), peer_certificate_pem=PEER),
        e.RetargetFailed(key=KEY, generation=1, reason="late"),
        e.DataServerFailed(key=KEY, reason="late"),
        e.DataServerDied(key=KEY, reason="late"),
        e.DataServerRestarted(key=KEY, reason="late"),
        e.TrafficSeen(key=KEY, total=1),
    ):
        assert session.table.handle(late) == ()
    assert to_record(session.table.get(KEY)) == before


def test_everything_that_waits_ends_with_the_session_and_no_timer_is_left() -> None:
    session = DrivenSession().reserve()
    cancelled = {command.timer for command in of_kind(session.release(), c.CancelTimer)}
    assert cancelled == set(Timer) - {Timer.EARLY_HELLO}


def test_a_uid_can_be_used_again_once_its_session_is_free() -> None:
    session = DrivenSession().connect()
    session.release()
    with pytest.raises(WrongState, match="releasing: released on request; ask for a new session"):
        session.request()
    session.freed()
    session.request()
    assert session.state is State.REQUESTED


def test_ended_sessions_are_remembered_up_to_a_bound() -> None:
    table = SessionTable(PortPool([5100]), limits=Limits(ended_sessions=2))
    for number in range(4):
        session = DrivenSession(table, SessionKey("alice", f"uid-{number}"))
        session.request(num_conn=1)
        session.release()
        session.freed()
    assert [session.key.uid for session in table] == ["uid-2", "uid-3"]


def test_a_session_whose_name_is_used_again_no_longer_counts_as_ended() -> None:
    table = SessionTable(PortPool(range(5100, 5104)), limits=Limits(ended_sessions=1))
    again, other = DrivenSession(table), DrivenSession(table, SessionKey("alice", "uid-2"))
    again.connect()
    again.release()
    again.freed()
    again.request()
    other.connect()
    other.release()
    other.freed()
    assert [session.state for session in table] == [State.REQUESTED, State.RELEASED]


# --- whose session ---------------------------------------------------------------------------------------


def test_two_owners_with_one_uid_have_two_sessions_and_cannot_tell() -> None:
    table = SessionTable(PortPool(range(5100, 5104)))
    alice, bob = DrivenSession(table).connect(), DrivenSession(table, SessionKey("bob", "uid-1"))
    with pytest.raises(SessionNotFound):
        bob.update(OTHER)
    bob.release()
    assert alice.state is State.CONNECTED
    bob.request()
    assert set(table.get(bob.key).ports).isdisjoint(table.get(alice.key).ports)


# --- encryption ------------------------------------------------------------------------------------------


def announced(encryption: Encryption, certificate: bytes) -> DrivenSession:
    session = DrivenSession(SessionTable(PortPool(range(5100, 5104)), encryption=encryption))
    session.request()
    session.table.handle(e.ListenersBound(key=KEY, listeners=(APP, APP), certificate_pem=certificate))
    session.hello(APP)
    return session


def test_required_encryption_refuses_an_update_without_certificate_and_says_what_to_do() -> None:
    with pytest.raises(WrongState, match="--encryption optional"):
        announced(Encryption.REQUIRED, CERTIFICATE).update(APP, peer=b"")


def test_optional_encryption_takes_either() -> None:
    for peer in (b"", PEER):
        session = announced(Encryption.OPTIONAL, CERTIFICATE)
        session.update(APP, peer=peer)
        assert session.table.get(KEY).encrypted is bool(peer)


def test_a_gateway_that_does_not_encrypt_refuses_to_look_as_if() -> None:
    session = announced(Encryption.NONE, b"")
    with pytest.raises(WrongState, match="does not encrypt"):
        session.update(APP, peer=PEER)
    session.update(APP, peer=b"")


# --- the table of transitions ----------------------------------------------------------------------------


def test_every_state_can_be_reached_and_from_each_the_end() -> None:
    follow = {state: set[State]() for state in State}
    for (before, _), after in TRANSITIONS.items():
        follow[before].update(after)
    reached = set(BEGINNINGS)
    while more := set().union(*(follow[state] for state in reached)) - reached:
        reached |= more
    assert reached == set(State)
    assert all(State.RELEASING in follow[state] for state in State if not state.ended)


def test_nothing_leads_out_of_an_end_and_out_of_releasing_only_its_end() -> None:
    for (before, event), after in TRANSITIONS.items():
        if before.freed:
            assert after == (before,)
        if before is State.RELEASING:
            assert set(after) == (ENDS if event is e.SessionFreed else {before})


def test_every_living_session_can_be_released_and_renewed_and_waits_for_known_timers_only() -> None:
    living = [state for state in State if not state.ended]
    assert all(TRANSITIONS[state, e.Release] == (State.RELEASING,) for state in living)
    assert all(TRANSITIONS[state, e.Renew] == (state,) for state in living)
    assert set(AWAITED) == set(living) == {state for state, event in TRANSITIONS if event is e.TimerFired}


def test_an_outcome_that_the_table_of_transitions_does_not_name_is_not_passed_over() -> None:
    session = DrivenSession().connect()
    session.table._handlers[e.Hello] = lambda one, _: setattr(one, "state", State.RESERVED) or []
    with pytest.raises(AssertionError, match="Hello led session uid-1 from connected to reserved"):
        session.hello(APP)


# --- listeners -------------------------------------------------------------------------------------------


def test_a_pool_of_any_ports_counts_them_and_learns_them_when_they_are_bound() -> None:
    pool = EphemeralPool(3)
    session = DrivenSession(SessionTable(pool))
    assert session.request() == (c.BindListeners(key=KEY, ports=(0, 0), wanted=2),)
    assert pool.free == 1
    session.bound(40001, 40002)
    assert session.table.get(KEY).ports == (40001, 40002)
    session.release()
    session.freed()
    assert pool.free == 3


def test_bound_ports_must_be_told_where_the_operating_system_chose_them() -> None:
    session = DrivenSession(SessionTable(EphemeralPool(3)))
    session.request()
    with pytest.raises(WrongState, match="2 are wanted"):
        session.table.handle(e.ListenersBound(key=KEY, listeners=(APP, APP)))
    assert session.state is State.REQUESTED


def test_bound_ports_must_be_those_that_the_session_holds() -> None:
    session = DrivenSession()
    session.request()
    with pytest.raises(WrongState, match=r"5100, 5102.*holds 5100, 5101"):
        session.bound(5100, 5102)
    assert session.table.get(KEY).listeners == ()


def test_more_or_fewer_addresses_than_channels_are_taken_as_they_are() -> None:
    for addresses in ((APP,), (APP, OTHER, Endpoint("localhost", 5074))):
        session = DrivenSession().reserve()
        assert of_kind(session.hello(*addresses), c.Reply)[0].destinations == addresses
        assert of_kind(session.update(), c.StartDataServer)[0].targets == addresses


def test_a_hello_after_a_refused_request_waits_and_then_learns_that_there_is_no_session() -> None:
    session = DrivenSession()
    with pytest.raises(InvalidArgument):
        session.request(num_conn=5)
    assert of_kind(session.hello(APP), c.SetTimer)
    (refused,) = session.fire(Timer.EARLY_HELLO)
    assert isinstance(refused, c.Refuse)
    assert isinstance(refused.error, SessionNotFound)
