"""Who gets capacity and ports, who queues for them, who is refused."""

from __future__ import annotations

from typing import Any

import pytest

from scistream.core import commands as c
from scistream.core.events import PortsTaken, SessionKey, Timer
from scistream.core.reservation import Capacity, PortPool
from scistream.core.session import State
from scistream.core.table import Limits, SessionTable
from scistream.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, SessionExists, WrongState
from support.driven_session import APP, DrivenSession, answered, of_kind


class Gateway:
    """A table with 100 Mb/s and 6 ports, and what it has."""

    def __init__(self, ports: int = 6, limit_mbps: float = 100, **limits: Any) -> None:
        self.pool = PortPool(range(5100, 5100 + ports))
        self.capacity = Capacity(limit_mbps)
        self.table = SessionTable(self.pool, limits=Limits(**limits), capacity=self.capacity)

    def session(self, uid: str) -> DrivenSession:
        return DrivenSession(self.table, SessionKey("alice", uid))

    def asked(
        self, uid: str, rate_mbps: float = 0, num_conn: int = 1, *, queue: bool = True
    ) -> DrivenSession:
        session = self.session(uid)
        session.request(rate_mbps=rate_mbps, num_conn=num_conn, queue=queue)
        return session


def test_a_rate_is_reserved_at_the_request_and_given_back_when_the_session_is_free() -> None:
    gateway = Gateway()
    session = gateway.asked("one", 60)
    assert (gateway.capacity.held_mbps, gateway.capacity.free_mbps) == (60, 40)
    session.release()
    assert gateway.capacity.held_mbps == 60
    session.freed()
    assert gateway.capacity.held_mbps == 0


def test_beyond_the_capacity_a_request_is_refused_with_what_is_free_and_what_helps() -> None:
    gateway = Gateway()
    gateway.asked("one", 60)
    with pytest.raises(
        ResourceExhausted, match=r"60 Mb/s, 40 of 100 Mb/s free; ask for 40 Mb/s or less.*queue"
    ):
        gateway.asked("two", 60, queue=False)
    assert (gateway.capacity.held_mbps, gateway.pool.held, gateway.table.remembered) == (60, 1, 1)
    gateway.asked("two", 40, queue=False)
    with pytest.raises(ResourceExhausted, match="0 of 100 Mb/s free; release sessions"):
        gateway.asked("three", 1, queue=False)


def test_a_request_without_rate_reserves_nothing_and_needs_nothing() -> None:
    gateway = Gateway()
    gateway.asked("one", 100)
    assert gateway.asked("two", 0).state is State.REQUESTED
    assert gateway.capacity.held_mbps == 100


def test_what_the_whole_gateway_does_not_have_is_refused_at_once_even_if_it_would_queue() -> None:
    gateway = Gateway()
    with pytest.raises(InvalidArgument, match="101 Mb/s, and this gateway has 100 Mb/s in all"):
        gateway.asked("one", 101)
    with pytest.raises(InvalidArgument, match="6 ports in all"):
        gateway.asked("one", 0, num_conn=7)
    assert gateway.table.queue == ()


def test_without_a_limit_any_rate_is_reserved() -> None:
    gateway = Gateway(limit_mbps=0)
    gateway.asked("one", 1e9)
    assert gateway.asked("two", 1e9, queue=False).state is State.REQUESTED


def test_a_request_that_queues_is_served_when_capacity_is_free() -> None:
    gateway = Gateway()
    first = gateway.asked("one", 60)
    second = gateway.session("two")
    assert second.request(rate_mbps=60, num_conn=1, queue=True) == (
        c.SetTimer(key=second.key, timer=Timer.QUEUE, seconds=3600),
    )
    assert (second.state, gateway.pool.held) == (State.QUEUED, 1)
    assert of_kind(first.release(), c.BindListeners) == []
    served = first.freed()
    assert served[-2:] == (
        c.CancelTimer(key=second.key, timer=Timer.QUEUE),
        c.BindListeners(key=second.key, ports=(5101,), wanted=1),
    )
    assert second.state is State.REQUESTED
    second.bound()
    assert answered(second.hello(APP)) == [1, 2]


def test_a_request_that_queues_is_served_when_ports_are_free() -> None:
    gateway = Gateway(ports=2)
    first = gateway.asked("one", num_conn=2)
    second = gateway.asked("two", num_conn=1)
    assert second.state is State.QUEUED
    first.release()
    first.freed()
    assert second.state is State.REQUESTED


def test_the_queue_is_served_in_order_and_one_that_would_fit_waits_behind_one_that_does_not() -> None:
    gateway = Gateway()
    first, small = gateway.asked("one", 50), gateway.asked("small", 20)
    big, tiny = gateway.asked("big", 90), gateway.asked("tiny", 10)
    assert gateway.table.queue == (big.key, tiny.key)
    small.release()
    small.freed()
    assert gateway.table.queue == (big.key, tiny.key)
    first.release()
    assert [command.key for command in of_kind(first.freed(), c.BindListeners)] == [big.key, tiny.key]
    assert gateway.capacity.held_mbps == 100


