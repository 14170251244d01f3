"""One direction of a plain relay, step by step: a full sink loses nothing and doubles nothing."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from scistream.dataserver.native.loop import Loop
from scistream.dataserver.native.plain import plain_relay
from scistream.dataserver.native.relay import Flow, Relay
from support.relays import accept, connect, listening, random_bytes, receive


@dataclass
class Channel:
    """Keeps the relay, as a session's channel does."""

    open_relays: set[Relay] = field(default_factory=set)

    def relay_begins(self, relay: Relay) -> None:
        self.open_relays.add(relay)

    def relay_ended(self, relay: Relay) -> None:
        self.open_relays.discard(relay)


@dataclass
class Bench:
    """A relay whose loop does not run: the test makes every step."""

    near: socket.socket
    far: socket.socket
    flow: Flow
    loop: Loop


@pytest.fixture
def bench() -> Iterator[Bench]:
    loop, channel = Loop(), Channel()
    with listening() as listener:
        near, accepted = connect(listener), accept(listener)
        target, far = connect(listener), accept(listener)
    # small buffers, so that little data fill them; set before any of it is sent
    target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    for sock in (accepted, target):
        sock.setblocking(False)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain_relay(loop, channel, accepted, target).begin()  # type: ignore[arg-type]
    (relay,) = channel.open_relays
    yield Bench(near, far, relay.to_target, loop)
    relay.abort()
    near.close()
    far.close()
    loop.close()


@pytest.mark.parametrize("largest", [3_000, 12_000, 200_000])
def test_a_full_sink_loses_and_doubles_nothing(bench: Bench, largest: int) -> None:
    rng = random.Random(largest)
    data = random_bytes(600_000)
    sent, got, stalls = 0, bytearray(), 0
    bench.near.settimeout(0)
    while len(got) < len(data):
        if sent < len(data):
            piece = data[sent : sent + rng.randint(1, largest)]
            with contextlib.suppress(BlockingIOError):
                sent += bench.near.send(piece)
        bench.flow.waiting = False
        bench.flow.run()
        if bench.flow.parked:
            stalls += 1
            got += receive(bench.far, bench.flow.moved - len(got))
        elif sent == len(data) or rng.random() < 0.05:
            got += receive(bench.far, bench.flow.moved - len(got))
    assert stalls > 1, "the case that is tested did occur"
    assert got == data


def test_nothing_is_held_for_an_idle_flow(bench: Bench) -> None:
    bench.near.sendall(bytes(300_000))
    assert len(receive_through(bench, 300_000)) == 300_000
    assert bench.flow.parked == 0
    assert bench.loop.pipes.lent == 0


def receive_through(bench: Bench, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        bench.flow.waiting = False
        bench.flow.run()
        got += receive(bench.far, bench.flow.moved - len(got))
    return bytes(got)


def test_a_copied_message_needs_no_pipe(bench: Bench) -> None:
    bench.near.sendall(b"small")
    assert receive_through(bench, 5) == b"small"
    assert bench.loop.pipes._idle == []
