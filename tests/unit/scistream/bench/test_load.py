"""The load against its sink: straight, and through relays that do wrong."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from scistream.bench.load import bulk, idle, ping_pong, set_ups
from scistream.bench.sink import Sink
from scistream.errors import DataServerError


@pytest.fixture
def sink() -> Iterator[Sink]:
    there = Sink(None)
    yield there
    there.close()


@contextmanager
def relay(sink: Sink, spoil: Callable[[bytes], bytes]) -> Iterator[int]:
    """A relay for one connection which does something to what goes to the sink."""

    def carry(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
        while part := source.recv(1 << 18):
            target.sendall(change(part))
        target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted, socket.create_connection(("127.0.0.1", sink.port)) as target:
            back = threading.Thread(target=carry, args=(target, accepted, bytes))
            back.start()
            carry(accepted, target, spoil)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(20)


def test_every_stream_is_counted_to_the_last_byte(sink: Sink) -> None:
    figures = bulk(sink, sink.port, 5, 0.2, [os.getpid()])
    assert figures["gbps"] > 0
    assert figures["cpu_s_per_gb"] > 0
    assert sink.received > 0


def test_without_processes_there_is_no_cpu_time(sink: Sink) -> None:
    assert set(bulk(sink, sink.port, 1, 0.1, [])) == {"gbps"}


def test_a_relay_that_loses_a_byte_is_found_out(sink: Sink) -> None:
    lost: list[bytes] = []

    def lose_one(part: bytes) -> bytes:
        if len(part) > 1 and not lost:
            lost.append(part[:1])
            return part[1:]
        return part

    with relay(sink, lose_one) as port, pytest.raises(DataServerError, match="the sink counted"):
        bulk(sink, port, 1, 0.2, [])


def test_a_relay_that_pauses_is_slow_not_infinitely_fast(sink: Sink) -> None:
    """Longer than warm-up and measurement together."""
    pauses = iter([0.0, 0.4, 0.4])

    def pause(part: bytes) -> bytes:
        time.sleep(next(pauses, 0.0))  # it is what this relay is about
        return part

    with relay(sink, pause) as port:
        began_s = time.monotonic()
        figures = bulk(sink, port, 1, 0.1, [])
        elapsed_s = time.monotonic() - began_s
    assert figures["gbps"] <= sink.received * 8e-9 / 0.1
    assert elapsed_s > 0.25


def test_round_trips_have_percentiles_in_order(sink: Sink) -> None:
    figures = ping_pong(sink.port, 200)
    assert 0 < figures["p50_us"] <= figures["p90_us"] <= figures["p99_us"] <= figures["p99_9_us"]


def test_the_rate_of_new_connections_fits_the_time_that_one_takes(sink: Sink) -> None:
    figures = set_ups(sink.port, 50)
    assert figures["per_s"] > 0
    assert 0 < figures["p50_us"] <= figures["p99_9_us"] < 50e6 / figures["per_s"]


def test_connections_that_are_cut_are_an_error(sink: Sink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=cut)
        thread.start()
        with pytest.raises((DataServerError, OSError)):
            set_ups(listener.getsockname()[1], 1)
        thread.join()


def test_the_memory_of_idle_connections_is_what_a_process_grows_by(sink: Sink) -> None:
    assert idle(sink.port, 20, []) == {"bytes_per_connection": 0}
