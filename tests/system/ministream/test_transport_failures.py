"""Peers that are not there, not yet there, or not there any more: bounded waits, and who it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ministream.errors import ConnectionFailed
from ministream.transport import Acknowledged, Ended, FlowEvent, Inlet, Left, Message, Outlet
from support.delay_relay import DelayRelay

QUICK: dict[str, Any] = {"heartbeat_s": 0.1, "silence_limit_s": 1.0, "reconnect_timeout_s": 0.5}

SENDER = """
import sys
from ministream.transport import Joined, Outlet
with Outlet(description={}, heartbeat_s=0.1, silence_limit_s=1.0,
            reconnect_timeout_s=0.5) as outlet:
    print(outlet.address, flush=True)
    while not outlet.flows:
        outlet.poll(1)
    for index in range(int(sys.argv[1])):
        outlet.send(outlet.flows[0], str(index).encode())
    while True:
        outlet.poll(1)
"""

RECEIVER = """
import sys
from ministream.transport import Inlet, Message
options = {"heartbeat_s": 0.1, "silence_limit_s": 1.0, "reconnect_timeout_s": 0.5}
with Inlet([sys.argv[1]] * 2, flow="f", credits=4, **options) as inlet:
    while True:
        item = inlet.receive(1)
        if isinstance(item, Message):
            print(item.sequence, flush=True)
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGCONT)
        started.kill()
        started.communicate()


def first_line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def a_free_port() -> str:
    with Outlet(description={}) as outlet:
        return outlet.address


def test_nobody_there_is_told_with_the_address_in_time() -> None:
    address = a_free_port()
    began_s = time.monotonic()
    with (
        Inlet([address], flow="f", connect_timeout_s=0.5) as inlet,
        pytest.raises(ConnectionFailed, match=address),
    ):
        inlet.receive(30)
    assert time.monotonic() - began_s < 10


def test_await_description_has_a_limit_of_its_own() -> None:
    with Inlet([a_free_port()], flow="f", connect_timeout_s=60) as inlet:
        with pytest.raises(ConnectionFailed, match="nobody has answered"):
            inlet.await_description(0.2)
        with pytest.raises(ConnectionFailed, match="not answered yet"):
            _ = inlet.description


def test_one_silent_connection_of_several_is_named() -> None:
    silent = a_free_port()
    with Outlet(description={}) as outlet:
        with Inlet([outlet.address, silent], flow="f", connect_timeout_s=0.5) as inlet:
            outlet.poll(0.2)
            with pytest.raises(ConnectionFailed, match=silent):
                inlet.receive(30)
        assert outlet.flows == ()


def test_a_relay_that_accepts_and_says_nothing_is_nobody() -> None:
    with (
        DelayRelay(None) as relay,
        Inlet([relay.address], flow="f", connect_timeout_s=0.5) as inlet,
        pytest.raises(ConnectionFailed, match=relay.address),
    ):
        inlet.receive(30)


@pytest.mark.parametrize("hang_up", [True, False], ids=["relay-hangs-up", "nobody-listens"])
def test_the_sender_may_come_later(hang_up: bool) -> None:
    if hang_up:
        with DelayRelay(None, hang_up=True) as relay, Inlet([relay.address], flow="f") as inlet:
            while relay.accepted < 2:
                assert inlet.receive(0.01) is None
            with Outlet(description={}) as outlet:
                relay.target = outlet.address
                _one_message(outlet, inlet)
    else:
        address = a_free_port()
        with Inlet([address], flow="f") as inlet:
            assert inlet.receive(0.1) is None
            with Outlet(address, description={}) as outlet:
                _one_message(outlet, inlet)


def _one_message(outlet: Outlet, inlet: Inlet) -> None:
    deadline = time.monotonic() + 20
    while not outlet.flows:
        assert time.monotonic() < deadline
        outlet.poll(0.1)
        inlet.receive(0)
    outlet.send("f", b"x")
    assert isinstance(inlet.receive(10), Message)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_sender_that_is_gone_is_told_after_everything_it_had_sent(how: signal.Signals) -> None:
    with process(SENDER, "30") as sender:
        address = first_line(sender)
        with Inlet([address] * 2, flow="f", credits=64, **QUICK) as inlet:
            first = inlet.receive(10)
            assert isinstance(first, Message)
            # let all of it arrive before the blow: it must not be lost
            while len(inlet._early) < 29:
                inlet._read_all()
            sender.send_signal(how)
            began_s = time.monotonic()
            for sequence in range(1, 30):
                item = inlet.receive(30)
                assert isinstance(item, Message)
                assert item.sequence == sequence
            with pytest.raises(ConnectionFailed, match=address):
                inlet.receive(30)
            assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_receiver_that_is_gone_is_told_with_what_it_has_not_acknowledged(how: signal.Signals) -> None:
    with Outlet(description={}, **QUICK) as outlet, process(RECEIVER, outlet.address) as receiver:
        deadline = time.monotonic() + 20
        while not outlet.flows:
            assert time.monotonic() < deadline
            outlet.poll(0.1)
        for _ in range(3):
            outlet.send("f", b"x")
        assert [first_line(receiver) for _ in range(3)] == ["0", "1", "2"]
        receiver.send_signal(how)
        began_s = time.monotonic()
        events: list[FlowEvent] = []
        while not any(isinstance(event, Left) for event in events):
            assert time.monotonic() - began_s < 15
            events += outlet.poll(1)
        left = events[-1]
        assert isinstance(left, Left)
        assert (left.flow, left.lost, left.unacknowledged) == ("f", True, 3)
        assert outlet.flows == ()
        assert outlet.outstanding("f") == 0
        with pytest.raises(ConnectionFailed, match="not there"):
            outlet.send("f", b"x")


