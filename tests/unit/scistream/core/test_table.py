"""Sessions' rules: sequences of events in, commands out; then any sequence, by hypothesis."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey, Timer
from scistream.core.reservation import EphemeralPool, PortPool
from scistream.core.session import TRANSITIONS, Encryption, State
from scistream.core.table import Limits, SessionTable
from scistream.errors import (
    DataServerError,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    SciStreamError,
    SessionExists,
    SessionNotFound,
    WrongState,
)

KEY = SessionKey("alice", "uid-1")
APP = Endpoint("10.0.0.5", 7000)
OTHER = Endpoint("10.0.0.6", 7000)
CERTIFICATE = b"our certificate"
PEER = b"their certificate"


class Session:
    """One session driven by hand; calls are numbered as they come."""

    def __init__(
        self, table: SessionTable | None = None, key: SessionKey = KEY, role: Role = Role.PRODUCER
    ) -> None:
        self.table = table or SessionTable(PortPool(range(5100, 5104)))
        self.key = key
        self.role = role
        self.calls = 0

    def call(self) -> int:
        self.calls += 1
        return self.calls

    def request(self, **changes: Any) -> tuple[c.Command, ...]:
        values: dict[str, Any] = {"role": self.role, "num_conn": 2, "rate_mbps": 100} | changes
        return self.table.handle(e.Request(key=self.key, call=self.call(), **values))

    def bound(self) -> tuple[c.Command, ...]:
        ports = self.table.get(self.key).ports
        return self.table.handle(
            e.ListenersBound(
                key=self.key,
                listeners=tuple(Endpoint("gw", port) for port in ports),
                certificate_pem=CERTIFICATE,
            )
        )

    def hello(self, *addresses: Endpoint, role: Role | None = None) -> tuple[c.Command, ...]:
        return self.table.handle(
            e.Hello(key=self.key, call=self.call(), role=role or self.role, addresses=addresses)
        )

    def update(
        self, *targets: Endpoint, peer: bytes = PEER, role: Role | None = None
    ) -> tuple[c.Command, ...]:
        return self.table.handle(
            e.Update(key=self.key, call=self.call(), role=role, targets=targets, peer_certificate_pem=peer)
        )

    def ready(self, generation: int = 1) -> tuple[c.Command, ...]:
        return self.table.handle(e.DataServerReady(key=self.key, generation=generation))

    def release(self) -> tuple[c.Command, ...]:
        return self.table.handle(e.Release(key=self.key, call=self.call()))

    def freed(self) -> tuple[c.Command, ...]:
        return self.table.handle(e.SessionFreed(key=self.key))

    def connect(self) -> Session:
        self.request()
        self.bound()
        self.hello(APP)
        self.update(APP)
        self.ready()
        return self

    @property
    def state(self) -> State:
        return self.table.get(self.key).state


def of_kind(commands: tuple[c.Command, ...], kind: type[c.Command]) -> list[Any]:
    return [command for command in commands if type(command) is kind]


# --- the main path ---------------------------------------------------------------------------------------


def test_request_binds_ports_and_is_answered_at_hello_with_listeners_destinations_and_certificate() -> None:
    session = Session()
    assert session.request() == (c.BindListeners(key=KEY, ports=(5100, 5101), wanted=2),)
    assert session.state is State.REQUESTED
    assert session.bound() == (c.SetTimer(key=KEY, timer=Timer.HELLO, seconds=180),)
    assert session.state is State.RESERVED
    replies = of_kind(session.hello(APP), c.Reply)
    assert [reply.call for reply in replies] == [1, 2]
    assert replies[0].listeners == (Endpoint("gw", 5100), Endpoint("gw", 5101))
    assert replies[0].destinations == (APP,)
    assert replies[0].certificate_pem == CERTIFICATE
    assert session.state is State.ANNOUNCED


def test_update_starts_the_data_server_and_is_answered_when_it_forwards() -> None:
    session = Session()
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
    session = Session(SessionTable(pool)).connect()
    assert of_kind(session.release(), c.FreeSession)
    assert session.state is State.RELEASED
    assert pool.free == 0
    assert [reply.call for reply in of_kind(session.freed(), c.Reply)] == [4]
    assert pool.free == 2


def test_an_update_without_targets_takes_what_the_application_announced() -> None:
    session = Session()
    session.request()
    session.bound()
    session.hello(APP)
    assert of_kind(session.update(), c.StartDataServer)[0].targets == (APP,)


def test_a_consumer_session_takes_hello_as_producer_with_the_producers_listeners() -> None:
    session = Session(role=Role.CONSUMER)
    session.request()
    session.bound()
    replies = of_kind(session.hello(OTHER, role=Role.PRODUCER), c.Reply)
    assert replies[0].destinations == (OTHER,)


def test_a_consumer_session_takes_hello_without_addresses_but_not_an_update_without_targets() -> None:
    session = Session(role=Role.CONSUMER)
    session.request()
    session.bound()
    assert len(of_kind(session.hello(), c.Reply)) == 2
    with pytest.raises(InvalidArgument, match="no target"):
        session.update()


# --- every message twice ---------------------------------------------------------------------------------


def test_the_same_request_twice_waits_twice_and_reserves_once() -> None:
    pool = PortPool(range(5100, 5104))
    session = Session(SessionTable(pool))
    session.request()
    assert session.request() == ()
    session.bound()
    assert session.request() == ()
    assert [reply.call for reply in of_kind(session.hello(APP), c.Reply)] == [1, 2, 3, 4]
    assert pool.held == 2
    assert [reply.call for reply in of_kind(session.request(), c.Reply)] == [5]


def test_another_request_with_the_same_uid_is_refused() -> None:
    session = Session().connect()
    for change in ({"num_conn": 1}, {"role": Role.CONSUMER}, {"rate_mbps": 1}):
        with pytest.raises(SessionExists, match="uid-1"):
            session.request(**change)


def test_the_same_hello_twice_has_the_effect_of_one_and_another_one_is_refused() -> None:
    session = Session()
    session.request()
    session.bound()
    session.hello(APP)
    assert len(session.hello(APP)) == 1
    with pytest.raises(WrongState, match="Hello cannot change"):
        session.hello(OTHER)


def test_the_same_update_twice_starts_one_data_server_and_answers_both() -> None:
    session = Session()
    session.request()
    session.bound()
    session.hello(APP)
    session.update(APP)
    assert session.update(APP) == ()
    assert [reply.call for reply in of_kind(session.ready(), c.Reply)] == [3, 4]
    assert [type(command) for command in session.update(APP)] == [c.Reply]


def test_another_update_retargets_and_each_is_answered_when_its_own_has_been_taken_over() -> None:
    session = Session()
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
    session = Session()
    session.request()
    session.bound()
    session.hello(APP)
    for port in range(1, 17):
        session.update(Endpoint("gw", port))
    with pytest.raises(ResourceExhausted, match="16 updates"):
        session.update(Endpoint("gw", 17))


def test_release_is_fine_twice_during_the_end_after_it_and_for_an_unknown_session() -> None:
    session = Session().connect()
    session.release()
    assert session.release() == ()
    assert [reply.call for reply in of_kind(session.freed(), c.Reply)] == [4, 5]
    assert [type(command) for command in session.release()] == [c.Reply]
    stranger = Session(session.table, SessionKey("alice", "never-seen"))
    assert [type(command) for command in stranger.release()] == [c.Reply]


# --- wrong order, wrong values ---------------------------------------------------------------------------


def test_update_before_hello_is_illegal_and_says_event_uid_and_state() -> None:
    session = Session()
    session.request()
    session.bound()
    with pytest.raises(WrongState, match=r"Update cannot come while session uid-1 is reserved.*hello"):
        session.update(APP)


def test_update_and_hello_of_an_ended_session_say_why_it_ended() -> None:
    session = Session()
    session.request()
    session.bound()
    session.table.handle(e.TimerFired(key=KEY, timer=Timer.HELLO))
    for late in (session.update, session.hello):
        with pytest.raises(WrongState, match="expired: no hello came within 180 s"):
            late(APP)


def test_roles_are_checked() -> None:
    session = Session()
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
        Session().request(num_conn=num_conn)


def test_more_channels_than_the_pool_has_are_an_error_of_the_caller_and_an_empty_pool_is_not() -> None:
    session = Session()
    with pytest.raises(InvalidArgument, match="4 ports in all"):
        session.request(num_conn=5)
    session.request(num_conn=3)
    with pytest.raises(ResourceExhausted, match="2 ports wanted, 1 of 4 free"):
        Session(session.table, SessionKey("alice", "uid-2")).request()
    assert session.table.remembered == 1


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf"), 2.0**31])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(InvalidArgument, match="rate"):
        Session().request(rate_mbps=rate)


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
    session = Session()
    assert session.hello(APP) == (c.SetTimer(key=KEY, timer=Timer.EARLY_HELLO, seconds=4),)
    assert c.CancelTimer(key=KEY, timer=Timer.EARLY_HELLO) in session.request()
    assert [reply.call for reply in of_kind(session.bound(), c.Reply)] == [2, 1]
    assert session.state is State.ANNOUNCED


def test_a_hello_without_request_is_refused_in_time() -> None:
    session = Session()
    session.hello(APP)
    refused = session.table.handle(e.TimerFired(key=KEY, timer=Timer.EARLY_HELLO))
    assert isinstance(of_kind(refused, c.Refuse)[0].error, SessionNotFound)
    assert session.table.early_hellos == 0


def test_an_early_hello_that_does_not_fit_its_request_is_refused_and_the_request_goes_on() -> None:
    session = Session()
    session.hello(role=Role.CONSUMER)
    session.request()
    assert isinstance(of_kind(session.bound(), c.Refuse)[0].error, InvalidArgument)
    assert session.state is State.RESERVED


def test_early_hellos_are_bounded_and_forgotten_with_their_callers() -> None:
    table = SessionTable(PortPool([5100]), limits=Limits(early_hellos=1))
    first = Session(table)
    first.hello(APP)
    with pytest.raises(ResourceExhausted):
        Session(table, SessionKey("alice", "uid-2")).hello(APP)
    assert table.handle(e.CallAbandoned(key=KEY, call=1)) == (
        c.CancelTimer(key=KEY, timer=Timer.EARLY_HELLO),
    )
    assert table.early_hellos == 0


# --- ports held by others --------------------------------------------------------------------------------


def test_a_port_that_somebody_else_holds_is_skipped() -> None:
    session = Session()
    session.request()
    commands = session.table.handle(e.PortsTaken(key=KEY, ports=(5100,)))
    assert commands == (c.BindListeners(key=KEY, ports=(5102,), wanted=2),)
    assert session.table.get(KEY).ports == (5101, 5102)


def test_no_port_left_is_an_error_and_frees_what_was_bound() -> None:
    pool = PortPool(range(5100, 5102))
    session = Session(SessionTable(pool))
    session.request()
    commands = session.table.handle(e.PortsTaken(key=KEY, ports=(5101,)))
    assert isinstance(of_kind(commands, c.Refuse)[0].error, ResourceExhausted)
    assert len(of_kind(commands, c.FreeSession)) == 1
    assert session.state is State.FAILED
    session.freed()
    assert pool.free == 2


# --- the ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timer", [Timer.HELLO, Timer.UPDATE])
def test_a_lease_that_runs_out_frees_everything_and_answers_who_waits(timer: Timer) -> None:
    pool = PortPool(range(5100, 5104))
    session = Session(SessionTable(pool))
    session.request()
    session.bound()
    if timer is Timer.UPDATE:
        session.hello(APP)
    commands = session.table.handle(e.TimerFired(key=KEY, timer=timer))
    waiting = [type(refused.error) for refused in of_kind(commands, c.Refuse)]
    assert waiting == ([DeadlineExceeded] if timer is Timer.HELLO else [])
    assert of_kind(commands, c.FreeSession)
    assert session.state is State.EXPIRED
    session.freed()
    assert pool.held == 0


def test_a_request_whose_caller_has_gone_is_freed_but_not_while_another_waits() -> None:
    session = Session()
    session.request()
    session.request()
    assert session.table.handle(e.CallAbandoned(key=KEY, call=1)) == ()
    assert of_kind(session.table.handle(e.CallAbandoned(key=KEY, call=2)), c.FreeSession)
    assert session.state is State.RELEASED


def test_a_caller_that_goes_after_its_answer_changes_nothing() -> None:
    session = Session().connect()
    assert session.table.handle(e.CallAbandoned(key=KEY, call=1)) == ()
    assert session.state is State.CONNECTED


def test_releasing_ends_the_pending_request_with_an_error() -> None:
    session = Session()
    session.request()
    session.bound()
    refused = of_kind(session.release(), c.Refuse)
    assert [one.call for one in refused] == [1]
    assert "released" in str(refused[0].error)


def test_a_data_server_that_dies_fails_the_session_with_its_reason() -> None:
    session = Session().connect()
    session.update(OTHER)
    commands = session.table.handle(e.DataServerFailed(key=KEY, reason="killed by signal 9"))
    assert isinstance(of_kind(commands, c.Refuse)[0].error, DataServerError)
    assert (session.state, session.table.get(KEY).reason) == (State.FAILED, "killed by signal 9")
    assert of_kind(commands, c.FreeSession)


def test_reports_that_come_after_the_end_change_nothing() -> None:
    session = Session()
    session.request()
    session.release()
    assert session.bound() == ()
    assert session.ready() == ()
    assert session.state is State.RELEASED
    assert session.table.get(KEY).listeners == ()


def test_a_uid_can_be_used_again_once_its_session_is_free() -> None:
    session = Session().connect()
    session.release()
    with pytest.raises(WrongState, match="released"):
        session.request()
    session.freed()
    session.request()
    assert session.state is State.REQUESTED


def test_ended_sessions_are_remembered_up_to_a_bound() -> None:
    table = SessionTable(PortPool([5100]), limits=Limits(ended_sessions=2))
    for number in range(4):
        session = Session(table, SessionKey("alice", f"uid-{number}"))
        session.request(num_conn=1)
        session.release()
        session.freed()
    assert [session.key.uid for session in table] == ["uid-2", "uid-3"]


# --- whose session ---------------------------------------------------------------------------------------


def test_two_owners_with_one_uid_have_two_sessions_and_cannot_tell() -> None:
    table = SessionTable(PortPool(range(5100, 5104)))
    alice, bob = Session(table).connect(), Session(table, SessionKey("bob", "uid-1"))
    with pytest.raises(SessionNotFound):
        bob.update(OTHER)
    bob.release()
    assert alice.state is State.CONNECTED
    bob.request()
    assert set(table.get(bob.key).ports).isdisjoint(table.get(alice.key).ports)


# --- encryption ------------------------------------------------------------------------------------------


def announced(encryption: Encryption, certificate: bytes) -> Session:
    session = Session(SessionTable(PortPool(range(5100, 5104)), encryption=encryption))
    session.request()
    session.table.handle(
        e.ListenersBound(key=KEY, listeners=(Endpoint("gw", 5100),), certificate_pem=certificate)
    )
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


# --- any order -------------------------------------------------------------------------------------------

KEYS = st.sampled_from([SessionKey("alice", "one"), SessionKey("alice", "two"), SessionKey("bob", "one")])
PORTS = range(5100, 5106)


def frozen(table: SessionTable) -> Any:
    return copy.deepcopy((table._sessions, table._early, table._ended, table._pool.__dict__))


class AnySequence(RuleBasedStateMachine):
    """Any events in any order, with a shell that reports what it was told to do, sooner or later.

    Invariant: no port is held twice, every held port belongs to a session that is not free, an event that
    raises has changed nothing, every call is answered at most once, and none is forgotten at the end.
    """

    @initialize()
    def begin(self) -> None:
        self.pool = PortPool(PORTS)
        self.table = SessionTable(self.pool, limits=Limits(early_hellos=3, ended_sessions=2))
        self.calls = 0
        self.waiting: set[int] = set()
        self.todo: list[c.Command] = []

    def handle(self, event: e.Event) -> None:
        before = frozen(self.table)
        if isinstance(event, e.CallEvent) and not isinstance(event, e.CallAbandoned):
            self.waiting.add(event.call)
        try:
            commands = self.table.handle(event)
        except SciStreamError:
            assert frozen(self.table) == before
            if isinstance(event, e.CallEvent):
                self.waiting.discard(event.call)
            return
        for command in commands:
            if isinstance(command, c.Reply | c.Refuse):
                assert command.call in self.waiting, "answered twice, or nobody asked"
                self.waiting.remove(command.call)
            elif isinstance(command, c.FreeSession):
                # the shell drops what it has not begun
                self.todo = [todo for todo in self.todo if todo.key != command.key] + [command]
            elif not isinstance(command, c.SetTimer | c.CancelTimer):
                self.todo.append(command)

    def next_call(self) -> int:
        self.calls += 1
        return self.calls

    @rule(key=KEYS, role=st.sampled_from(Role), num_conn=st.integers(1, 4))
    def request(self, key: SessionKey, role: Role, num_conn: int) -> None:
        self.handle(e.Request(key=key, call=self.next_call(), role=role, num_conn=num_conn))

    @rule(key=KEYS, role=st.sampled_from(Role), addresses=st.sampled_from([(), (APP,), (APP, OTHER)]))
    def hello(self, key: SessionKey, role: Role, addresses: tuple[Endpoint, ...]) -> None:
        self.handle(e.Hello(key=key, call=self.next_call(), role=role, addresses=addresses))

    @rule(key=KEYS, addresses=st.sampled_from([(), (APP,), (OTHER,)]), peer=st.sampled_from([b"", PEER]))
    def update(self, key: SessionKey, addresses: tuple[Endpoint, ...], peer: bytes) -> None:
        self.handle(
            e.Update(key=key, call=self.next_call(), role=None, targets=addresses, peer_certificate_pem=peer)
        )

    @rule(key=KEYS)
    def release(self, key: SessionKey) -> None:
        self.handle(e.Release(key=key, call=self.next_call()))

    @rule(key=KEYS, back=st.integers(0, 5))
    def abandon(self, key: SessionKey, back: int) -> None:
        call = max(1, self.calls - back)
        before = len(self.waiting)
        self.waiting.discard(call)
        owner = key
        for session in self.table:
            calls = [*session.requests, *session.releases, *(u[0] for u in session.updates)]
            calls += [hello.call for hello in session.hellos]
            if call in calls:
                owner = session.key
        for early, hellos in self.table._early.items():
            if call in [hello.call for hello in hellos]:
                owner = early
        if len(self.waiting) < before:
            self.handle(e.CallAbandoned(key=owner, call=call))

    @rule(key=KEYS, timer=st.sampled_from(Timer))
    def fire(self, key: SessionKey, timer: Timer) -> None:
        self.handle(e.TimerFired(key=key, timer=timer))

    @rule(key=KEYS)
    def kill_data_server(self, key: SessionKey) -> None:
        self.handle(e.DataServerFailed(key=key, reason="killed"))

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        if not self.todo:
            return
        first = {todo.key: todo for todo in reversed(self.todo)}
        command = first[data.draw(st.sampled_from(sorted(first)))]
        self.todo.remove(command)
        key = command.key
        match command:
            case c.BindListeners():
                taken = tuple(port for port in command.ports if data.draw(st.booleans()))
                if taken:
                    self.handle(e.PortsTaken(key=key, ports=taken))
                else:
                    listeners = tuple(Endpoint("gw", port) for port in self.table.get(key).ports)
                    assert len(listeners) == command.wanted
                    self.handle(e.ListenersBound(key=key, listeners=listeners, certificate_pem=CERTIFICATE))
            case c.StartDataServer():
                self.handle(e.DataServerReady(key=key, generation=command.generation))
            case c.FreeSession():
                self.handle(e.SessionFreed(key=key))

    @invariant()
    def every_port_is_free_or_held_by_one_living_session(self) -> None:
        held = [port for session in self.table for port in session.ports]
        assert len(held) == len(set(held)) == self.pool.held
        assert self.pool.free + self.pool.held == len(PORTS)
        assert all(not session.freed or not session.ports for session in self.table)

    @invariant()
    def every_call_without_answer_is_known_to_a_session(self) -> None:
        known = [hello.call for hellos in self.table._early.values() for hello in hellos]
        for session in self.table:
            known += [*session.requests, *session.releases, *(update[0] for update in session.updates)]
            known += [hello.call for hello in session.hellos]
        assert sorted(known) == sorted(self.waiting)

    def teardown(self) -> None:
        for session in self.table:
            self.handle(e.Release(key=session.key, call=self.next_call()))
        while self.todo:
            command = self.todo.pop(0)
            assert isinstance(command, c.FreeSession)
            self.handle(e.SessionFreed(key=command.key))
        for key in tuple(self.table._early):
            self.handle(e.TimerFired(key=key, timer=Timer.EARLY_HELLO))
        assert self.pool.held == 0
        assert not self.waiting


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- the table of transitions ----------------------------------------------------------------------------


def test_every_state_can_be_reached_and_every_end_is_one() -> None:
    reached = {State.REQUESTED}
    while more := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
        reached |= more
    assert reached == set(State)
    assert all(before is after for (before, _), after in TRANSITIONS.items() if before.ended)


def test_every_living_session_can_be_released() -> None:
    assert all(TRANSITIONS[state, e.Release] is (state if state.ended else State.RELEASED) for state in State)


def test_a_pool_of_any_ports_counts_them() -> None:
    pool = EphemeralPool(3)
    session = Session(SessionTable(pool))
    assert session.request() == (c.BindListeners(key=KEY, ports=(0, 0), wanted=2),)
    assert pool.free == 1
