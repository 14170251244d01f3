"""A worker and a distributor of the APS streaming mini-app, as their wire is described: nothing here is ours.

ZeroMQ REQ and REP, one frame a message; C structs packed by hand. The worker sends the eight bytes of padding
that the C++ program sends, the distributor sends none, as the C program.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence

import numpy as np
import zmq

FIN, DATAINFO_REQ, DATAINFO_REP, DATA_REQ, DATA_REP = 0x00, 0x01, 0x02, 0x10, 0x20
WAIT_MS = 20_000


def message(sequence: int, kind: int, body: bytes = b"", *, padding: int = 0) -> bytes:
    frame = body + bytes(padding)
    return struct.pack("<QQQ", sequence, kind, 24 + len(frame)) + frame


def header(frame: bytes) -> tuple[int, int, int]:
    return struct.unpack_from("<QQQ", frame)


class Worker:
    """One rank, in the thread of the test; each step is one message. A context manager."""

    def __init__(self, host: str, port: int, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.sequence = 0
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REQ)
        self.socket.connect(f"tcp://{host}:{port + rank}")
        self.begin = self.count = self.columns = self.total = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(linger=0)

    def send(self, kind: int, body: bytes = b"", *, sequence: int | None = None) -> None:
        number = self.sequence if sequence is None else sequence
        self.socket.send(message(number, kind, body, padding=8))
        self.sequence = number + 1

    def receive(self, timeout_ms: int = WAIT_MS) -> bytes:
        """Return the answer; it must be the next one and of the size that it says."""
        assert self.socket.poll(timeout_ms), "no answer"
        frame = self.socket.recv()
        sequence, _, size = header(frame)
        assert (sequence, size) == (self.sequence, len(frame))
        self.sequence += 1
        return frame

    def silent(self, timeout_ms: int = 300) -> bool:
        return not self.socket.poll(timeout_ms)

    def greet(self) -> None:
        self.send(DATAINFO_REQ, struct.pack("<II", self.rank, self.ranks))

    def learn(self) -> None:
        frame = self.receive()
        assert header(frame)[1:] == (DATAINFO_REP, 40)
        self.total, self.begin, self.count, self.columns = struct.unpack_from("<IIII", frame, 24)

    def ask(self) -> None:
        self.send(DATA_REQ)

    def projection(self) -> tuple[int, float, float, np.ndarray] | None:
        """Return number, theta, centre and rows; None at the end, which is answered."""
        frame = self.receive()
        kind = header(frame)[1]
        if kind == FIN:
            assert len(frame) == 24
            self.send(FIN)
            return None
        assert kind == DATA_REP
        number, theta, center = struct.unpack_from("<iff", frame, 24)
        rows = np.frombuffer(frame[36:], "<f4").reshape(self.count, self.columns)
        return number, theta, center, rows

    def rest(self) -> list[tuple[int, float, float, np.ndarray]]:
        """Ask for and return everything that is left."""
        found = []
        while True:
            self.ask()
            one = self.projection()
            if one is None:
                return found
            found.append(one)


class Distributor(threading.Thread):
    """Hands out projections to all ranks in lock step, in a thread of its own.

    Parameters
    ----------
    projections : list of (number, theta, centre, rows)
        The rows of all slices.
    """

    def __init__(
        self,
        port: int,
        projections: Sequence[tuple[int, float, float, np.ndarray]],
        *,
        padding: int = 0,
        wrong_sequence_at: int | None = None,
    ) -> None:
        super().__init__(name="mini-app distributor")
        self.port = port
        self.ranks = 0
        self.failure: BaseException | None = None
        self._projections = projections
        self._padding = padding
        self._wrong_at = wrong_sequence_at
        self._sequence = 0
        self._told_to_stop = threading.Event()
        self._context = zmq.Context()
        self._sockets = [self._bind(0)]

    def stop(self) -> None:
        """End it, whatever it waits for."""
        self._told_to_stop.set()
        self.join(20)
        assert not self.is_alive()

    def _bind(self, rank: int) -> zmq.Socket:
        socket = self._context.socket(zmq.REP)
        socket.bind(f"tcp://127.0.0.1:{self.port + rank}")
        return socket

    def run(self) -> None:
        try:
            self._serve()
        except AssertionError as error:
            self.failure = error
        finally:
            self._context.destroy(linger=0 if self.failure else 1000)

    def _serve(self) -> None:
        hello = self._receive(0, DATAINFO_REQ, 40)
        rank, self.ranks = struct.unpack_from("<II", hello, 24)
        assert rank == 0
        for other in range(1, self.ranks):
            self._sockets.append(self._bind(other))
            assert struct.unpack_from("<II", self._receive(other, DATAINFO_REQ, 40), 24) == (
                other,
                self.ranks,
            )
        self._sequence += 1
        total, columns = self._projections[0][3].shape
        share, more = divmod(total, self.ranks)
        begins = [rank * share + min(rank, more) for rank in range(self.ranks + 1)]
        for rank in range(self.ranks):
            count = begins[rank + 1] - begins[rank]
            self._send(rank, DATAINFO_REP, struct.pack("<IIII", total, begins[rank], count, columns))
        self._sequence += 1
        self._receive_all(DATA_REQ)
        for at, (number, theta, center, rows) in enumerate(self._projections):
            if at == self._wrong_at:
                self._sequence += 2
            for rank in range(self.ranks):
                part = rows[begins[rank] : begins[rank + 1]].astype("<f4").tobytes()
                self._send(rank, DATA_REP, struct.pack("<iff", number, theta, center) + part)
            self._sequence += 1
            self._receive_all(DATA_REQ)
        for rank in range(self.ranks):
            self._send(rank, FIN)
        self._sequence += 1
        self._receive_all(FIN)

    def _receive_all(self, kind: int) -> None:
        for rank in range(self.ranks):
            self._receive(rank, kind, 32)
        self._sequence += 1

    def _receive(self, rank: int, kind: int, size: int) -> bytes:
        while not self._sockets[rank].poll(50):
            assert not self._told_to_stop.is_set(), f"rank {rank} says nothing"
        frame = self._sockets[rank].recv()
        assert header(frame) == (self._sequence, kind, size)
        assert len(frame) == size
        return frame

    def _send(self, rank: int, kind: int, body: bytes = b"") -> None:
        self._sockets[rank].send(message(self._sequence, kind, body, padding=self._padding))


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that are free, outside of where the kernel takes its own."""
    import random
    import socket

    for _ in range(100):
        first = random.randrange(20_000, 30_000)
        try:
            held = []
            for port in range(first, first + count):
                held.append(socket.socket())
                held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for one in held:
                one.close()
    raise AssertionError("no free ports")
