"""Flows outlive their connections, and receivers that take another one's place: everything arrives once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ministream.errors import ConnectionFailed, FlowUnknown
from ministream.transport import Acknowledged, Ended, FlowEvent, Inlet, Joined, Left, Message, Notice, Outlet
from support.delay_relay import DelayRelay

WAIT_S = 30.0
QUICK: dict[str, Any] = {"heartbeat_s": 0.1, "silence_limit_s": 0.6, "reconnect_timeout_s": 20.0}

# takes messages, and acknowledges some of them, until it is killed
RECEIVER = """
import sys
from ministream.transport import Inlet, Message
with Inlet([sys.argv[1]] * 2, flow="f", credits=8, heartbeat_s=0.1, silence_limit_s=1.0) as inlet:
    while True:
        item = inlet.receive(1)
        if isinstance(item, Message):
            print(item.sequence, flush=True)
            if item.sequence < int(sys.argv[2]):
                inlet.acknowledge(item.sequence)
"""


class Sender:
    """An outlet and what has happened at it."""

    def __init__(self, address: str = "tcp://127.0.0.1:0", **options: Any) -> None:
        self.outlet = Outlet(address, description={}, **(QUICK | options))
        self.events: list[FlowEvent] = []

    def until(self, condition: Callable[[], Any]) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < give_up_at, self.events
            self.events += self.outlet.poll(0.02)

    def until_joined(self) -> None:
        self.until(lambda: self.outlet.flows)

    def send(self, count: int, *, begin: int = 0) -> None:
        for index in range(begin, begin + count):
            self.until(lambda: self.outlet.can_send("f"))
            assert self.outlet.send("f", str(index).encode()) == index

    def left(self) -> list[Left]:
        return [event for event in self.events if isinstance(event, Left)]


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.outlet.close()


class Receiver:
    """Receives and acknowledges in a thread until the end of the flow or an error."""

    def __init__(self, inlet: Inlet) -> None:
        self.inlet = inlet
        self.items: list[Any] = []
        self.failure: ConnectionFailed | None = None
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self.items or not isinstance(self.items[-1], Ended):
                item = self.inlet.receive(WAIT_S)
                if item is None:
                    return
                self.items.append(item)
                if isinstance(item, Message):
                    self.inlet.acknowledge(item.sequence)
        except ConnectionFailed as error:
            self.failure = error
        finally:
            self.inlet.close()

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    @property
    def payloads(self) -> list[int]:
        return [int(bytes(item.payload)) for item in self.items if isinstance(item, Message)]


def finish(sender: Sender, receiver: Receiver, count: int) -> None:
    sender.outlet.finish("f")
    sender.until(lambda: not sender.outlet.flows)
    receiver.join()
    assert receiver.failure is None
    assert receiver.payloads == list(range(count))
    assert receiver.items[-1] == Ended(count)
    assert [(left.lost, left.unacknowledged) for left in sender.left()] == [(False, 0)]
    assert len([event for event in sender.events if isinstance(event, Joined)]) == 1


def refused(sender: Sender, inlet: Inlet) -> ConnectionFailed:
    """Return the error with which `inlet` gives up, while `sender` is served."""
    failures: list[ConnectionFailed] = []

    def look() -> bool:
        try:
            inlet.receive(0)
        except ConnectionFailed as error:
            failures.append(error)
        return bool(failures)

    sender.until(look)
    return failures[0]


@pytest.mark.parametrize("connections", [1, 3])
def test_connections_that_are_cut_again_and_again_lose_nothing_and_repeat_nothing(
    sender: Sender, connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(connections)
    with DelayRelay(sender.outlet.address, delay_s=0.002) as relay:
        receiver = Receiver(Inlet([relay.address] * connections, flow="f", credits=16, **QUICK))
        sender.until_joined()
        count = 0
        for _ in range(8):
            some = chance.randrange(20, 200)
            sender.send(some, begin=count)
            count += some
            accepted = relay.accepted
            relay.cut()
            # the cut is felt: somebody dials again
            sender.until(lambda before=accepted: relay.accepted > before)
        finish(sender, receiver, count)
    assert sender.outlet.retransmitted > 0
    if connections == 1:
        assert "has 20 s to come back" in caplog.text
        assert "is back after" in caplog.text


def test_notices_and_the_end_are_sent_again_too(sender: Sender) -> None:
    with DelayRelay(sender.outlet.address) as relay:
        inlet = Inlet([relay.address], flow="f", **QUICK)
        sender.until_joined()
        inlet.await_description(WAIT_S)
        relay.pause()
        sender.outlet.notify("f", {"place": 0}, b"payload")
        sender.outlet.send("f", b"0")
        sender.outlet.notify("f", {"place": 1})
        sender.outlet.finish("f")
        sender.until(lambda: sender.outlet.is_interrupted("f"))
        relay.cut()
        relay.resume()
        receiver = Receiver(inlet)
        sender.until(lambda: not sender.outlet.flows)
        receiver.join()
    kinds = [
        item.message["place"] if isinstance(item, Notice) else type(item).__name__ for item in receiver.items
    ]
    assert kinds == [0, "Message", 1, "Ended"]
    assert receiver.items[0] == Notice({"place": 0}, b"payload")
    assert sender.outlet.outstanding("f") == 0
    assert not sender.left()[0].lost


def test_an_acknowledgement_that_was_lost_is_said_again(sender: Sender) -> None:
    with (
        DelayRelay(sender.outlet.address) as relay,
        Inlet([relay.address], flow="f", credits=2, **QUICK) as inlet,
    ):
        sender.until_joined()
        sender.send(2)
        for _ in range(2):
            assert isinstance(inlet.receive(5), Message)
        relay.pause()
        inlet.acknowledge(1)
        sender.until(lambda: sender.outlet.is_interrupted("f"))
        relay.cut()
        relay.resume()
        give_up_at = time.monotonic() + WAIT_S
        while sender.outlet.outstanding("f"):
            assert time.monotonic() < give_up_at
            assert inlet.receive(0.02) is None
            sender.events += sender.outlet.poll(0.02)
        assert sender.events[-1] == Acknowledged("f", 1)
        # they had arrived: nothing is sent twice
        assert sender.outlet.retransmitted == inlet.duplicates == 0


def test_a_path_that_carries_nothing_for_a_while_at_full_rate(sender: Sender) -> None:
    """Both ends notice the silence; the relay accepts whoever dials, and answers nobody."""
    with DelayRelay(sender.outlet.address) as relay:
        receiver = Receiver(Inlet([relay.address] * 2, flow="f", credits=64, **QUICK))
        sender.until_joined()
        sender.send(500)
        relay.pause()
        accepted = relay.accepted
        # nobody takes anything: the credits run out, and that is all that is kept
        count = 500
        while not sender.outlet.is_interrupted("f") or sender.outlet.can_send("f"):
            if sender.outlet.can_send("f"):
                sender.outlet.send("f", str(count).encode())
                count += 1
            sender.events += sender.outlet.poll(0.01)
        assert sender.outlet.outstanding("f") == 64
        sender.until(lambda: relay.accepted > accepted)
        relay.resume()
        sender.send(2000 - count, begin=count)
        finish(sender, receiver, 2000)


def test_one_connection_of_several_that_is_silent_does_not_stop_the_others(sender: Sender) -> None:
    with DelayRelay(sender.outlet.address) as silent:
        receiver = Receiver(Inlet([silent.address, sender.outlet.address], flow="f", credits=8, **QUICK))
        sender.until_joined()
        sender.send(100)
        silent.pause()
        sender.send(900, begin=100)
        finish(sender, receiver, 1000)


def test_a_sender_that_is_started_again_says_that_it_does_not_know_the_flow(sender: Sender) -> None:
    address = sender.outlet.address
    with Inlet([address], flow="f", **QUICK) as inlet:
        sender.until_joined()
        sender.send(1)
        assert isinstance(inlet.receive(5), Message)
        # as if it were killed: no farewell
        sender.outlet._flows.clear()
        sender.outlet.close()
        again = Sender(address)
        try:
            failure = refused(again, inlet)
            assert isinstance(failure, FlowUnknown)
            assert "not known" in str(failure)
        finally:
            again.outlet.close()


def test_who_does_not_come_back_is_given_up_on_both_sides() -> None:
    sender = Sender(reconnect_timeout_s=0.5)
    with (
        DelayRelay(sender.outlet.address) as relay,
        Inlet([relay.address], flow="f", **(QUICK | {"reconnect_timeout_s": 0.5})) as inlet,
    ):
        sender.until_joined()
        sender.send(1)
        assert isinstance(inlet.receive(5), Message)
        relay.pause()
        sender.until(sender.left)
        assert (sender.left()[0].lost, sender.left()[0].unacknowledged) == (True, 1)
        with pytest.raises(ConnectionFailed, match=r"has not come back for 0\.5 s"):
            inlet.receive(WAIT_S)
        relay.cut()
    sender.outlet.close()


# ---------------------------------------------------------------------- another receiver of the same name


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_another_receiver_gets_what_a_killed_one_has_not_acknowledged(sender: Sender) -> None:
    with process(sender.outlet.address, "3") as first:
        sender.until_joined()
        sender.outlet.notify("f", {"place": "first"})
        sender.send(6)
        assert first.stdout is not None
        assert [int(first.stdout.readline()) for _ in range(6)] == list(range(6))
        sender.until(lambda: sender.outlet.outstanding("f") == 3)
        first.kill()
    # with another number of connections, and fewer credits than there are messages to be sent again
    receiver = Receiver(Inlet([sender.outlet.address], flow="f", credits=2, **QUICK))
    sender.send(4, begin=6)
    sender.outlet.finish("f")
    sender.until(lambda: not sender.outlet.flows)
    receiver.join()
    assert receiver.failure is None
    # what was delivered to the first, and acknowledged, is not repeated
    assert receiver.payloads == list(range(3, 10))
    assert not sender.left()[0].lost


def test_a_receiver_that_is_there_keeps_its_name_against_one_that_wants_it(sender: Sender) -> None:
    with Inlet([sender.outlet.address], flow="f", **QUICK) as first:
        sender.until_joined()
        with Inlet([sender.outlet.address], flow="f", connect_timeout_s=1.5, **QUICK) as second:
            assert "another name" in str(refused(sender, second))
        sender.send(1)
        assert isinstance(first.receive(5), Message)


def test_one_that_comes_back_too_late_learns_that_its_place_is_taken(sender: Sender) -> None:
    with (
        DelayRelay(sender.outlet.address) as relay,
        Inlet([relay.address], flow="f", **QUICK) as late,
    ):
        sender.until_joined()
        sender.send(1)
        assert isinstance(late.receive(5), Message)
        relay.pause()
        sender.until(lambda: sender.outlet.is_interrupted("f"))
        with Inlet([sender.outlet.address], flow="f", **QUICK) as second:
            sender.until(lambda: second.await_welcome(0))
            relay.cut()
            relay.resume()
            assert "has a receiver already" in str(refused(sender, late))
            assert isinstance(second.receive(5), Message)
