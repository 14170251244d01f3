"""Flows over real sockets: order, once, credits, notices, the end, several receivers and connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import zmq

from ministream.errors import ConnectionFailed, InputError, PortInUse, ProtocolError
from ministream.transport import (
    Acknowledged,
    Ended,
    FlowEvent,
    Inlet,
    Joined,
    Left,
    Message,
    Notice,
    Outlet,
    wait_any,
)
from ministream.wire import messages
from support.delay_relay import DelayRelay


class Sender:
    """An outlet and what has happened at it."""

    def __init__(self, **options: Any) -> None:
        self.outlet = Outlet(description={"name": "test"}, **options)
        self.events: list[FlowEvent] = []

    def poll(self, timeout_s: float = 0.05) -> None:
        self.events += self.outlet.poll(timeout_s)

    def until(self, condition: Callable[[], Any], timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.events
            self.poll()

    def until_joined(self, count: int = 1) -> None:
        self.until(lambda: len(self.outlet.flows) == count)

    def send_all(self, flow: str, count: int) -> int:
        """Send `count` messages; return how many were on their way at most."""
        most = 0
        for index in range(count):
            self.until(lambda: self.outlet.can_send(flow))
            assert self.outlet.send(flow, str(index).encode()) == index
            most = max(most, self.outlet.outstanding(flow))
        return most


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.outlet.close()


@contextmanager
def receiving(inlet: Inlet, received: list[Any]) -> Iterator[None]:
    """Receive and acknowledge in a thread until the end of the flow or an error."""

    def work() -> None:
        try:
            while True:
                item = inlet.receive(10)
                received.append(item)
                if isinstance(item, Message):
                    inlet.acknowledge(item.sequence)
                if item is None or isinstance(item, Ended):
                    return
        except ConnectionFailed as error:
            received.append(error)
        finally:
            inlet.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def payloads(received: list[Any]) -> list[int]:
    return [int(bytes(item.payload)) for item in received if isinstance(item, Message)]


@pytest.mark.parametrize("connections", [1, 3])
def test_messages_arrive_in_order_and_once(sender: Sender, connections: int) -> None:
    received: list[Any] = []
    inlet = Inlet([sender.outlet.address] * connections, flow="f", credits=8, attributes={"rank": 3})
    with receiving(inlet, received):
        sender.until_joined()
        assert sender.events == [Joined("f", {"rank": 3})]
        sender.send_all("f", 500)
        sender.outlet.finish("f")
        sender.until(lambda: not sender.outlet.flows)
    assert payloads(received) == list(range(500))
    assert [item.sequence for item in received[:-1]] == list(range(500))
    assert received[-1] == Ended(500)
    assert inlet.duplicates == 0
    assert inlet.description == {"name": "test"}
    left = sender.events[-1]
    assert isinstance(left, Left)
    assert (left.lost, left.unacknowledged) == (False, 0)
    acknowledged = [event.sequence for event in sender.events if isinstance(event, Acknowledged)]
    assert acknowledged == sorted(acknowledged)
    assert acknowledged[-1] == 499


def test_connections_of_different_speed_do_not_change_the_order(sender: Sender) -> None:
    received: list[Any] = []
    with ExitStack() as stack:
        relays = [
            stack.enter_context(DelayRelay(sender.outlet.address, delay_s=delay_s))
            for delay_s in (0, 0.005, 0.03)
        ]
        inlet = Inlet([relay.address for relay in relays], flow="f", credits=32)
        with receiving(inlet, received):
            sender.until_joined()
            sender.send_all("f", 400)
            sender.outlet.finish("f")
            sender.until(lambda: not sender.outlet.flows)
        assert [relay.accepted for relay in relays] == [1, 1, 1]
    assert payloads(received) == list(range(400))


def test_many_messages_are_on_their_way_in_each_round_trip(sender: Sender) -> None:
    received: list[Any] = []
    delay_s = 0.05
    with DelayRelay(sender.outlet.address, delay_s=delay_s) as relay:
        inlet = Inlet([relay.address], flow="f", credits=64)
        with receiving(inlet, received):
            sender.until_joined()
            began_s = time.monotonic()
            most = sender.send_all("f", 640)
            sender.outlet.finish("f")
            sender.until(lambda: not sender.outlet.flows, 30)
            took_s = time.monotonic() - began_s
    assert payloads(received) == list(range(640))
    assert most == 64
    # one message per round trip would take 64 s, credits that come back all at once 1 s and more
    assert took_s < 640 * 2 * delay_s / 10


def test_a_receiver_that_does_not_acknowledge_stops_its_sender_at_its_credits(sender: Sender) -> None:
    with Inlet([sender.outlet.address] * 2, flow="f", credits=5) as inlet:
        sender.until_joined()
        for _ in range(5):
            assert sender.outlet.can_send("f")
            sender.outlet.send("f", b"x")
        assert not sender.outlet.can_send("f")
        with pytest.raises(ConnectionFailed, match="no credit"):
            sender.outlet.send("f", b"x")
        taken = [inlet.receive(5) for _ in range(5)]
        assert inlet.receive(0.05) is None
        sender.poll()
        assert not sender.outlet.can_send("f")
        assert sender.outlet.outstanding("f") == 5

        third = taken[2]
        assert isinstance(third, Message)
        inlet.acknowledge(third.sequence)
        sender.until(lambda: sender.outlet.outstanding("f") == 2)
        assert Acknowledged("f", 2) in sender.events
        for _ in range(3):
            sender.outlet.send("f", b"x")
        assert not sender.outlet.can_send("f")


def test_only_what_was_received_can_be_acknowledged(sender: Sender) -> None:
    with (
        Inlet([sender.outlet.address], flow="f") as inlet,
        pytest.raises(ValueError, match="0 have been received"),
    ):
        inlet.acknowledge(0)


def test_flows_have_their_own_pace(sender: Sender) -> None:
    received: list[Any] = []
    with Inlet([sender.outlet.address], flow="slow", credits=1):
        with receiving(Inlet([sender.outlet.address], flow="quick", credits=4), received):
            sender.until_joined(2)
            sender.outlet.send("slow", b"x")
            sender.send_all("quick", 100)
            sender.outlet.finish("quick")
            sender.until(lambda: sender.outlet.flows == ("slow",))
        assert payloads(received) == list(range(100))
        assert not sender.outlet.can_send("slow")


@pytest.mark.parametrize("connections", [1, 3])
def test_a_notice_comes_where_it_was_sent(sender: Sender, connections: int) -> None:
    received: list[Any] = []
    with receiving(Inlet([sender.outlet.address] * connections, flow="f", credits=100), received):
        sender.until_joined()
        sender.outlet.notify("f", {"place": "first"}, b"payload")
        for index in range(50):
            sender.outlet.send("f", str(index).encode())
            if index == 20:
                sender.outlet.notify("f", {"place": "after 20"})
                sender.outlet.notify("f", {"place": "also after 20"})
        sender.outlet.notify("f", {"place": "last"})
        sender.outlet.finish("f")
        sender.until(lambda: not sender.outlet.flows)
    shown = [
        item.message["place"] if isinstance(item, Notice) else int(bytes(item.payload))
        for item in received[:-1]
    ]
    assert shown == ["first", *range(21), "after 20", "also after 20", *range(21, 50), "last"]
    assert received[0] == Notice({"place": "first"}, b"payload")
    assert received[-1] == Ended(50)


def test_notices_need_no_credit_and_have_a_limit(sender: Sender) -> None:
    with Inlet([sender.outlet.address], flow="f", credits=1) as inlet:
        sender.until_joined()
        sender.outlet.send("f", b"x")
        for index in range(1024):
            sender.outlet.notify("f", {"number": index})
        with pytest.raises(ConnectionFailed, match="1024 notices"):
            sender.outlet.notify("f", {"number": 1024})
        assert isinstance(inlet.receive(5), Message)
        for index in range(1024):
            assert inlet.receive(5) == Notice({"number": index}, b"")
        assert inlet.receive(0.05) is None
        sender.poll()
        sender.outlet.notify("f", {"number": 1024})
        assert inlet.receive(5) == Notice({"number": 1024}, b"")


def test_a_flow_may_end_without_a_message(sender: Sender) -> None:
    with Inlet([sender.outlet.address], flow="f") as inlet:
        sender.until_joined()
        sender.outlet.finish("f")
        assert inlet.receive(5) == Ended(0)
        assert inlet.receive(0) == Ended(0)
        for work in (sender.outlet.finish, lambda flow: sender.outlet.send(flow, b"x")):
            with pytest.raises(ConnectionFailed, match="finished"):
                work("f")
        assert not sender.outlet.can_send("f")


def test_large_messages_are_whole(sender: Sender) -> None:
    payload = bytes(range(256)) * 40_000
    with Inlet([sender.outlet.address] * 2, flow="f", credits=3) as inlet:
        sender.until_joined()
        for _ in range(3):
            sender.outlet.send("f", payload)
        for _ in range(3):
            item = inlet.receive(10)
            assert isinstance(item, Message)
            assert item.payload == payload


def test_a_name_has_one_receiver_at_a_time(sender: Sender) -> None:
    with Inlet([sender.outlet.address], flow="f"):
        sender.until_joined()
        with Inlet([sender.outlet.address], flow="f", connect_timeout_s=0.3) as second:
            sender.poll(0.2)
            # the other one might be gone, so it asks for a while
            with pytest.raises(ConnectionFailed, match="another name"):
                second.receive(5)
        assert sender.outlet.flows == ("f",)
    sender.until(lambda: not sender.outlet.flows)
    with Inlet([sender.outlet.address], flow="f") as third:
        sender.until_joined()
        sender.outlet.send("f", b"x")
        assert isinstance(third.receive(5), Message)


def test_a_receiver_can_be_dismissed_with_a_reason(sender: Sender) -> None:
    with Inlet([sender.outlet.address], flow="f") as inlet:
        sender.until_joined()
        sender.outlet.dismiss("f", "the scan has begun")
        assert sender.outlet.flows == ()
        with pytest.raises(ConnectionFailed, match="the scan has begun"):
            inlet.receive(5)


def test_an_inlet_and_an_outlet_can_be_waited_for_together(sender: Sender) -> None:
    with Outlet(description={}) as other, Inlet([sender.outlet.address], flow="f") as inlet:
        sender.until_joined()
        assert inlet.await_description(5) == {"name": "test"}
        sender.outlet.send("f", b"0")
        deadline = time.monotonic() + 10
        while (item := inlet.receive(0)) is None:
            assert time.monotonic() < deadline
            wait_any([inlet, other], 1)
        assert isinstance(item, Message)
        began_s = time.monotonic()
        wait_any([other], 0.1)
        assert time.monotonic() - began_s >= 0.05


# ---------------------------------------------------------------------- peers that do not keep to the rules


def test_strangers_do_not_disturb_a_flow(sender: Sender) -> None:
    received: list[Any] = []
    with receiving(Inlet([sender.outlet.address], flow="f", credits=4), received):
        sender.until_joined()
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.connect(sender.outlet.address)
            for junk in (b"", b"junk", b'{"kind":"data","sequence":1}', b'{"kind":"end"}'):
                stranger.send(junk)
            stranger.send_multipart([b"a", b"b", b"c"])
            sender.send_all("f", 50)
            assert stranger.poll(5000)
            refusal = messages.parse(stranger.recv())
            assert isinstance(refusal, messages.Refuse)
        sender.outlet.finish("f")
        sender.until(lambda: not sender.outlet.flows)
    assert payloads(received) == list(range(50))


def test_a_receiver_of_another_version_is_refused(sender: Sender) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.connect(sender.outlet.address)
        join = messages.Join(
            protocol=99,
            flow="f",
            receiver="r",
            connection=0,
            connections=1,
            credits=1,
            next_sequence=0,
            next_notice=0,
            arrived=0,
            attributes={},
        )
        stranger.send(messages.encode(join))
        sender.poll(1)
        assert stranger.poll(5000)
        refusal = messages.parse(stranger.recv())
        assert isinstance(refusal, messages.Refuse)
        assert "99" in refusal.reason
    assert sender.events == []


@contextmanager
def a_hand_made_sender(inlet_credits: int) -> Iterator[tuple[Inlet, Callable[..., None]]]:
    """An inlet, and a function that sends it whatever bytes."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with Inlet([f"tcp://127.0.0.1:{port}"], flow="f", credits=inlet_credits) as inlet:
            assert router.poll(5000)
            identity, join = router.recv_multipart()
            assert isinstance(messages.parse(join), messages.Join)

            def send(header: messages.Header | bytes, *payload: bytes) -> None:
                data = header if isinstance(header, bytes) else messages.encode(header)
                router.send_multipart([identity, data, *payload])

            send(
                messages.Welcome(
                    protocol=messages.PROTOCOL, sender="s", next_sequence=0, next_notice=0, description={}
                )
            )
            yield inlet, send