def test_a_later_request_takes_nothing_that_those_who_queue_wait_for() -> None:
    gateway = Gateway()
    gateway.asked("one", 90, num_conn=2)
    gateway.asked("two", 50, num_conn=3)
    with pytest.raises(ResourceExhausted, match="1 requests queue"):
        gateway.asked("three", 5, queue=False)
    with pytest.raises(ResourceExhausted, match="1 requests queue"):
        gateway.asked("four", 0, num_conn=2, queue=False)
    assert gateway.asked("five", 5).state is State.QUEUED
    assert gateway.table.queue[-1].uid == "five"
    # nobody who queues waits for the port that is left
    assert gateway.pool.free == 4


def test_one_that_needs_none_of_what_is_waited_for_need_not_wait() -> None:
    gateway = Gateway()
    gateway.asked("one", 90, num_conn=2)
    gateway.asked("two", 50, num_conn=3)
    assert gateway.asked("three", 0, num_conn=1, queue=False).state is State.REQUESTED


def test_who_waits_behind_is_served_when_the_first_leaves_the_queue() -> None:
    for leave in ("release", "abandon", "expire"):
        gateway = Gateway()
        gateway.asked("one", 50)
        big, small = gateway.asked("big", 90), gateway.asked("small", 40)
        commands = {
            "release": big.release,
            "abandon": lambda big=big: big.abandon(1),
            "expire": lambda big=big: big.fire(Timer.QUEUE),
        }[leave]()
        assert [command.key for command in of_kind(commands, c.BindListeners)] == [small.key]
        assert (small.state, gateway.table.queue) == (State.REQUESTED, ())
        # it held nothing, so it frees nothing
        big.freed()
        assert gateway.capacity.held_mbps == 90


def test_queueing_ends_in_time_with_a_reason() -> None:
    gateway = Gateway(queue_timeout_s=7)
    gateway.asked("one", 60)
    second = gateway.asked("two", 60)
    commands = second.fire(Timer.QUEUE)
    (refused,) = of_kind(commands, c.Refuse)
    assert isinstance(refused.error, DeadlineExceeded)
    assert "session two: capacity and ports were not free within 7 s" in str(refused.error)
    assert of_kind(commands, c.FreeSession)
    second.freed()
    assert second.state is State.EXPIRED


def test_the_queue_is_bounded() -> None:
    gateway = Gateway(queue_length=1)
    gateway.asked("one", 60)
    gateway.asked("two", 60)
    with pytest.raises(ResourceExhausted, match="1 requests queue already, which are the most"):
        gateway.asked("three", 60)
    assert gateway.table.queue == (SessionKey("alice", "two"),)


def test_the_same_request_waits_in_the_queue_once_and_another_of_its_name_is_refused() -> None:
    gateway = Gateway()
    first = gateway.asked("one", 60)
    second = gateway.asked("two", 60)
    assert second.request(rate_mbps=60, num_conn=1, queue=True) == ()
    with pytest.raises(SessionExists):
        second.request(rate_mbps=50, num_conn=1, queue=True)
    assert second.abandon(1) == ()
    assert second.state is State.QUEUED
    first.release()
    first.freed()
    second.bound()
    assert answered(second.hello(APP)) == [2, 4]


def test_a_hello_waits_with_its_request_in_the_queue() -> None:
    gateway = Gateway()
    first = gateway.asked("one", 60)
    second = gateway.session("two")
    assert of_kind(second.hello(APP), c.SetTimer)
    assert c.CancelTimer(key=second.key, timer=Timer.EARLY_HELLO) in second.request(
        rate_mbps=60, num_conn=1, queue=True
    )
    assert second.hello(APP) == ()
    first.release()
    first.freed()
    assert answered(second.bound()) == [2, 1, 3]
    assert second.state is State.ANNOUNCED


def test_an_early_hello_stays_when_its_request_is_refused() -> None:
    gateway = Gateway()
    gateway.asked("one", 60)
    second = gateway.session("two")
    second.hello(APP)
    with pytest.raises(ResourceExhausted):
        second.request(rate_mbps=60, num_conn=1)
    (refused,) = of_kind(second.fire(Timer.EARLY_HELLO), c.Refuse)
    assert refused.call == 1


def test_an_update_in_the_queue_is_illegal() -> None:
    gateway = Gateway()
    gateway.asked("one", 60)
    second = gateway.asked("two", 60)
    with pytest.raises(WrongState, match=r"two is queued.*hello comes first"):
        second.update(APP)


def test_a_released_request_answers_who_waited_in_the_queue() -> None:
    gateway = Gateway()
    gateway.asked("one", 60)
    second = gateway.asked("two", 60)
    assert [refused.call for refused in of_kind(second.release(), c.Refuse)] == [1]
    assert answered(second.freed()) == [2]
    assert second.state is State.RELEASED


def test_ports_that_others_hold_do_not_cost_the_capacity() -> None:
    gateway = Gateway(ports=1)
    session = gateway.asked("one", 60)
    gateway.table.handle(PortsTaken(key=session.key, ports=(5100,)))
    session.freed()
    assert (gateway.capacity.held_mbps, gateway.pool.held) == (0, 0)


def test_ports_given_back_by_a_session_that_others_have_left_too_few_go_to_who_queues() -> None:
    gateway = Gateway(ports=3)
    first = gateway.asked("first", num_conn=3)
    second = gateway.asked("second", num_conn=1)
    assert second.state is State.QUEUED
    gateway.table.handle(PortsTaken(key=first.key, ports=(5100,)))
    assert (first.state, second.state) == (State.RELEASING, State.REQUESTED)
