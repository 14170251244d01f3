"""The far end of a relay on this host: it discards, echoes or leaves what it gets.

It is for relays that this process has started, on loopback; it trusts whoever connects. Through a real
session the far end is `scistream.client.probe.FarEnd`.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct

from scistream.bench.processes import end_with_parent

DISCARD, ECHO, STALL = b"D", b"E", b"S"
COUNT = struct.Struct("<Q")
"""How many bytes of a discarded stream have arrived: the sink's last word."""
_DROP = b"X"
_SINK_BYTES = 4 << 20


def tune(sock: socket.socket) -> None:
    """Cubic, as BBR's pacing limits every loopback figure; no delay."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def connect(port: int, send_buffer_bytes: int | None = None) -> socket.socket:
    """Return a connection to a relay, or to the sink itself."""
    sock = socket.socket()
    try:
        tune(sock)
        if send_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def cut(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Sink:
    """A process that discards, echoes or leaves what it gets, as each connection's first byte says.

    Parameters
    ----------
    core : int or None
        Where it runs; None: anywhere.
    """

    def __init__(self, core: int | None) -> None:
        self._counter = mmap.mmap(-1, COUNT.size)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        tune(listener)
        self.port: int = listener.getsockname()[1]
        self._pid = os.fork()
        if self._pid == 0:
            try:
                end_with_parent()
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if core is not None:
                    os.sched_setaffinity(0, {core})
                self._serve(listener)
            finally:
                os._exit(1)
        listener.close()

    @property
    def received(self) -> int:
        """All bytes discarded so far."""
        return int(COUNT.unpack_from(self._counter)[0])

    def drop_stalled(self) -> None:
        """Cut the connections that it leaves unread."""
        with connect(self.port) as sock:
            sock.sendall(_DROP)
            sock.recv(1)

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _serve(self, listener: socket.socket) -> None:
        epoll = select.epoll()
        epoll.register(listener.fileno(), select.EPOLLIN)
        buffer = bytearray(_SINK_BYTES)
        connections: dict[int, socket.socket] = {}
        counts: dict[int, int] = {}  # of the discarding ones
        stalled: list[socket.socket] = []
        total = 0
        while True:
            for descriptor, _ in epoll.poll():
                sock = connections.get(descriptor)
                if sock is None:
                    accepted, _ = listener.accept()
                    connections[accepted.fileno()] = accepted
                    epoll.register(accepted.fileno(), select.EPOLLIN)
                    continue
                try:
                    if descriptor not in counts:
                        count = sock.recv_into(buffer, 65536)
                        if buffer[:1] == DISCARD and count:
                            counts[descriptor] = count - 1
                            continue
                        if buffer[:1] == STALL and count:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the smallest there is
                            sock.sendall(STALL)
                            epoll.unregister(descriptor)
                            stalled.append(connections.pop(descriptor))
                            continue
                        if buffer[:1] == _DROP and count:
                            while stalled:
                                cut(stalled.pop())
                            sock.sendall(_DROP)
                            continue
                        if count:
                            sock.sendall(memoryview(buffer)[:count])
                            continue
                    else:
                        count = sock.recv_into(buffer, _SINK_BYTES, socket.MSG_TRUNC)
                        if count:
                            counts[descriptor] += count
                            total += count
                            COUNT.pack_into(self._counter, 0, total)
                            continue
                        sock.sendall(COUNT.pack(counts.pop(descriptor)))
                except OSError:
                    counts.pop(descriptor, None)
                epoll.unregister(descriptor)
                connections.pop(descriptor).close()
