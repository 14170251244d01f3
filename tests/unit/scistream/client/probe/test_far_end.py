"""What the far end does with near ends that vanish, and with strangers."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from scistream.client.probe import FarEventKind, far_end, measure
from scistream.client.probe.protocol import FAR_GREETING, NEAR_GREETING, Frame, Kind, receive_frame
from scistream.core.endpoint import Endpoint
from support.gateways import until
from support.probes import read_to_end, serving


@contextlib.contextmanager
def connected(listener: Endpoint) -> Iterator[socket.socket]:
    with socket.create_connection((listener.host, listener.port), 10) as stream:
        yield stream


@contextlib.contextmanager
def greeted(listener: Endpoint) -> Iterator[socket.socket]:
    with connected(listener) as stream:
        stream.sendall(NEAR_GREETING)
        assert stream.recv(len(FAR_GREETING), socket.MSG_WAITALL) == FAR_GREETING
        yield stream


@pytest.mark.parametrize(
    "bytes_of_a_stranger", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000, b"s?", b"scistream-probe/2 hello\n"]
)
def test_a_stranger_is_refused_without_an_answer_and_the_far_end_goes_on(bytes_of_a_stranger: bytes) -> None:
    with serving() as far:
        with connected(far.listeners[0]) as stream:
            peer = Endpoint(*stream.getsockname())
            stream.sendall(bytes_of_a_stranger)
            assert read_to_end(stream) == b""
        (event,) = until(lambda: far.events)
        measure(far.listeners, seconds=0.5)
    assert (event.kind, event.peer) == (FarEventKind.REFUSED, str(peer))
    assert repr(bytes_of_a_stranger[:2])[2:-1] in event.message


def test_a_stranger_that_says_nothing_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_end, "GREETING_TIMEOUT_S", 0.1)
    with serving() as far, connected(far.listeners[0]) as stream:
        assert read_to_end(stream) == b""
        assert [event.kind for event in until(lambda: far.events)] == [FarEventKind.REFUSED]


def test_somebody_who_looks_whether_it_listens_is_no_event_and_no_probe() -> None:
    with serving(once=True) as far:
        with connected(far.listeners[0]):
            pass
        measure(far.listeners, seconds=0.5)
        far.result()
    assert [event.kind for event in far.events] == [FarEventKind.PROBED]


def test_a_near_end_that_vanishes_is_a_probe_that_was_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_end, "_PATIENCE_S", 0.1)
    with serving(once=True) as far:
        with greeted(far.listeners[0]) as stream:
            Frame(Kind.PING, 5).send(stream)
            assert receive_frame(stream) == Frame(Kind.PONG, 5)
        event = far.result()
    assert event is not None
    assert event.kind is FarEventKind.BROKEN_OFF


def test_a_near_end_that_vanishes_while_bytes_flow_ends_their_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(far_end, "_PATIENCE_S", 0.1)
    with serving() as far:
        with greeted(far.listeners[0]) as control, greeted(far.listeners[0]) as stream:
            Frame(Kind.SEND, 60_000).send(stream)
            assert stream.recv(1 << 16)
            for one in (control, stream):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        (event,) = until(lambda: far.events)
    assert event.kind is FarEventKind.BROKEN_OFF


@pytest.mark.parametrize(
    "frame", [Frame(Kind.TOOK, 1), Frame(Kind.SEND, 601_000), Frame(Kind.TAKE, 2**64 - 1)]
)
def test_what_a_near_end_does_not_say_ends_the_probe(frame: Frame) -> None:
    with serving(once=True) as far:
        with greeted(far.listeners[0]) as stream:
            frame.send(stream)
            assert read_to_end(stream) == b""
        event = far.result()
    assert event is not None
    assert event.kind is FarEventKind.BROKEN_OFF


def test_bytes_that_are_no_frame_end_the_probe() -> None:
    with serving() as far:
        with greeted(far.listeners[0]) as stream:
            stream.sendall(b"x" * 20)
            assert read_to_end(stream) == b""
        (event,) = until(lambda: far.events)
    assert "no message of a probe" in event.message


def test_more_connections_than_it_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_end, "_MAX_CONNECTIONS", 1)
    with serving() as far, greeted(far.listeners[0]):
        with connected(far.listeners[0]) as stream:
            assert read_to_end(stream) == b""
        (event,) = until(lambda: far.events)
    assert event.kind is FarEventKind.REFUSED


def test_a_near_end_that_comes_back_in_time_has_not_broken_off() -> None:
    with serving(once=True) as far:
        for _ in range(3):
            with greeted(far.listeners[0]) as stream:
                Frame(Kind.PING, 5).send(stream)
                assert receive_frame(stream) == Frame(Kind.PONG, 5)
        with greeted(far.listeners[0]) as first, greeted(far.listeners[0]) as second:
            for stream in (first, second):  # one goodbye does not cut the other one short
                Frame(Kind.QUIT, 2_000_000_000, 10**9).send(stream)
                assert receive_frame(stream) == Frame(Kind.QUIT, 2_000_000_000, 10**9)
        event = far.result()
    assert event is not None
    assert far.events == [event]
    assert (event.kind, event.to_peer_gbps, event.from_peer_gbps) == (FarEventKind.PROBED, 2, 1)


def test_a_near_end_that_measures_for_longer_than_its_connections_may_be_missed_has_not_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(far_end, "_PATIENCE_S", 1.0)
    with serving(once=True) as far:
        measure(far.listeners, seconds=1.5)
        far.result()
    assert [event.kind for event in far.events] == [FarEventKind.PROBED]


def test_stopping_it_ends_open_connections() -> None:
    with serving() as far, greeted(far.listeners[0]) as stream:
        far.far_end.stop()
        assert far.ended.wait(10)
        assert read_to_end(stream) == b""
