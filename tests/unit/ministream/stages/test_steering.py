"""Requests to end a scan: real sockets, right and wrong messages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from ministream.errors import ConnectionFailed, PortInUse, ProtocolError
from ministream.stages.steering import SteeringListener, ask_to_finish


@contextmanager
def served(*, playing: bool = True) -> Iterator[SteeringListener]:
    """A listener that is served by a thread."""
    stop = threading.Event()
    with SteeringListener("tcp://127.0.0.1:0") as listener:

        def serve() -> None:
            while not stop.wait(0.01):
                listener.serve(playing=playing)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener
        finally:
            stop.set()
            thread.join()


def raw(address: str, message: bytes) -> dict[str, object]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        socket.send(message)
        assert socket.poll(10_000)
        answer = json.loads(socket.recv())
    assert isinstance(answer, dict)
    return answer


def test_a_request_is_accepted_and_a_second_one_changes_nothing() -> None:
    with served() as listener:
        assert listener.reason is None
        ask_to_finish(listener.address, "it is good")
        ask_to_finish(listener.address, "it is better")
        assert listener.reason == "it is good"


def test_before_the_scan_there_is_nothing_to_end() -> None:
    with served(playing=False) as listener:
        with pytest.raises(ProtocolError, match="has not begun"):
            ask_to_finish(listener.address, "early")
        assert listener.reason is None


@pytest.mark.parametrize(
    "message", [b"", b"\xff", b"[]", b"null", b"{}", b'{"command": "explode"}', b"[" * 4000]
)
def test_what_is_no_request_is_answered_and_does_nothing(message: bytes) -> None:
    with served() as listener:
        assert raw(listener.address, message)["accepted"] is False
        assert listener.reason is None
        ask_to_finish(listener.address, "it still listens")


def test_nobody_there_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailed, match="--steer"):
        ask_to_finish("tcp://127.0.0.1:9", "why", timeout_s=0.2)
    with pytest.raises(ConnectionFailed, match="nonsense"):
        ask_to_finish("nonsense", "why")


def test_something_else_there_is_no_daq() -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        answering = threading.Thread(target=lambda: (socket.recv(), socket.send(b"hello")))
        answering.start()
        with pytest.raises(ProtocolError, match="no DAQ"):
            ask_to_finish(f"tcp://127.0.0.1:{port}", "why")
        answering.join()


def test_a_port_that_is_taken() -> None:
    with served() as listener, pytest.raises(PortInUse):
        SteeringListener(listener.address)
