"""Cut streams never look finished, also those that are cut before the gateways have agreed to carry them."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from support.relays import (
    Background,
    Hop,
    Path,
    accept,
    connect,
    cut,
    endpoint,
    nobody_came,
    random_bytes,
    receive_all,
    receive_until_reset,
    until,
)


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_a_reset_before_any_data_arrives_as_a_reset(native_path: Path, from_target: bool) -> None:
    with native_path.joined() as (near, far):
        one, other = (far, near) if from_target else (near, far)
        cut(one)
        assert receive_until_reset(other) == b""


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_who_has_sent_everything_and_then_cuts_has_not_finished(native_path: Path, from_target: bool) -> None:
    data = random_bytes(100_000)
    with native_path.joined() as (near, far):
        one, other = (far, near) if from_target else (near, far)
        one.sendall(data)
        received = bytearray()
        while len(received) < len(data):
            received += other.recv(1 << 16)
        cut(one)
        assert receive_until_reset(other) == b""
        assert received == data


@pytest.mark.parametrize("from_target", [False, True], ids=["client", "target"])
def test_who_leaves_without_having_heard_everything_resets_the_other(
    native_path: Path, from_target: bool
) -> None:
    """The kernel resets a connection that is closed with bytes unread: no SO_LINGER is needed."""
    with native_path.joined() as (near, far):
        one, other = (far, near) if from_target else (near, far)
        one.sendall(b"that is all I say")
        one.shutdown(socket.SHUT_WR)
        assert receive_all(other) == b"that is all I say"
        other.sendall(b"but listen")
        assert one.recv(1, socket.MSG_PEEK) == b"b"
        one.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            other.sendall(bytes(1 << 27))


@dataclass
class Wire:
    """What is between the gateways: it carries nothing until it is told to."""

    consumer: Hop
    producer: Hop
    application: socket.socket
    listener: socket.socket
    ends: list[socket.socket] = field(default_factory=list)
    carrying: list[Background] = field(default_factory=list)

    def hello(self) -> bytes:
        """Accept the dialling gateway's connection, and return what it says first."""
        self.ends.append(accept(self.listener))
        return self.ends[0].recv(1 << 16)

    def carry_on(self, hello: bytes) -> None:
        """Connect the gateways, and carry bytes both ways until they end."""
        self.ends.append(connect(self.producer.listeners[0]))
        self.ends[1].sendall(hello)
        there, back = self.ends, self.ends[::-1]
        self.carrying = [Background(lambda way=way: _carry(*way)) for way in (there, back)]

    def is_over(self) -> bool:
        """Whether both gateways have had one connection, and have none now."""
        figures = [hop.statistics()[0] for hop in (self.consumer, self.producer)]
        return all(one.connections_total == 1 for one in figures) and not any(
            one.connections_open for one in figures
        )


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while chunk := source.recv(1 << 16):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # the other direction's thread may wait for the same socket
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)
                sock.close()


@pytest.fixture
def wire(native_tls_path: Path) -> Iterator[Wire]:
    path = native_tls_path
    application, listener = path.listening(), path.listening()
    producer = path.producer([endpoint(application)])
    consumer = path.consumer([endpoint(listener)])
    made = Wire(consumer, producer, application, listener)
    yield made
    for sock in made.ends:
        sock.close()
    for one in made.carrying:
        one.result()


@pytest.mark.parametrize("words", [b"", b"half a fra"])
def test_a_client_that_cuts_while_the_gateways_shake_hands_has_not_finished(wire: Wire, words: bytes) -> None:
    near = connect(wire.consumer.listeners[0])
    hello = wire.hello()
    near.sendall(words)
    cut(near)
    wire.carry_on(hello)
    until(wire.is_over, "both gateways have forgotten it")
    wire.application.settimeout(0)
    with contextlib.suppress(BlockingIOError):  # that nobody comes is as good
        far = accept(wire.application)
        with far:
            assert words.startswith(receive_until_reset(far))


def test_a_client_that_finishes_while_the_gateways_shake_hands_is_heard_and_answered(wire: Wire) -> None:
    with connect(wire.consumer.listeners[0]) as near:
        hello = wire.hello()
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        wire.carry_on(hello)
        with accept(wire.application) as far:
            assert receive_all(far) == b"question"
            far.sendall(b"answer")
            far.shutdown(socket.SHUT_WR)
            assert receive_all(near) == b"answer"
    until(wire.is_over, "both gateways have forgotten it")
    for hop in (wire.consumer, wire.producer):
        assert hop.statistics()[0].connections_failed == 0


@pytest.mark.parametrize("in_order", [False, True], ids=["reset", "end"])
def test_a_wire_that_breaks_while_the_gateways_shake_hands_resets_the_client(
    wire: Wire, in_order: bool
) -> None:
    # who has said nothing: unread bytes would reset a connection, however it is closed
    with connect(wire.consumer.listeners[0]) as near:
        wire.hello()
        if in_order:
            wire.ends[0].close()
        else:
            cut(wire.ends[0])
        assert receive_until_reset(near) == b""
    assert nobody_came(wire.application)