def test_a_sender_that_closes_before_the_end_says_so() -> None:
    with Outlet(description={}) as outlet, Inlet([outlet.address], flow="f") as inlet:
        while not outlet.flows:
            outlet.poll(1)
        outlet.send("f", b"x")
        outlet.close()
        assert isinstance(inlet.receive(5), Message)
        with pytest.raises(ConnectionFailed, match="closed before its end"):
            inlet.receive(5)


def test_a_sender_may_close_as_soon_as_it_has_finished() -> None:
    outlet = Outlet(description={})
    with Inlet([outlet.address] * 2, flow="f", credits=200) as inlet:
        while not outlet.flows:
            outlet.poll(1)
        for _ in range(200):
            outlet.send("f", b"x" * 1000)
        outlet.finish("f")
        outlet.close()
        for sequence in range(200):
            item = inlet.receive(5)
            assert isinstance(item, Message)
            assert item.sequence == sequence
        assert inlet.receive(5) == Ended(200)


def test_a_receiver_that_closes_gives_its_last_acknowledgement() -> None:
    with Outlet(description={}) as outlet:
        inlet = Inlet([outlet.address] * 3, flow="f", credits=64)
        while not outlet.flows:
            outlet.poll(1)
        for _ in range(10):
            outlet.send("f", b"x")
        for _ in range(10):
            assert isinstance(inlet.receive(5), Message)
        inlet.acknowledge(8)
        inlet.close("enough")
        inlet.close()
        events: list[FlowEvent] = []
        while outlet.flows:
            events += outlet.poll(1)
        assert events == [Acknowledged("f", 8), Left("f", "enough", False, 1)]


def test_a_busy_receiver_is_not_taken_for_dead() -> None:
    """Its connection answers while its thread computes, longer than the limit of silence."""
    with Outlet(description={}, **QUICK) as outlet, Inlet([outlet.address], flow="f", **QUICK) as inlet:
        while not outlet.flows:
            outlet.poll(1)
        outlet.send("f", b"x")
        over = threading.Event()
        threading.Timer(2.5, over.set).start()
        while not over.is_set():
            assert not any(isinstance(event, Left) for event in outlet.poll(0.1))
        assert isinstance(inlet.receive(5), Message)


@pytest.mark.parametrize("connections", [1, 3])
def test_what_a_sender_sent_before_it_failed_is_received_by_who_looks_only_then(connections: int) -> None:
    with Outlet(description={"name": "short"}) as outlet:
        inlet = Inlet([outlet.address] * connections, flow="f")
        while not outlet.flows:
            outlet.poll(5)
        sent = [outlet.send("f", bytes([number])) for number in range(5)]
    with inlet:
        assert inlet.await_description() == {"name": "short"}
        received = [inlet.receive(5) for _ in sent]
        assert [bytes(item.payload) for item in received if isinstance(item, Message)] == [
            bytes([number]) for number in sent
        ]
        with pytest.raises(ConnectionFailed, match="closed before its end"):
            inlet.receive(5)


@pytest.mark.parametrize("connections", [1, 3])
def test_a_receivers_last_words_count_although_it_has_gone(connections: int) -> None:
    # if its farewell is lost with the connection, what it has acknowledged still counts
    with Outlet(description={}, **QUICK) as outlet:
        inlet = Inlet([outlet.address] * connections, flow="f")
        while not outlet.flows:
            outlet.poll(5)
        with inlet:
            inlet.await_description()
            outlet.send("f", b"0")
            outlet.finish("f")
            message = inlet.receive(5)
            assert isinstance(message, Message)
            inlet.acknowledge(message.sequence)
        # its connections are closed, and nothing it has said has been read here
        events: list[FlowEvent] = []
        while not any(isinstance(event, Left) for event in events):
            events += outlet.poll(5)
        left = events[-1]
        assert isinstance(left, Left)
        assert (left.lost, left.unacknowledged) == (False, 0)


def test_a_receiver_that_dies_after_acknowledging_everything_has_lost_nothing() -> None:
    with Outlet(description={}, **QUICK) as outlet:
        with process(RECEIVER, outlet.address) as receiver:
            while not outlet.flows:
                outlet.poll(5)
            outlet.send("f", b"0")
            assert first_line(receiver) == "0"
            # this receiver acknowledges nothing by itself: nothing is lost only if there was nothing
            outlet.finish("f")
            receiver.kill()
            events: list[FlowEvent] = []
            while not any(isinstance(event, Left) for event in events):
                events += outlet.poll(5)
            assert isinstance(events[-1], Left)
            assert (events[-1].lost, events[-1].unacknowledged) == (True, 1)
        with process(RECEIVER, outlet.address) as receiver:
            while not outlet.flows:
                outlet.poll(5)
            outlet.finish("f")
            receiver.kill()
            events = []
            while not any(isinstance(event, Left) for event in events):
                events += outlet.poll(5)
            assert isinstance(events[-1], Left)
            assert (events[-1].lost, events[-1].unacknowledged) == (False, 0)