def test_a_welcome_on_another_connection_may_come_after_the_first_messages() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with Inlet([f"tcp://127.0.0.1:{port}"] * 2, flow="f") as inlet:
            identities = [router.recv_multipart()[0] for _ in range(2)]
            welcome = messages.Welcome(
                protocol=messages.PROTOCOL, sender="s", next_sequence=0, next_notice=0, description={}
            )
            for header in (welcome, messages.Data(sequence=0)):
                router.send_multipart([identities[0], messages.encode(header), b"0"])
            assert isinstance(inlet.receive(5), Message)
            router.send_multipart([identities[1], messages.encode(welcome)])
            router.send_multipart([identities[1], messages.encode(messages.Data(sequence=1)), b"1"])
            item = inlet.receive(5)
            assert isinstance(item, Message)
            assert item.sequence == 1


def test_what_comes_early_waits_and_what_comes_twice_is_dropped_and_counted() -> None:
    with a_hand_made_sender(8) as (inlet, send):
        for sequence in (2, 0, 0, 2, 1, 1, 3, 0):
            send(messages.Data(sequence=sequence), str(sequence).encode())
        send(messages.End(next_sequence=4, next_notice=0))
        received: list[Any] = []
        while not received or not isinstance(received[-1], Ended):
            received.append(inlet.receive(5))
        assert payloads(received) == [0, 1, 2, 3]
        assert inlet.duplicates == 4


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"junk", "not JSON"),
        (messages.Data(sequence=8), "without credit"),
        (messages.Acknowledge(next_sequence=0, next_notice=0, received=(), credits=1), "does not send"),
        (messages.Notice(notice=5000, before_sequence=0, message={}), "notice 5000"),
        (
            messages.Welcome(protocol=99, sender="s", next_sequence=0, next_notice=0, description={}),
            "version 99",
        ),
    ],
)
def test_a_sender_that_breaks_the_protocol_is_our_error(header: messages.Header | bytes, words: str) -> None:
    with a_hand_made_sender(8) as (inlet, send):
        send(header)
        with pytest.raises(ProtocolError, match=words):
            inlet.receive(5)


# ---------------------------------------------------------------------- addresses


def test_a_port_in_use_is_named(sender: Sender) -> None:
    with pytest.raises(PortInUse, match=sender.outlet.address):
        Outlet(sender.outlet.address, description={})


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:0", "tcp://no-such-host.invalid:0"])
def test_an_address_that_is_not_ours_is_named(address: str) -> None:
    with pytest.raises(ConnectionFailed, match=address):
        Outlet(address, description={})


def test_addresses_and_credits_are_checked() -> None:
    for options in ({"addresses": []}, {"addresses": ["here"]}, {"addresses": ["tcp://h:1"], "credits": 0}):
        with pytest.raises(InputError):
            Inlet(flow="f", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Outlet("here", description={})


def test_a_host_may_have_a_name() -> None:
    with Outlet("tcp://localhost:0", description={"n": 1}) as outlet:
        port = outlet.address.rpartition(":")[2]
        with Inlet([f"tcp://localhost:{port}"], flow="f") as inlet:
            while not outlet.poll(1):
                pass
            assert inlet.await_description(5) == {"n": 1}
