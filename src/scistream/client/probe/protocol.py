"""What two probe ends say to each other over a TCP connection.

The near end greets, the far end answers with a greeting of its own; until then neither sends anything else,
so that an application which is met by mistake sees one line at most. Then frames of 20 bytes: a name of four
letters and two unsigned numbers of 64 bits, big-endian.

====  =====================================  ==========================================================
PING  a number                               the far end answers with PONG and the same number
ECHO  how many bytes follow                  the far end answers with the same, once it has them all
SEND  for how many milliseconds              bytes follow from the far end, until the connection is closed
TAKE  for how many milliseconds              bytes follow from the near end, until the connection is closed
TOOK  bytes taken, nanoseconds since TAKE    the far end's reports meanwhile
QUIT  bits/s to the near end, to the far     the probe is over; the far end answers with the same
====  =====================================  ==========================================================

A connection that carries bytes ends with a reset: what is still under way, which can be much in the buffers
of two gateways, is thrown away. Thus a probe ends in time however slow the path is.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from scistream.errors import PeerError

NEAR_GREETING = b"scistream-probe/1 hello\n"
FAR_GREETING = b"scistream-probe/1 ready\n"
GREETING_TIMEOUT_S = 5.0

#: The longest time that bytes are sent or taken for.
MAX_SECONDS = 600.0

#: The longest message that is echoed.
MAX_ECHO_BYTES = 1 << 24

#: How often what has arrived is reported.
REPORT_INTERVAL_S = 0.05

# Large enough that the interpreter is not what limits: at 10 Gb/s some thousand calls in a second.
_CHUNK_BYTES = 1 << 18

_FRAME = struct.Struct("!4sQQ")
FRAME_BYTES = _FRAME.size
_LINGER_NOT = struct.pack("ii", 1, 0)


class NotAProbe(PeerError):
    """What answers is not a probe end. It has been sent nothing more than a greeting."""


class Kind(Enum):
    """What a frame says."""

    PING = b"PING"
    PONG = b"PONG"
    ECHO = b"ECHO"
    SEND = b"SEND"
    TAKE = b"TAKE"
    TOOK = b"TOOK"
    QUIT = b"QUIT"


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; what its numbers mean depends on `kind`."""

    kind: Kind
    first: int = 0
    second: int = 0

    def send(self, stream: socket.socket, payload: bytes = b"") -> None:
        """Send it, and what follows it."""
        stream.sendall(_FRAME.pack(self.kind.value, self.first, self.second) + payload)


def receive_frame(stream: socket.socket) -> Frame:
    """Return the next frame.

    Raises
    ------
    NotAProbe
        What comes is no frame.
    OSError
        The connection has ended, or nothing comes within its timeout.
    """
    received = receive_payload(stream, FRAME_BYTES)
    name, first, second = _FRAME.unpack(received)
    try:
        return Frame(Kind(name), first, second)
    except ValueError as error:
        raise NotAProbe(f"{received!r} is no message of a probe") from error


def receive_payload(stream: socket.socket, count: int) -> bytes:
    """Return so many bytes.

    Raises
    ------
    OSError
        The connection has ended, or nothing comes within its timeout.
    """
    received = bytearray()
    while len(received) < count:
        part = stream.recv(min(_CHUNK_BYTES, count - len(received)))
        if not part:
            raise ConnectionAbortedError("the connection was closed")
        received += part
    return bytes(received)


def expect_greeting(stream: socket.socket, greeting: bytes, deadline_s: float) -> bool:
    """Read the other end's `greeting`, up to the first byte that is another one.

    Parameters
    ----------
    deadline_s : float
        On the monotonic clock.

    Returns
    -------
    bool
        False if the connection was closed and nothing had come.

    Raises
    ------
    NotAProbe
        Something else comes.
    TimeoutError
        It does not come in time.
    OSError
        The connection fails.
    """
    received = b""
    while len(received) < len(greeting):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no greeting, only {received!r}" if received else "nothing came")
        stream.settimeout(left_s)
        part = stream.recv(len(greeting) - len(received))
        if not part and not received:
            return False
        received += part
        if not part or not greeting.startswith(received):
            raise NotAProbe(f"{received!r} is not the greeting of a probe of this version")
    return True


def send_bytes(stream: socket.socket, deadline_s: float) -> None:
    """Send bytes as fast as they go, until `deadline_s` (monotonic clock).

    On a slow path the clock is looked at as often as the timeout of `stream` says.

    Raises
    ------
    OSError
        The connection has ended.
    """
    chunk = bytes(_CHUNK_BYTES)
    while time.monotonic() < deadline_s:
        try:
            stream.send(chunk)
        except TimeoutError:  # no room yet
            continue


def take_bytes(stream: socket.socket, deadline_s: float, report: Callable[[int, int], None]) -> None:
    """Receive bytes until `deadline_s` (monotonic clock), or until the connection is closed.

    `report` is called every `REPORT_INTERVAL_S`, whether bytes come or not, with their number and the
    nanoseconds since the start.

    Raises
    ------
    OSError
        The connection has ended.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    stream.settimeout(REPORT_INTERVAL_S)
    interval_ns = int(REPORT_INTERVAL_S * 1e9)
    start_ns = reported_ns = time.monotonic_ns()
    total = 0
    while time.monotonic() < deadline_s:
        try:
            count = stream.recv_into(buffer)
            if count == 0:
                return
            total += count
        except TimeoutError:  # that nothing comes is reported, too
            pass
        now_ns = time.monotonic_ns()
        if now_ns - reported_ns >= interval_ns:
            report(total, now_ns - start_ns)
            reported_ns = now_ns


def prepare(stream: socket.socket) -> None:
    """Let small messages go at once."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def throw_away_when_closed(stream: socket.socket) -> None:
    """End the connection with a reset when it is closed, and drop what has not been sent."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
