"""Any messages in any order, lost, doubled and late, any reports, any timers, and a control server that dies.

The world here is what a runtime is to the table: a network that keeps messages back, a shell per session that
does what it was told sooner or later, timers that are armed until they fire or are cancelled, and a journal
that the next control server reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.admission import MAX_CREDENTIALS
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role, SessionKey, Timer
from scistream.core.record import from_record, to_record
from scistream.core.reservation import Capacity, PortPool
from scistream.core.session import AWAITED, Session, State
from scistream.core.table import Limits, SessionTable
from scistream.errors import SciStreamError
from support.driven_session import APP, CERTIFICATE, OTHER, PEER, data_server_ready

KEYS = st.sampled_from(
    [
        SessionKey("alice", "one"),
        SessionKey("alice", "two"),
        SessionKey("alice", "six"),
        SessionKey("bob", "one"),
    ]
)
PORTS = range(5100, 5106)
LIMIT_MBPS = 100
LIMITS = Limits(early_hellos=3, ended_sessions=2, queue_length=2, restarts_in_a_row=1, lifetime_s=600)
RATES = st.sampled_from([0, 40, 70])
LEASES = st.sampled_from([None, 0, 60])
MEETING = Endpoint("far", 6000)
LATE = st.sampled_from([False, False, True])
HOLDING = {State.REQUESTED, State.RESERVED, State.ANNOUNCED, State.CONNECTING, State.CONNECTED}

Message = Callable[[int], e.CallEvent]


def calls_of(session: Session) -> list[int]:
    """Return who waits for an answer of `session`."""
    return [
        *session.requests,
        *(hello.call for hello in session.hellos),
        *(call for call, _ in session.updates),
        *session.releases,
    ]


class AnySequence(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.network: list[Message] = []
        self.calls = 0
        self.waiting: dict[int, SessionKey] = {}
        self.todo: list[c.Command] = []
        self.armed: set[tuple[SessionKey, Timer]] = set()
        self.start_control_server()

    def start_control_server(self) -> None:
        self.pool = PortPool(PORTS)
        self.capacity = Capacity(LIMIT_MBPS)
        self.table = SessionTable(self.pool, limits=LIMITS, capacity=self.capacity, reverses=True)

    # --- the world -------------------------------------------------------------------------------------

    def handle(self, event: e.Event) -> None:
        before, queue = self.everything(), self.table.queue
        if isinstance(event, e.CallEvent) and not isinstance(event, e.CallAbandoned):
            self.waiting[event.call] = event.key
        why = ""
        commands: tuple[c.Command, ...] = ()
        try:
            commands = self.table.handle(event)
        except SciStreamError as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            assert event.key.uid in why
            assert self.everything() == before, f"an event that was refused has changed something: {why}"
            if isinstance(event, e.CallEvent):
                self.waiting.pop(event.call, None)
            return
        self.check_queue(queue, event)
        self.carry_out(commands)

    def carry_out(self, commands: tuple[c.Command, ...]) -> None:
        for command in commands:
            match command:
                case c.Reply(call=call) | c.Refuse(call=call):
                    assert self.waiting.pop(call, None) == command.key, "answered twice, or nobody asked"
                case c.Accepted(call=call):
                    assert f"hash of {call}" in self.table.get(command.key).credential_hashes
                case c.SetTimer(timer=timer):
                    self.armed.add((command.key, timer))
                case c.CancelTimer(timer=timer):
                    self.armed.discard((command.key, timer))
                case c.FreeSession():
                    # the shell drops what it has not begun
                    self.todo = [todo for todo in self.todo if todo.key != command.key] + [command]
                case _:
                    self.todo.append(command)

    def check_queue(self, before: tuple[SessionKey, ...], event: e.Event) -> None:
        after = self.table.queue
        served = [key for key in before if self.state(key) is State.REQUESTED]
        left = [key for key in before if key in after]
        gone = [key for key in before if key not in after and key not in served]
        assert [key for key in before if key not in gone] == served + left, "somebody was overtaken"
        assert list(after[: len(left)]) == left, "somebody came in before others"
        if isinstance(event, e.Request) and before and event.key not in before:
            session = self.table.get(event.key)
            assert (
                session.state is not State.REQUESTED
                or event.call not in session.requests[:1]
                or (session.rate_mbps == 0)
            ), "a later request took capacity that others wait for"

    def everything(self) -> Any:
        return (
            [(to_record(session), calls_of(session)) for session in self.table],
            {key: tuple(hellos) for key, hellos in self.table._greeting._early.items()},
            tuple(self.table._ended),
            self.table.queue,
            (tuple(self.pool._free), sorted(self.pool._held), self.capacity.held_mbps),
        )

    def state(self, key: SessionKey) -> State | None:
        session = self.table.find(key)
        return session.state if session else None

    def next_call(self) -> int:
        self.calls += 1
        return self.calls

    # --- messages --------------------------------------------------------------------------------------

    def send(self, message: Message, late: bool) -> None:
        if late:
            self.network.append(message)
        else:
            self.handle(message(self.next_call()))

    @rule(
        key=KEYS, role=st.sampled_from(Role), num_conn=st.integers(1, 4), rate=RATES, queue=st.booleans(),
        lease_s=LEASES, late=LATE, reverse=st.sampled_from([False, False, True]),
    )  # fmt: skip
    def request(
        self, key: SessionKey, role: Role, num_conn: int, rate: float, queue: bool, lease_s: Any, late: bool,
        reverse: bool = False, term_s: float = 0,
    ) -> None:  # fmt: skip
        self.send(
            lambda call: e.Request(
                key=key, call=call, role=role, num_conn=num_conn, rate_mbps=rate, queue=queue,
                reverse=reverse, idle_timeout_s=lease_s, lifetime_s=lease_s, term_s=term_s,
                credential_hash=f"hash of {call}",
            ),
            late,
        )  # fmt: skip

    @rule(key=KEYS, late=LATE)
    def request_again(self, key: SessionKey, late: bool) -> None:
        if (session := self.table.find(key)) is not None:
            asked = (session.role, session.num_conn, session.rate_mbps, session.queue)
            self.request(key, *asked, lease_s=None, late=late, reverse=session.reverse)

    @rule(
        key=KEYS, role=st.sampled_from(Role), addresses=st.sampled_from([(), (APP,), (APP, OTHER)]), late=LATE
    )
    def hello(self, key: SessionKey, role: Role, addresses: tuple[Endpoint, ...], late: bool) -> None:
        self.send(lambda call: e.Hello(key=key, call=call, role=role, addresses=addresses), late)

    @rule(
        key=KEYS,
        remote=st.sampled_from([(), (APP,), (OTHER,)]),
        peer=st.sampled_from([b"", PEER]),
        late=LATE,
        kind=st.sampled_from(["", "nginx"]),
        meeting=st.integers(0, 4),
    )
    def update(
        self,
        key: SessionKey,
        remote: tuple[Endpoint, ...],
        peer: bytes,
        late: bool,
        kind: str = "",
        meeting: int = 0,
    ) -> None:
        self.send(
            lambda call: e.Update(
                key=key,
                call=call,
                role=None,
                targets=remote,
                peer_certificate_pem=peer,
                peer_data_server=kind,
                reverse_listeners=(MEETING,) * meeting,
            ),
            late,
        )

    @rule(key=KEYS, late=LATE)
    def release(self, key: SessionKey, late: bool) -> None:
        self.send(lambda call: e.Release(key=key, call=call), late)

    @rule(key=KEYS, late=LATE)
    def renew(self, key: SessionKey, late: bool) -> None:
        self.send(lambda call: e.Renew(key=key, call=call), late)

    @precondition(lambda self: self.network)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives twice", "is lost"]))
    def network_does(self, data: st.DataObject, fate: str) -> None:
        message = self.network.pop(data.draw(st.integers(0, len(self.network) - 1)))
        for _ in range({"arrives": 1, "arrives twice": 2, "is lost": 0}[fate]):
            self.handle(message(self.next_call()))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.waiting)))
        self.handle(e.CallAbandoned(key=self.waiting.pop(call), call=call))

    # --- time ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.armed)
    @rule(data=st.data())
    def armed_timer_fires(self, data: st.DataObject) -> None:
        key, timer = data.draw(st.sampled_from(sorted(self.armed)))
        self.armed.remove((key, timer))
        self.handle(e.TimerFired(key=key, timer=timer))

    @rule(key=KEYS, timer=st.sampled_from(Timer))
    def timer_fires_that_is_not_armed(self, key: SessionKey, timer: Timer) -> None:
        if (key, timer) not in self.armed:
            self.handle(e.TimerFired(key=key, timer=timer))

    # --- the shell -------------------------------------------------------------------------------------

    @precondition(lambda self: self.todo)
    @rule(data=st.data(), fails=st.integers(0, 5).map(lambda number: number == 5))
    def shell_reports(self, data: st.DataObject, fails: bool) -> None:
        first = {todo.key: todo for todo in reversed(self.todo)}
        command = first[data.draw(st.sampled_from(sorted(first)))]
        taken = [port for port in PORTS if fails and data.draw(st.booleans())]
        self.report(command, fails=fails, taken=taken, total=data.draw(st.integers(0, 1)))

    def report(
        self, command: c.Command, *, fails: bool = False, taken: Sequence[int] = (), total: int = 0
    ) -> None:
        self.todo.remove(command)
        key = command.key
        match command:
            case c.BindListeners() if ours := tuple(port for port in command.ports if port in taken):
                self.handle(e.PortsTaken(key=key, ports=ours))
            case c.BindListeners():
                ports = self.table.get(key).ports
                assert len(ports) == command.wanted
                session = self.table.get(key)
                own = session.num_conn if session.reverse and session.role is Role.CONSUMER else len(ports)
                self.handle(bound(key, ports, own))
            case c.RecoverListeners():
                assert command.ports == self.table.get(key).ports
                if fails:
                    self.handle(e.ReservationFailed(key=key, reason="somebody has the port"))
            case c.RetargetDataServer() if fails:
                self.handle(e.RetargetFailed(key=key, generation=command.generation, reason="no descriptors"))
            case c.AdoptDataServer() if fails and total:
                self.handle(e.RetargetFailed(key=key, generation=command.generation, reason="no descriptors"))
            case c.StartDataServer() if fails:
                self.handle(e.DataServerFailed(key=key, reason="no descriptors left"))
            case c.StartDataServer():
                self.handle(data_server_ready(command))
            case c.LookForTraffic():
                self.handle(e.TrafficSeen(key=key, total=total))
            case c.FreeSession():
                self.handle(e.SessionFreed(key=key))

    @rule(
        key=KEYS,
        steps=st.integers(1, 8),
        num_conn=st.integers(1, 3),
        rate=RATES,
        lease_s=LEASES,
        role=st.sampled_from(Role),
        reverse=st.booleans(),
    )
    def all_goes_well(
        self, key: SessionKey, steps: int, num_conn: int, rate: float, lease_s: Any, role: Role, reverse: bool
    ) -> None:
        """Without this, what happens by chance hardly ever leads to a session that is connected."""
        for _ in range(steps):
            session = self.table.find(key)
            todo = [command for command in self.todo if command.key == key]
            if todo:
                self.report(todo[0])
            elif session is None or session.freed:
                self.request(
                    key, role, num_conn, rate, queue=True, lease_s=lease_s, late=False, reverse=reverse
                )
            elif session.state is State.RESERVED:
                self.hello(key, session.role, (APP,), late=False)
            elif session.state in {State.ANNOUNCED, State.CONNECTED}:
                remote = OTHER if session.targets == (APP,) else APP
                consumer = session.role is Role.CONSUMER
                meeting = session.num_conn if session.reverse and not consumer else 0
                targets = () if session.reverse and consumer else (remote,)
                self.update(key, targets, PEER, late=False, meeting=meeting)

    @precondition(lambda self: any(timer is Timer.IDLE for _, timer in self.armed))
    @rule(data=st.data(), looks=st.integers(1, 5), total=st.integers(0, 1))
    def nothing_happens_for_long(self, data: st.DataObject, looks: int, total: int) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, timer in self.armed if timer is Timer.IDLE)))
        for _ in range(looks):
            if (key, Timer.IDLE) in self.armed:
                self.armed.remove((key, Timer.IDLE))
                self.handle(e.TimerFired(key=key, timer=Timer.IDLE))
                self.report(c.LookForTraffic(key=key), total=total)

    @rule(
        key=KEYS,
        kind=st.sampled_from([e.DataServerDied, e.DataServerDied, e.DataServerRestarted, e.DataServerFailed]),
    )
    def data_server_ends(self, key: SessionKey, kind: Any) -> None:
        self.handle(kind(key=key, reason="killed"))

    @rule(key=KEYS, port=st.sampled_from(PORTS), kind=st.integers(0, 6))
    def something_is_reported_that_nobody_asked_for(self, key: SessionKey, port: int, kind: int) -> None:
        session = self.table.find(key)
        event = [
            bound(key, (port,)),
            e.PortsTaken(key=key, ports=()),
            e.ReservationFailed(key=key, reason="late"),
            # what a data server had reported before it ended
            e.DataServerReady(
                key=key,
                generation=session.ready_generation if session else 1,
                targets=(OTHER,),
                peer_certificate_pem=b"",
            ),
            e.RetargetFailed(
                key=key, generation=session.ready_generation if session else 1, reason="no descriptors"
            ),
            e.TrafficSeen(key=key, total=1),
            e.SessionFreed(key=key),
        ][kind]
        if not isinstance(event, e.SessionFreed) or self.state(key) is not State.RELEASING:
            self.handle(event)

    # --- the end of the control server -----------------------------------------------------------------

    @rule()
    def control_server_is_killed_and_started_again(self) -> None:
        journal = [json.dumps(to_record(session)) for session in self.table]
        self.waiting.clear()
        self.todo.clear()
        self.start_control_server()
        for line in journal:
            session = from_record(json.loads(line))
            living = session.state in HOLDING - {State.REQUESTED}
            self.carry_out(self.table.restore(session))
            if living:
                assert json.dumps(to_record(session)) == line
            else:
                assert session.state.ended
        # the runtime arms again what was armed, of those that live
        living_keys = {session.key for session in self.table if not session.state.ended}
        self.armed = {
            (key, timer) for key, timer in self.armed if key in living_keys and timer is not Timer.EARLY_HELLO
        }

    # --- what always holds -----------------------------------------------------------------------------

    @invariant()
    def every_port_is_free_or_held_by_one_session(self) -> None:
        held = [port for session in self.table for port in session.ports]
        assert len(held) == len(set(held)) == self.pool.held
        assert self.pool.free + self.pool.held == len(PORTS)
        assert all(
            len(session.ports) == (session.num_ports if session.state in HOLDING else 0)
            for session in self.table
            if session.state is not State.RELEASING
        )

    @invariant()
    def the_capacity_held_is_what_living_sessions_reserved(self) -> None:
        assert self.capacity.held_mbps == sum(session.held_mbps for session in self.table) <= LIMIT_MBPS
        assert all(
            session.held_mbps == (session.rate_mbps if session.state in HOLDING else 0)
            for session in self.table
            if session.state is not State.RELEASING
        )

    @invariant()
    def every_call_waits_or_was_answered_and_nobody_waits_for_what_is_free(self) -> None:
        known = {hello.call: key for key, hellos in self.table._greeting._early.items() for hello in hellos}
        for session in self.table:
            calls = calls_of(session)
            assert not (session.freed and calls)
            assert not (session.state.ended and calls != session.releases)
            assert not known.keys() & set(calls)
            known |= dict.fromkeys(calls, session.key)
        assert known == self.waiting

    @invariant()
    def whoever_is_first_in_the_queue_waits_for_something(self) -> None:
        queued = {session.key for session in self.table if session.state is State.QUEUED}
        assert queued == set(self.table.queue)
        for key in self.table.queue[:1]:
            first = self.table.get(key)
            assert first.num_ports > self.pool.free or not self.capacity.fits(first.rate_mbps)

    @invariant()
    def the_timers_that_are_armed_are_those_that_the_state_waits_for(self) -> None:
        early = {key for key, timer in self.armed if timer is Timer.EARLY_HELLO}
        assert early == set(self.table._greeting._early)
        for session in self.table:
            armed = {timer for key, timer in self.armed if key == session.key} - {Timer.EARLY_HELLO}
            wanted = set(AWAITED.get(session.state, ()))
            may = {Timer.STEADY}
            may |= {Timer.LIFETIME} if not session.lifetime_s else set()
            may |= {Timer.TERM} if not session.term_s else set()
            looking = c.LookForTraffic(key=session.key) in self.todo
            may |= {Timer.IDLE} if not session.idle_timeout_s or looking else set()
            assert wanted - may <= armed <= wanted, session.state

    @invariant()
    def a_credential_finds_the_session_that_it_was_made_for_and_no_other(self) -> None:
        known = {one: session.key for session in self.table for one in session.credential_hashes}
        assert self.table._with_credential == known
        assert all(len(session.credential_hashes) <= MAX_CREDENTIALS for session in self.table)

    @invariant()
    def what_is_connected_has_the_targets_of_an_order_that_worked_or_is_under_way(self) -> None:
        for session in self.table:
            if session.state is State.CONNECTED and session.ready_generation == session.generation:
                assert session.targets == session.ready_targets != ()
                assert session.peer_certificate_pem == session.ready_peer_certificate_pem
                assert session.peer_data_server == session.ready_peer_data_server
                assert session.reverse_listeners == session.ready_reverse_listeners

    @invariant()
    def the_sides_of_a_reverse_session_that_is_connected_have_one_meeting_place_per_channel(self) -> None:
        for session in self.table:
            if session.state is State.CONNECTED:
                assert len(session.reverse_listeners) == (session.num_conn if session.reverse else 0)

    @invariant()
    def what_is_being_freed_is_being_freed_once(self) -> None:
        freeing = [command.key for command in self.todo if isinstance(command, c.FreeSession)]
        assert sorted(freeing) == sorted(
            session.key for session in self.table if session.state is State.RELEASING
        )
        assert all(not self.table.get(todo.key).freed for todo in self.todo)

    def teardown(self) -> None:
        if not hasattr(self, "table"):
            return
        for session in self.table:
            self.handle(e.Release(key=session.key, call=self.next_call()))
        while self.todo:
            command = self.todo.pop(0)
            assert isinstance(command, c.FreeSession)
            self.handle(e.SessionFreed(key=command.key))
        for key in tuple(self.table._greeting._early):
            self.handle(e.TimerFired(key=key, timer=Timer.EARLY_HELLO))
        assert (self.pool.held, self.capacity.held_mbps, self.table.queue) == (0, 0, ())
        assert not self.waiting


def bound(key: SessionKey, ports: tuple[int, ...], own: int | None = None) -> e.ListenersBound:
    """Return the report that `ports` are bound, all but `own` of them for the other gateway."""
    own = len(ports) if own is None else own
    return e.ListenersBound(
        key=key,
        listeners=tuple(Endpoint("gw", port) for port in ports[:own]),
        reverse_listeners=tuple(Endpoint("gw", port) for port in ports[own:]),
        ports=ports,
        certificate_pem=CERTIFICATE,
    )


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
