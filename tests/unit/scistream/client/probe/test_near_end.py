"""What the near end measures, and what it says of whoever it meets."""

from __future__ import annotations

import socket
import threading

import pytest

from scistream.client.probe import FarEventKind, NotAProbe, Progress, far_end, measure, near_end
from scistream.client.probe.near_end import percentile, rate_gbps
from scistream.client.probe.protocol import NEAR_GREETING
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, PeerError
from support.delay_relay import DelayRelay
from support.gateways import until
from support.probes import application, read_to_end, serving

SHORT_S = 0.5


def endpoint_of(url: str) -> Endpoint:
    return Endpoint.parse(url.removeprefix("tcp://"))


def test_both_directions_and_round_trips_are_measured_and_the_far_end_is_told() -> None:
    seen: list[Progress] = []
    with serving(once=True) as far:
        measured = measure(far.listeners, seconds=SHORT_S, progress=seen.append)
        event = far.result()
    assert measured.to_consumer_gbps > 0
    assert measured.to_producer_gbps > 0
    assert measured.connections == 1
    trip = measured.round_trip
    assert trip.samples > 1
    assert 0 < trip.min_ms <= trip.p50_ms <= trip.p90_ms <= trip.p99_ms <= trip.max_ms
    assert event is not None
    assert far.events == [event]
    assert event.kind is FarEventKind.PROBED
    assert event.to_peer_gbps == pytest.approx(measured.to_consumer_gbps, abs=1e-8)
    assert event.from_peer_gbps == pytest.approx(measured.to_producer_gbps, abs=1e-8)
    assert list(dict.fromkeys(one.what for one in seen)) == ["round trip", "to consumer", "to producer"]
    assert all(one.elapsed_s < one.seconds for one in seen if one.gbps is not None)


def test_all_channels_and_connections_carry_at_once() -> None:
    at_once: set[int] = set()
    with serving(listeners=2) as far:

        def count(progress: Progress) -> None:
            if progress.what != "round trip":
                at_once.add(sum(one.name.startswith("probe-") for one in threading.enumerate()))

        measured = measure(far.listeners, connections=3, seconds=SHORT_S, progress=count)
        until(lambda: far.events)
    assert measured.connections == 6
    assert max(at_once) >= 6  # threads of the far end: one for each connection
    assert [event.kind for event in far.events] == [FarEventKind.PROBED]


def test_round_trips_are_not_shorter_than_the_path() -> None:
    with serving() as far, DelayRelay(f"tcp://{far.listeners[0]}", delay_s=0.03) as relay:
        measured = measure([endpoint_of(relay.address)], seconds=SHORT_S)
    assert measured.round_trip.min_ms >= 60


def test_an_application_that_answers_is_named_and_has_got_nothing_but_the_greeting() -> None:
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        received.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        received.append(read_to_end(connection))

    with application(answer) as listener, pytest.raises(NotAProbe) as caught:
        measure([listener])
    assert b"".join(received) == NEAR_GREETING
    assert str(listener) in str(caught.value)
    assert "--serve" in str(caught.value)


def test_an_application_that_sends_first_or_echoes_is_none() -> None:
    def echo(connection: socket.socket) -> None:
        connection.sendall(connection.recv(65536))
        read_to_end(connection)

    def stream(connection: socket.socket) -> None:
        connection.sendall(bytes(100))
        read_to_end(connection)

    for answer in (echo, stream):
        with application(answer) as listener, pytest.raises(NotAProbe, match="probably your application"):
            measure([listener])


def test_an_application_that_closes_or_resets_the_connection_is_none() -> None:
    with (
        application(lambda connection: connection.recv(65536) and None) as listener,
        pytest.raises(NotAProbe, match="closed the connection without an answer"),
    ):
        measure([listener])
    with application(lambda _: None) as listener, pytest.raises(NotAProbe):
        measure([listener])


def test_an_application_that_is_silent_has_got_nothing_but_the_greeting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: list[bytes] = []
    monkeypatch.setattr(near_end, "GREETING_TIMEOUT_S", 0.2)
    with (
        application(lambda connection: received.append(read_to_end(connection))) as listener,
        pytest.raises(NotAProbe, match=r"within 0\.2 s"),
    ):
        measure([listener])
    assert received == [NEAR_GREETING]


def test_one_channel_that_leads_to_an_application_is_enough_to_send_nothing_anywhere() -> None:
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"?")
        received.append(read_to_end(connection))

    with serving() as far, application(answer) as other, pytest.raises(NotAProbe, match=str(other)):
        measure([*far.listeners, other])
    assert received == [NEAR_GREETING]


@pytest.mark.parametrize(
    ("phase", "complaint"),
    [
        ("round trip", "stopped answering"),
        ("to consumer", "to consumer: the connection broke after"),
        ("to producer", "to producer: the connection broke after"),
    ],
)
def test_a_far_end_that_dies_is_said_at_once(phase: str, complaint: str) -> None:
    with serving() as far:

        def kill(progress: Progress) -> None:
            if progress.what == phase and not far.ended.is_set():
                far.far_end.stop()
                assert far.ended.wait(10)

        with pytest.raises(PeerError, match=complaint):
            measure(far.listeners, seconds=SHORT_S, progress=kill)


def test_a_session_that_carries_nothing_is_an_error_and_not_a_rate_of_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def send_nothing(stream: socket.socket, _: float) -> None:
        stream.recv(1)  # until the near end closes the connection

    monkeypatch.setattr(far_end, "send_bytes", send_nothing)
    with serving() as far, pytest.raises(PeerError, match="to consumer: no byte"):
        measure(far.listeners, seconds=SHORT_S)


@pytest.mark.parametrize("phase", ["to consumer", "to producer"])
def test_an_interrupted_probe_ends_at_once_and_leaves_no_thread_and_the_far_end_goes_on(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    before = set(threading.enumerate())
    lasting_s = {"to consumer": 300.0, "to producer": SHORT_S}
    monkeypatch.setattr(near_end, "_PINGING", 0.0)

    def interrupt(progress: Progress) -> None:
        if progress.what == phase:
            raise KeyboardInterrupt

    with serving() as far:
        with pytest.raises(KeyboardInterrupt):
            measure(far.listeners, connections=2, seconds=lasting_s[phase], progress=interrupt)
        measure(far.listeners, seconds=SHORT_S)
        until(lambda: FarEventKind.PROBED in {event.kind for event in far.events})
    assert set(threading.enumerate()) <= before


def test_a_listener_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        listener = Endpoint(*closed.getsockname())
    with pytest.raises(PeerError, match=f"{listener} cannot be connected to"):
        measure([listener])


@pytest.mark.parametrize(
    "values", [{"seconds": 0.4}, {"seconds": 601}, {"seconds": float("nan")}, {"connections": 0}]
)
def test_values_that_make_no_sense_are_refused_before_anything_is_connected(values: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        measure([Endpoint("127.0.0.1", 1)], **values)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        measure([])


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([3.0], 50) == 3
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2


def test_a_rate_is_8_bits_for_each_byte_between_two_moments() -> None:
    assert rate_gbps((1000, 0), (1_250_001_000, 1_000_000_000)) == pytest.approx(10, rel=1e-12)
    assert rate_gbps((5, 7), (5, 7)) == 0
