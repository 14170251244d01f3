"""Control messages: any size, any number of descriptors, in packets that a socket takes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scistream.dataserver.tree import messages
from scistream.dataserver.tree.messages import Assembler, MessageSocket, Packet, packets_of
from scistream.errors import DataServerError

BODIES = st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=5)


@settings(deadline=None)  # other work on the same cores is no failure
@given(BODIES, st.integers(0, 600), st.integers(1, 64))
def test_a_message_comes_out_as_it_went_in(
    body: dict[str, object], descriptors: int, packet_bytes: int
) -> None:
    numbers = range(descriptors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "MAX_PACKET_BYTES", packet_bytes)
        packets = list(packets_of(body, numbers))
    assembler = Assembler()
    assert all(len(packet.descriptors) <= messages.MAX_PACKET_DESCRIPTORS for packet in packets)
    assert all(len(packet.data) <= packet_bytes + 1 for packet in packets)
    assert all(assembler.feed(packet) is None for packet in packets[:-1])
    message = assembler.feed(packets[-1])
    assert message is not None
    assert message.body == body
    assert message.descriptors == tuple(numbers)


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_any_bytes_give_a_message_or_our_error(packets: list[bytes]) -> None:
    assembler = Assembler()
    for data in packets:
        with contextlib.suppress(DataServerError):
            message = assembler.feed(Packet(data))
            assert message is None or isinstance(message.body, dict)


def test_an_error_shows_nothing_of_the_message() -> None:
    with pytest.raises(DataServerError) as error:
        Assembler().feed(Packet(b'\x01{"private_key": "c2VjcmV0"'))
    assert "c2VjcmV0" not in repr(error.value)
    assert "c2VjcmV0" not in repr(Packet(b"c2VjcmV0"))


def test_a_message_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(DataServerError, match="larger than 100 bytes"):
        list(packets_of({"text": "x" * 200}))


def test_a_message_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_MESSAGE_BYTES", 100)
    assembler = Assembler()
    assembler.feed(Packet(b"\x00" + b"x" * 60))
    with pytest.raises(DataServerError, match="too large"):
        assembler.feed(Packet(b"\x00" + b"x" * 60))


@pytest.fixture
def pair() -> Iterator[tuple[MessageSocket, MessageSocket]]:
    one, other = (MessageSocket(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield one, other
    one.close()
    other.close()


def test_hundreds_of_descriptors_arrive_open(pair: tuple[MessageSocket, MessageSocket]) -> None:
    one, other = pair
    reading, writing = os.pipe()
    one.send({"channels": 700}, [writing] * 700)
    os.close(writing)
    (message,) = other.receive()
    assert len(set(message.descriptors)) == 700
    os.write(message.descriptors[699], b"x")
    assert os.read(reading, 10) == b"x"
    for descriptor in (reading, *message.descriptors):
        os.close(descriptor)


def test_what_the_socket_does_not_take_is_sent_later_in_order(
    pair: tuple[MessageSocket, MessageSocket],
) -> None:
    one, other = pair
    reading, writing = os.pipe()
    for number in range(300):
        one.send({"number": number, "padding": "x" * 5000}, [writing])
    os.close(writing)  # queued messages have descriptors of their own
    os.close(reading)
    assert one.unsent
    received = []
    while len(received) < 300:
        for message in other.receive():
            received.append(message.body["number"])
            for descriptor in message.descriptors:
                os.fstat(descriptor)
                os.close(descriptor)
        one.flush()
    assert received == list(range(300))
    assert not one.unsent


def test_a_receiver_that_never_reads_is_an_error_not_a_growing_queue(
    pair: tuple[MessageSocket, MessageSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_QUEUED_PACKETS", 3)

    def send_much() -> None:
        for _ in range(10_000):
            pair[0].send({"padding": "x" * 5000})

    with pytest.raises(DataServerError, match="does not read"):
        send_much()


def test_the_other_ends_close_is_noticed_after_its_last_message(
    pair: tuple[MessageSocket, MessageSocket],
) -> None:
    one, other = pair
    one.send({"last": True})
    one.close()
    assert [message.body for message in other.receive()] == [{"last": True}]
    assert other.ended


def test_close_closes_descriptors_that_were_not_sent(pair: tuple[MessageSocket, MessageSocket]) -> None:
    one, _ = pair
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    while not one.unsent:
        one.send({"padding": "x" * 5000})
    one.send({}, [writing])
    os.close(writing)
    one.close()
    assert os.read(reading, 1) == b"", "no writing end is left"
    os.close(reading)
