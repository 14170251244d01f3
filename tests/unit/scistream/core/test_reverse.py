"""Reverse sessions: all ports at the consumer's side, and where the producer's side dials."""

from __future__ import annotations

import pytest

from scistream.core import commands as c
from scistream.core import events as e
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.reservation import PortPool
from scistream.core.session import State
from scistream.core.table import SessionTable
from scistream.errors import InvalidArgument, ResourceExhausted, SessionExists, WrongState
from support.driven_session import APP, KEY, OTHER, PEER, DrivenSession, answered, of_kind

MEETING = (Endpoint("far", 6000), Endpoint("far", 6001))


def reverse(role: Role, ports: int = 4) -> DrivenSession:
    table = SessionTable(PortPool(range(5100, 5100 + ports)), reverses=True)
    session = DrivenSession(table, role=role)
    session.request(reverse=True)
    return session


def test_the_consumers_side_holds_two_ports_per_channel_and_tells_them_apart() -> None:
    session = reverse(Role.CONSUMER)
    assert session.table.get(KEY).ports == (5100, 5101, 5102, 5103)
    session.bound()
    (reply, _) = of_kind(session.hello(), c.Reply)
    assert [one.port for one in reply.listeners] == [15100, 15101]
    assert [one.port for one in reply.reverse_listeners] == [15102, 15103]
    assert reply.reverse
    (order,) = of_kind(session.update(), c.StartDataServer)
    assert order.reverse_listeners == order.targets == reply.reverse_listeners
    session.ready()
    assert session.state is State.CONNECTED
    session.release()
    session.freed()
    assert session.table.get(KEY).ports == ()


def test_the_producers_side_holds_none_and_dials_what_it_is_told() -> None:
    session = reverse(Role.PRODUCER, ports=1)
    assert session.table.get(KEY).ports == ()
    session.bound()
    (reply, _) = of_kind(session.hello(APP), c.Reply)
    assert (reply.listeners, reply.reverse_listeners, reply.reverse) == ((), (), True)
    (order,) = of_kind(session.update(reverse_listeners=MEETING), c.StartDataServer)
    assert (order.targets, order.reverse_listeners) == ((APP,), MEETING)
    session.ready()
    # one that only leads elsewhere need not say it again
    (order,) = of_kind(session.update(OTHER), c.RetargetDataServer)
    assert (order.targets, order.reverse_listeners) == ((OTHER,), MEETING)
    session.ready(2)
    elsewhere = MEETING[::-1]
    assert of_kind(session.update(OTHER, reverse_listeners=elsewhere), c.RetargetDataServer)
    session.retarget_failed(3)
    assert session.table.get(KEY).reverse_listeners == MEETING
    assert of_kind(session.died(), c.RestartDataServer)[0].reverse_listeners == MEETING


def test_a_retarget_of_the_consumers_side_that_fails_leads_back() -> None:
    session = reverse(Role.CONSUMER)
    session.bound()
    session.hello()
    session.update()
    session.ready()
    assert of_kind(session.update(peer=b"another"), c.RetargetDataServer)
    session.retarget_failed(2)
    assert session.state is State.CONNECTED
    assert session.table.get(KEY).peer_certificate_pem == PEER
    assert answered(session.update())


def test_a_gateway_that_cannot_refuses_at_once() -> None:
    session = DrivenSession()
    with pytest.raises(WrongState, match=r"session uid-1: .*cannot have reverse channels.*--type native"):
        session.request(reverse=True)
    assert session.table.find(KEY) is None


def test_ports_that_the_whole_gateway_does_not_have_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="num_conn is 2, each of which takes two ports"):
        reverse(Role.CONSUMER, ports=3)


def test_ports_that_are_not_free_are_counted_twice() -> None:
    session = reverse(Role.CONSUMER, ports=7)
    other = DrivenSession(session.table, key=type(KEY)("bob", "uid-1"), role=Role.CONSUMER)
    with pytest.raises(ResourceExhausted, match="4 ports wanted, 3 of 7 free"):
        other.request(reverse=True)
    other.request(num_conn=1, reverse=True)


def test_the_same_name_forward_and_reverse_are_two_sessions() -> None:
    session = reverse(Role.CONSUMER)
    assert session.request(reverse=True) == ()
    with pytest.raises(SessionExists, match="as CONS with reverse 2 channels"):
        session.request(reverse=False)


def test_a_port_that_somebody_has_is_replaced_for_either_kind() -> None:
    session = reverse(Role.CONSUMER, ports=6)
    (again,) = session.table.handle(ports_taken(5101, 5103))
    assert again == c.BindListeners(key=KEY, ports=(5104, 5105), wanted=4)
    session.bound()
    assert len(session.table.get(KEY).reverse_listeners) == 2


def ports_taken(*ports: int) -> e.PortsTaken:
    return e.PortsTaken(key=KEY, ports=ports)


@pytest.mark.parametrize(
    ("role", "targets", "meeting", "why"),
    [
        (Role.PRODUCER, (), (), "names 0 reverse listeners, and the session has 2 channels"),
        (Role.PRODUCER, (), MEETING[:1], "names 1 reverse listeners"),
        (Role.CONSUMER, (APP,), (), "nothing is connected to"),
        (Role.CONSUMER, (), MEETING, "nothing is connected to"),
    ],
)
def test_an_update_with_addresses_that_make_no_sense_is_refused(
    role: Role, targets: tuple[Endpoint, ...], meeting: tuple[Endpoint, ...], why: str
) -> None:
    session = reverse(role)
    session.bound()
    session.hello(*([APP] if role is Role.PRODUCER else []))
    with pytest.raises(InvalidArgument, match=why):
        session.update(*targets, reverse_listeners=meeting)
    assert session.state is State.ANNOUNCED


def test_a_forward_session_takes_no_reverse_listeners() -> None:
    session = DrivenSession().announce()
    with pytest.raises(InvalidArgument, match="the session is not reverse; request it with --reverse"):
        session.update(APP, reverse_listeners=MEETING)
