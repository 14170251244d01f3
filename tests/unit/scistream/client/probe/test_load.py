"""A load on a path to a far end: echoes, new connections, bytes."""

from __future__ import annotations

import socket

import pytest

from scistream.client.probe import FarEventKind, Load, NotAProbe
from scistream.client.probe.protocol import (
    FAR_GREETING,
    FRAME_BYTES,
    MAX_ECHO_BYTES,
    NEAR_GREETING,
    Frame,
    Kind,
)
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, PeerError
from support.delay_relay import DelayRelay
from support.gateways import until
from support.probes import application, read_to_end, serving


@pytest.mark.parametrize("size", [FRAME_BYTES, 64, 1 << 20])
def test_messages_of_any_size_come_back(size: int) -> None:
    with serving() as far:
        times_ns = Load(far.listeners[0]).echo_times_ns(size, 0.1)
    assert len(times_ns) >= 1
    assert sum(times_ns) <= 10e9


def test_echoes_and_set_up_are_not_quicker_than_the_path() -> None:
    with serving() as far, DelayRelay(f"tcp://{far.listeners[0]}", delay_s=0.03) as relay:
        load = Load(Endpoint.parse(relay.address.removeprefix("tcp://")))
        assert min(load.echo_times_ns(64, 0.2)) >= 60e6
        assert min(load.set_up_times_ns(0.2)) >= 60e6


def test_both_directions_carry_and_the_far_end_is_told_in_the_end() -> None:
    with serving() as far:
        load = Load(far.listeners[0])
        here, there = load.to_here(2, 0.3), load.from_here(2, 0.3)
        load.finish(to_here_gbps=here.gbps, from_here_gbps=there.gbps)
        (event,) = until(lambda: far.events)
    for carried in (here, there):
        assert carried.gbps > 0
        # less than a full time at the settled rate, as there was a beginning; not a different order
        assert 0.02 < carried.total_bytes * 8e-9 / (carried.gbps * 0.3) < 5
    assert event.kind is FarEventKind.PROBED
    assert event.to_peer_gbps == pytest.approx(here.gbps, abs=1e-8)


def test_a_message_that_comes_back_changed_is_an_error() -> None:
    def change(connection: socket.socket) -> None:
        connection.recv(len(NEAR_GREETING), socket.MSG_WAITALL)
        connection.sendall(FAR_GREETING)
        message = connection.recv(64, socket.MSG_WAITALL)
        connection.sendall(message[:-1] + b"!")
        read_to_end(connection)

    with application(change) as address, pytest.raises(PeerError, match="came back changed"):
        Load(address).echo_times_ns(64, 0.1)


def test_who_is_no_far_end_gets_nothing_but_a_greeting() -> None:
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"220 hello\r\n")
        received.append(read_to_end(connection))

    with application(answer) as address, pytest.raises(NotAProbe):
        Load(address).echo_times_ns(64, 0.1)
    assert received == [NEAR_GREETING]


def test_a_message_shorter_than_what_announces_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="20 bytes at least"):
        Load(Endpoint("127.0.0.1", 1)).echo_times_ns(19, 0.1)


def test_the_far_end_does_not_keep_more_than_the_longest_message() -> None:
    with serving() as far:
        address = far.listeners[0]
        with socket.create_connection((address.host, address.port), 10) as stream:
            stream.sendall(NEAR_GREETING)
            assert stream.recv(len(FAR_GREETING), socket.MSG_WAITALL) == FAR_GREETING
            Frame(Kind.ECHO, MAX_ECHO_BYTES + 1).send(stream)
            assert read_to_end(stream) == b""
        (event,) = until(lambda: far.events)
    assert event.kind is FarEventKind.BROKEN_OFF
    assert "ECHO" in event.message
