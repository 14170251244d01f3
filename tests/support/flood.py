"""Many connections that are never idle, in a process of their own: they take no time of the test's."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from scistream.core.endpoint import Endpoint

TESTS = Path(__file__).resolve().parents[1]
_CHUNK = bytes(1 << 20)


@contextlib.contextmanager
def flooding(connections: int, opened: Callable[[Endpoint], Endpoint]) -> Iterator[None]:
    """Send as fast as it goes on so many connections, and take it all, while the block runs.

    `opened` gets the address of the flood's own sink, and returns where a way to it begins.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "support.flood", str(connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            way = opened(Endpoint("127.0.0.1", int(process.stdout.readline())))
            print(way.host, way.port, file=process.stdin, flush=True)
            assert process.stdout.readline() == "all carry\n"
            yield
        finally:
            process.stdin.close()  # which ends it
    assert process.returncode == 0


def _main(connections: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=connections)
    print(listener.getsockname()[1], flush=True)
    host, port = sys.stdin.readline().split()
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for _ in range(connections):
        sender = socket.create_connection((host, int(port)))
        sender.setblocking(False)
        selector.register(sender, selectors.EVENT_WRITE)
    for _ in range(connections):
        sink, _ = listener.accept()
        sink.setblocking(False)
        selector.register(sink, selectors.EVENT_READ)
    silent = connections
    heard: set[int] = set()
    buffer = bytearray(1 << 20)
    while True:
        for key, events in selector.select():
            if key.fileobj is sys.stdin:
                return
            assert isinstance(key.fileobj, socket.socket)
            if events & selectors.EVENT_WRITE:
                key.fileobj.send(_CHUNK)
            elif key.fileobj.recv_into(buffer) and key.fd not in heard:
                heard.add(key.fd)
                silent -= 1
                if not silent:
                    print("all carry", flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
