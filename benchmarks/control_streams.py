"""Applications and running streams, each in a process of its own, for the control plane's benchmark."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import Sequence

from control_load import UID_BYTES

from scistream.bench.load import CHUNK_BYTES
from scistream.bench.sink import DISCARD, Sink, connect

_COUNT_BYTES = 8
_LIMIT_S = 30


class Applications:
    """A process with `count` producer applications; each answers with its number and what it has received."""

    def __init__(self, count: int) -> None:
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(count)]
        self.addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        self._pid = os.fork()
        if self._pid == 0:
            try:
                asyncio.run(_answer(listeners))
            finally:
                os._exit(1)
        for listener in listeners:
            listener.close()

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


async def _answer(listeners: list[socket.socket]) -> None:
    for number, listener in enumerate(listeners):

        async def one(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int = number
        ) -> None:
            try:
                writer.write(bytes([number]) + await reader.readexactly(UID_BYTES))
                await writer.drain()
                await reader.read()
            except (OSError, asyncio.IncompleteReadError):
                pass  # the session was released, or never got so far
            finally:
                writer.close()

        await asyncio.start_server(one, sock=listener)
    await asyncio.Event().wait()


class Streams:
    """A process that sends to `ports` until it is closed, and checks that the sink has got every byte.

    Parameters
    ----------
    sink : Sink
        The producer side's application behind all of them.
    rate_gbps : float
        What each sends at most; 0: as fast as it goes.
    """

    def __init__(self, sink: Sink, ports: Sequence[int], rate_gbps: float) -> None:
        self._sink = sink
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                code = _send(ports, rate_gbps)
            finally:
                os._exit(code)

    def rate(self) -> Rate:
        """Begin to measure."""
        return Rate(self._sink)

    def close(self) -> None:
        """End the streams.

        Raises
        ------
        RuntimeError
            One was broken, or the sink has got other bytes than were sent.
        """
        os.kill(self._pid, signal.SIGTERM)
        _, status = os.waitpid(self._pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise RuntimeError("a stream has lost bytes, or was broken")


class Rate:
    """Throughput from now on."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._began, self._base = time.perf_counter(), sink.received

    def gbps(self) -> float:
        """Return it, in Gb/s."""
        return (self._sink.received - self._base) * 8 / (time.perf_counter() - self._began) / 1e9

    def over(self, seconds: float) -> float:
        """Return it after so long."""
        time.sleep(seconds)
        return self.gbps()


def _send(ports: Sequence[int], rate_gbps: float) -> int:
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: ending.append(signum))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = os.memfd_create("stream")
    os.truncate(source, CHUNK_BYTES)
    epoll = select.epoll()
    socks: dict[int, socket.socket] = {}
    sent: dict[int, int] = {}
    for port in ports:
        sock = connect(port)
        sock.sendall(DISCARD)
        if rate_gbps:
            sock.setsockopt(socket.SOL_SOCKET, 47, int(rate_gbps * 1e9 / 8))  # SO_MAX_PACING_RATE
        socks[sock.fileno()] = sock
        sent[sock.fileno()] = 0
    time.sleep(0.05)  # the first byte must be read alone
    for sock in socks.values():
        sock.setblocking(False)
        epoll.register(sock.fileno(), select.EPOLLOUT)
    while not ending:
        for descriptor, _ in epoll.poll(0.2):
            sent[descriptor] += os.sendfile(descriptor, source, 0, CHUNK_BYTES)
    for descriptor, sock in socks.items():
        sock.settimeout(_LIMIT_S)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while len(answer) < _COUNT_BYTES and (more := sock.recv(_COUNT_BYTES)):
            answer += more
        if int.from_bytes(answer, "little") != sent[descriptor]:
            return 1
    return 0
