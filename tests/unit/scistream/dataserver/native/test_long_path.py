"""What a wide-area socket gets follows from its round trip, and from what this process may do."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace

import pytest

from scistream.dataserver.native import long_path
from scistream.dataserver.native.long_path import Buffer, LongPath, permitted_long_path, scale_of
from scistream.dataserver.native.tcp_info import tcp_info
from support.relays import accept, connect, listening

MIB = 1 << 20
AUTOTUNED = Buffer(settable_bytes=128 * MIB, first_bytes=128 * 1024, tuned_bytes=6 * MIB)
HELPLESS = replace(AUTOTUNED, settable_bytes=208 * 1024)
SO_BUF_LOCK = 72
# this test's user may be anybody: a buffer that everybody may set, against a kernel that tunes to less
MODEST = Buffer(settable_bytes=100 * 1024, first_bytes=16 * 1024, tuned_bytes=100 * 1024)


def _path(
    send: Buffer, receive: Buffer, buffer_bytes: int | None = None, dscp: int | None = None
) -> LongPath:
    return LongPath(
        send=send,
        receive=receive,
        forced=False,
        window_scale=scale_of(receive.tuned_bytes),
        congestion="reno",
        buffer_bytes=buffer_bytes,
        dscp=dscp,
    )


def _buffers(sock: socket.socket) -> tuple[int, int]:
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
    )


def _congestion(sock: socket.socket) -> str:
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


@pytest.mark.parametrize(
    ("round_trip_s", "rate_mbps", "connections", "expected"),
    [
        (0.040, 5000, 1, 50_000_000),
        (0.040, 5000, 5, 10_000_000),
        (0.040, 0, 1, 100_000_000),  # 10 Gb/s are assumed
        (0.300, 0, 1, long_path.LARGEST_BUFFER_BYTES),
        (0.040, 100, 1, 1_000_000),
    ],
)
def test_a_buffer_holds_two_round_trips_of_the_connections_share(
    round_trip_s: float, rate_mbps: float, connections: int, expected: int
) -> None:
    path = _path(AUTOTUNED, AUTOTUNED)
    assert path._wanted_bytes(round_trip_s, rate_mbps, connections) == expected


def test_a_buffer_that_is_told_is_taken() -> None:
    assert _path(AUTOTUNED, AUTOTUNED, buffer_bytes=7 * MIB)._wanted_bytes(0.04, 100, 3) == 7 * MIB


@pytest.mark.parametrize(
    ("buffer", "size", "gains"),
    [
        (AUTOTUNED, 4 * MIB, True),  # the kernel doubles it
        (AUTOTUNED, 3 * MIB, False),
        (HELPLESS, 100 * MIB, False),
        (AUTOTUNED, 0, False),
    ],
)
def test_a_buffer_is_set_only_if_the_kernel_would_not_reach_it(
    buffer: Buffer, size: int, gains: bool
) -> None:
    assert buffer.gains_from(size) is gains


@pytest.mark.parametrize(("window_bytes", "scale"), [(32 << 20, 10), (6 << 20, 7), (65_535, 0)])
def test_the_window_scale_is_the_kernels(window_bytes: int, scale: int) -> None:
    assert scale_of(window_bytes) == scale


def test_windows_that_would_be_small_are_made_possible_before_the_connection_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(long_path, "WINDOW_BUFFER_BYTES", 2 * MODEST.settable_bytes)
    path = _path(MODEST, MODEST)
    with listening() as listener:
        path.prepare(listener, 1)
        with connect(listener), accept(listener) as accepted:
            assert _buffers(accepted)[1] == 4 * MODEST.settable_bytes
        path.prepare(listener, 9)  # there are many: autotuning is enough for each
        with connect(listener), accept(listener) as accepted:
            assert not accepted.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)
            assert _buffers(accepted)[1] == MODEST.first_bytes


def test_a_long_path_gets_its_buffers() -> None:
    path = _path(MODEST, MODEST, buffer_bytes=100 * 1024)
    with listening() as listener, connect(listener), accept(listener) as accepted:
        path.adapt(accepted, 0.04, 0, 1)
        assert _buffers(accepted) == (200 * 1024, 200 * 1024)
        assert _congestion(accepted) == "reno"
        # without this the window stays at what the buffer was worth when the connection began
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP) == 100 * 1024


def test_a_receive_buffer_whose_window_was_promised_is_not_made_smaller() -> None:
    with listening() as listener, connect(listener), accept(listener) as accepted:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 150 * 1024)
        before = _buffers(accepted)
        _path(MODEST, MODEST, buffer_bytes=100 * 1024).adapt(accepted, 0.04, 0, 1)
        assert _buffers(accepted) == (200 * 1024, before[1])


@pytest.mark.parametrize("path", [_path(HELPLESS, HELPLESS), _path(MODEST, MODEST, buffer_bytes=0)])
def test_who_may_set_little_or_nothing_leaves_everything_to_the_kernel(path: LongPath) -> None:
    with listening() as listener:
        path.prepare(listener, 1)
        with connect(listener), accept(listener) as accepted:
            before = _buffers(accepted)
            path.adapt(accepted, 0.04, 0, 1)
            assert _buffers(accepted) == before
            assert not accepted.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_service_class_is_inherited_by_what_a_listener_accepts(host: str) -> None:
    path = _path(HELPLESS, HELPLESS, dscp=46)
    with listening(host) as listener:
        path.prepare(listener, 1)
        with connect(listener), accept(listener) as accepted:
            level, option = (
                (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
                if listener.family == socket.AF_INET6
                else (socket.IPPROTO_IP, socket.IP_TOS)
            )
            assert accepted.getsockopt(level, option) == 46 << 2


def test_a_congestion_control_that_is_not_there_is_told_with_what_to_type(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert permitted_long_path("no-such-one", None, None).congestion is None
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "sysctl -w net.ipv4.tcp_allowed_congestion_control=" in text
    assert "no-such-one" in text


def test_a_connections_round_trip_is_known_and_its_peer_alive() -> None:
    with listening() as listener, connect(listener) as near, accept(listener):
        info = tcp_info(near)
        assert 0 < info.round_trip_s < 0.5
        assert info.probes == info.retransmissions == 0
        assert 0.1 < info.retransmission_timeout_s < 10
        assert info.silent_s < 5
