"""Sessions between data servers of two kinds: which there are, and what crosses them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import pytest

from scistream.core.endpoint import Endpoint
from scistream.dataserver import DataServerBackend, create_backend
from scistream.dataserver.registry import omits_close_notify
from support.data_servers import program_of
from support.relays import (
    Background,
    Hop,
    Identity,
    LoopThread,
    Path,
    accept,
    connect,
    endpoint,
    random_bytes,
    receive_all,
)

KINDS = ("native", "haproxy", "nginx", "stunnel")


class Ending(Enum):
    """How the two directions of a stream come to their ends."""

    AT_ONCE = auto()
    IN_TURN = auto()


@dataclass(frozen=True)
class Cell:
    """What a session consists of: a data server on each side, the leg between them, and its channels."""

    producer: str
    consumer: str
    encrypted: bool
    channels: int

    @property
    def kinds(self) -> set[str]:
        """What forwards, wherever it runs."""
        return {program_of(self.producer), program_of(self.consumer)}

    @property
    def contained(self) -> bool:
        return any(kind.endswith("container") for kind in (self.producer, self.consumer))

    @property
    def exists(self) -> bool:
        """Whether both data servers have such sessions; stunnel has encrypted ones only."""
        return self.encrypted or "stunnel" not in self.kinds

    @property
    def ending(self) -> Ending:
        # these may lose what they have not yet read when the other direction ends too
        return Ending.IN_TURN if self.kinds & {"haproxy", "stunnel"} else Ending.AT_ONCE

    def __str__(self) -> str:
        return f"{self.producer}-{self.consumer}-{'tls' if self.encrypted else 'plain'}-{self.channels}ch"


def _parameter(cell: Cell) -> object:
    programs = sorted(cell.kinds - {"native"}) + ["dockerd"] * cell.contained
    return pytest.param(cell, id=str(cell), marks=[pytest.mark.peer(*programs)] if programs else [])


#: Every pair of data servers, plain and encrypted, with one channel and with five.
CELLS = [_parameter(Cell(*of)) for of in itertools.product(KINDS, KINDS, (False, True), (1, 5))]


#: The same in containers: each program on both sides, plain and encrypted where it has both.
CONTAINER_CELLS = [
    _parameter(Cell(f"{producer}container", f"{consumer}container", *rest))
    for producer, consumer, *rest in (
        ("haproxy", "nginx", False, 5),
        ("nginx", "haproxy", True, 1),
        ("stunnel", "stunnel", True, 5),
    )
]


@dataclass
class Backends:
    """The data servers of two facilities, each opened when it is first asked for.

    Parameters
    ----------
    options_of : callable
        Returns what a kind of data server has to be told.
    """

    thread: LoopThread
    options_of: Callable[[str], dict[str, Any]]
    _opened: dict[tuple[str, str], DataServerBackend] = field(default_factory=dict)

    def opened(self, side: str, kind: str) -> DataServerBackend:
        async def opened() -> DataServerBackend:
            backend = create_backend(kind, self.options_of(kind))
            await backend.open()
            return backend

        if (side, kind) not in self._opened:
            self._opened[side, kind] = self.thread.run(opened())
        return self._opened[side, kind]

    def close(self) -> None:
        for backend in self._opened.values():
            self.thread.run(backend.close())


class Payload:
    """Random bytes for one direction of a session, and the sha256 of each channel's part."""

    def __init__(self, length: int) -> None:
        self._data = memoryview(random_bytes(length))
        self._parts: dict[int, list[tuple[memoryview, bytes]]] = {}

    def parts(self, channels: int) -> list[tuple[memoryview, bytes]]:
        """(bytes, their sha256) for each channel."""
        if channels not in self._parts:
            share = len(self._data) // channels
            views = [self._data[share * index : share * (index + 1)] for index in range(channels)]
            self._parts[channels] = [(view, hashlib.sha256(view).digest()) for view in views]
        return self._parts[channels]


def sha256_of_next(sock: socket.socket, length: int) -> bytes:
    """The sha256 of the next `length` bytes, or of fewer where the stream ends before."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    while length and (count := sock.recv_into(buffer, min(length, len(buffer)))):
        digest.update(buffer[:count])
        length -= count
    return digest.digest()


@dataclass
class Crossing:
    """A session over two data servers, and an application behind each of its channels."""

    cell: Cell
    producer_side: Path
    consumer_side: Path
    applications: list[socket.socket] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def over(cls, backends: Backends, cell: Cell, *, uid: str = "session") -> Iterator[Crossing]:
        """A session with credentials of its own, of which neither side has been started."""
        identities = {"producer_identity": Identity.make(uid), "consumer_identity": Identity.make(uid)}
        paths = [
            Path(
                backends.thread,
                backends.opened(side, kind),
                cell.encrypted,
                resets=kind == "native",
                peer_omits_close_notify=omits_close_notify(peer),
                **identities,
            )
            for side, kind, peer in (
                ("producer", cell.producer, cell.consumer),
                ("consumer", cell.consumer, cell.producer),
            )
        ]
        try:
            yield cls(cell, *paths)
        finally:
            for path in paths:
                path.close()

    def start_producer(self) -> Hop:
        self.applications = [self.producer_side.listening() for _ in range(self.cell.channels)]
        targets = [endpoint(application) for application in self.applications]
        return self.producer_side.producer(targets, channels=self.cell.channels)

    def start_consumer(self, targets: Sequence[Endpoint]) -> Hop:
        return self.consumer_side.consumer(targets, channels=self.cell.channels)

    def carry(self, consumer: Hop, there: Payload, back: Payload) -> None:
        """Send both payloads, shared by the channels, at the same time, and compare what arrives."""
        at_once = self.cell.ending is Ending.AT_ONCE
        with contextlib.ExitStack() as stack:
            streams = []
            for listener, application in zip(consumer.listeners, self.applications, strict=True):
                near = stack.enter_context(connect(listener))
                streams.append((near, stack.enter_context(accept(application))))
            sending, receiving = [], []
            ways = zip(streams, there.parts(len(streams)), back.parts(len(streams)), strict=True)
            for (near, far), forth, home in ways:
                for source, sink, (part, sha256) in ((near, far, forth), (far, near, home)):
                    sending.append(_send(source, part, end=at_once))
                    receiving.append((_receive(sink, len(part)), sha256))
            for received, sha256 in receiving:
                assert received.result() == sha256
            for sent in sending:
                sent.result()
            for near, far in streams:
                self._end(near, far)

    def _end(self, near: socket.socket, far: socket.socket) -> None:
        match self.cell.ending:
            case Ending.AT_ONCE:
                assert receive_all(near) == receive_all(far) == b""
            case Ending.IN_TURN:
                for one, other in ((near, far), (far, near)):
                    one.shutdown(socket.SHUT_WR)
                    assert receive_all(other) == b""


def _send(sock: socket.socket, part: memoryview, *, end: bool) -> Background:
    def work() -> None:
        sock.sendall(part)
        if end:
            sock.shutdown(socket.SHUT_WR)

    return Background(work)


def _receive(sock: socket.socket, length: int) -> Background:
    return Background(lambda: sha256_of_next(sock, length))
