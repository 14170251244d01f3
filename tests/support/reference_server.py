"""A control server that behaves on the wire as the reference implementation does, with a plain TCP relay.

It knows fields 1 to 4 of the messages only, by the hand-written codec of `support.wire_bytes`, and nothing
of ours. As the reference: REQ is held until HELLO, on a thread of a pool of ten; what it does not know is an
exception, which gRPC reports as UNKNOWN; there is no status, no renewal, no certificate, no authentication
unless asked for. Source: the public release as it was run.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from support.wire_bytes import text_field

REQ_LIMIT_S = 20.0
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


def read_known(message: bytes) -> dict[int, list[Any]]:
    """The values of fields 1 to 4; any other is skipped, as protobuf does with what it does not know."""
    known: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        value: Any = None
        if kind == _VARINT:
            value = varint()
        elif kind == _LENGTH_DELIMITED:
            length = varint()
            value = message[at : at + length].decode() if number <= 4 else None
            at += length
        else:
            at += {_FIXED64: 8, _FIXED32: 4}[kind]
        if number <= 4:
            known.setdefault(number, []).append(value)
    return known


@dataclass
class Entry:
    """One session of the reference server."""

    listeners: list[socket.socket]
    said_hello: threading.Event = field(default_factory=threading.Event)
    prod_listeners: list[str] = field(default_factory=list)
    remote_listeners: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in self.listeners]


class ReferenceServer:
    """Serves between entry and exit.

    Parameters
    ----------
    early_hellos : int
        REQ is registered only after so many HELLOs came too early, as over a long path.
    """

    def __init__(self, certificate: Path, private_key: Path, *, early_hellos: int = 0) -> None:
        self._early = threading.Semaphore(0)
        self._early_wanted = early_hellos
        self.calls: list[str] = []
        self.refused_hellos = 0
        self.entries: dict[str, Entry] = {}
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ending = False
        self._server = grpc.server(ThreadPoolExecutor(10))
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(getattr(self, f"_{name}"))
            for name in ("req", "hello", "update", "release")
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("scistream.Control", handlers),)
        )
        credentials = grpc.ssl_server_credentials([(private_key.read_bytes(), certificate.read_bytes())])
        self.address = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', credentials)}"

    def __enter__(self) -> ReferenceServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for entry in tuple(self.entries.values()):
            entry.said_hello.set()
            for listener in entry.listeners:
                close(listener)
        for connection in self._open:
            close(connection)
        self._server.stop(0).wait()
        for thread in self._threads:
            thread.join(REQ_LIMIT_S)

    # --- the calls ---------------------------------------------------------------------------------------

    def _req(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        self.calls.append("req")
        fields = read_known(message)
        for _number in range(self._early_wanted):
            assert self._early.acquire(timeout=REQ_LIMIT_S)
        count = fields.get(3, [0])[0]
        entry = Entry([socket.create_server(("127.0.0.1", 0)) for _number in range(count)])
        self.entries[fields[1][0]] = entry
        if not entry.said_hello.wait(REQ_LIMIT_S) or self._ending:
            raise TimeoutError("no hello")
        return text_field(1, *entry.names()) + text_field(2, *entry.prod_listeners)

    def _hello(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        self.calls.append("hello")
        fields = read_known(message)
        try:
            entry = self._entry(fields)
        except KeyError:
            self.refused_hellos += 1
            self._early.release()
            raise
        entry.prod_listeners = fields.get(2, [])
        entry.said_hello.set()
        return text_field(1, "Sending listeners") + text_field(2, *entry.names())

    def _update(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        self.calls.append("update")
        fields = read_known(message)
        entry = self._entry(fields)
        entry.remote_listeners = fields.get(2, [])
        for number, listener in enumerate(entry.listeners):
            self._thread(self._serve, listener, entry.remote_listeners[number % len(entry.remote_listeners)])
        return text_field(1, *entry.names())

    def _release(self, message: bytes, _: grpc.ServicerContext) -> bytes:
        self.calls.append("release")
        entry = self._entry(read_known(message))
        for listener in entry.listeners:
            close(listener)
        del self.entries[read_known(message)[1][0]]
        return b""

    def _entry(self, fields: dict[int, list[Any]]) -> Entry:
        try:
            return self.entries[fields[1][0]]
        except KeyError:
            raise KeyError("entry not found") from None

    # --- the relay ---------------------------------------------------------------------------------------

    def _thread(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, listener: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        with contextlib.suppress(OSError):
            while True:
                near, _address = listener.accept()
                self._open.append(near)
                far = socket.create_connection((host, int(port)), REQ_LIMIT_S)
                self._open.append(far)
                self._thread(pump, near, far)
                self._thread(pump, far, near)


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def close(sock: socket.socket) -> None:
    """Close, and wake up who waits in it."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@contextlib.contextmanager
def reference_servers(
    certificate: Path, private_key: Path, count: int, *, early_hellos: int = 0
) -> Iterator[list[ReferenceServer]]:
    """Several reference servers, stopped at the end."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(ReferenceServer(certificate, private_key, early_hellos=early_hellos))
            for _ in range(count)
        ]
