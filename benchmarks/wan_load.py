"""The two applications at the ends of a long path: a producer that sends all it can, a consumer that counts.

Neither sets anything on its sockets, unless buffers are wanted: what they reach is what a program reaches
that was written without a thought of long paths.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from wan_line import die_with_parent

_CHUNK_BYTES = 1 << 20
_DISCARD_BYTES = 4 << 20
_GO = b"G"


class Producer:
    """A process that sends to whoever connects to it and says go, until it is left.

    Parameters
    ----------
    host : str
        Where it listens, at any port.
    buffer_bytes : int or None
        Of its sockets.
    """

    def __init__(self, host: str, buffer_bytes: int | None) -> None:
        with socket.socket() as listener:
            _set_buffers(listener, buffer_bytes)
            listener.bind((host, 0))
            listener.listen()
            self.address: tuple[str, int] = listener.getsockname()
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    die_with_parent()
                    _serve(listener)
                finally:
                    os._exit(1)

    def close(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _serve(listener: socket.socket) -> None:
    source = os.memfd_create("data")
    os.truncate(source, _CHUNK_BYTES)
    while True:
        sock, _ = listener.accept()
        with sock:
            try:
                if sock.recv(1) == _GO:
                    while True:
                        os.sendfile(sock.fileno(), source, 0, _CHUNK_BYTES)
            except OSError:
                continue  # it has been left


def received_gbps(
    address: tuple[str, int], buffer_bytes: int | None, warm_up_s: float, duration_s: float
) -> float:
    """Connect, receive for some time, leave; return the rate after the warm-up, in Gb/s.

    Raises
    ------
    OSError
        Nothing came for 10 s, or the connection was lost.
    """
    buffer = bytearray(_DISCARD_BYTES)
    with socket.socket() as sock:
        _set_buffers(sock, buffer_bytes)
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(_GO)
        begins = time.monotonic() + warm_up_s
        began, received = 0.0, 0
        while True:
            count = sock.recv_into(buffer, _DISCARD_BYTES, socket.MSG_TRUNC)
            now = time.monotonic()
            if not count:
                raise ConnectionError("the producer's stream has ended")
            if began:
                received += count
                if now - began >= duration_s:
                    return received * 8 / (now - began) / 1e9
            elif now >= begins:
                began = now


def _set_buffers(sock: socket.socket, size: int | None) -> None:
    if size is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
