"""Control messages between the backend, the supervisor and its workers: JSON objects that carry descriptors.

They travel over Unix SOCK_SEQPACKET sockets. A packet cannot hold everything: the kernel passes at most 253
descriptors with one (SCM_MAX_FD) and wants it to fit the socket's buffer. So a message is cut into packets,
each beginning with one byte that says whether it is the message's last, and is put together again here.
Messages may hold session keys: nothing in this module logs or shows what they contain.

What the messages say is not decided here: see `tree` and `backend` (who ask), `supervisor` and `worker`.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scistream.errors import DataServerError

MAX_PACKET_DESCRIPTORS = 250
MAX_PACKET_BYTES = 32 * 1024
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_MESSAGE_DESCRIPTORS = 16 * 1024
MAX_QUEUED_PACKETS = 16 * 1024

_MORE, _LAST = b"\x00", b"\x01"
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_PACKET_DESCRIPTORS * array.array("i").itemsize)

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram: what it carries, and the descriptors that go with it."""

    data: bytes = field(repr=False)
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One JSON object and its descriptors; whoever receives it owns the descriptors."""

    body: Body = field(repr=False)
    descriptors: tuple[int, ...] = ()


def packets_of(body: Body, descriptors: Sequence[int] = ()) -> Iterator[Packet]:
    """Cut a message into packets, in sending order.

    Raises
    ------
    DataServerError
        The message is larger than a receiver accepts.
    """
    data = json.dumps(body, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES or len(descriptors) > MAX_MESSAGE_DESCRIPTORS:
        raise DataServerError(
            f"control message of {len(data)} bytes with {len(descriptors)} descriptors is larger than "
            f"{MAX_MESSAGE_BYTES} bytes with {MAX_MESSAGE_DESCRIPTORS}; use fewer channels in one session"
        )
    while True:
        chunk, data = data[:MAX_PACKET_BYTES], data[MAX_PACKET_BYTES:]
        attached = tuple(descriptors[:MAX_PACKET_DESCRIPTORS])
        descriptors = descriptors[MAX_PACKET_DESCRIPTORS:]
        last = not data and not descriptors
        yield Packet((_LAST if last else _MORE) + chunk, attached)
        if last:
            return


class Assembler:
    """Packets in, messages out. After an error it holds nothing and the connection is of no more use."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._descriptors: list[int] = []

    def feed(self, packet: Packet) -> Message | None:
        """Take the next packet; return the message if this was its last one.

        Raises
        ------
        DataServerError
            The packets are no message; descriptors received with them have been closed.
        """
        self._descriptors.extend(packet.descriptors)
        mark, chunk = packet.data[:1], packet.data[1:]
        self._data += chunk
        if (
            mark not in {_MORE, _LAST}
            or len(self._data) > MAX_MESSAGE_BYTES
            or len(self._descriptors) > MAX_MESSAGE_DESCRIPTORS
        ):
            self.discard()
            raise DataServerError("a control packet is malformed or its message too large")
        if mark == _MORE:
            return None
        try:
            body = json.loads(bytes(self._data))
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self.discard()
            # without "from": the parser's error quotes the message
            raise DataServerError("a control message is not a JSON object") from None
        message = Message(body, tuple(self._descriptors))
        self._data.clear()
        self._descriptors.clear()
        return message

    def discard(self) -> None:
        """Forget an unfinished message and close its descriptors."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._data.clear()


class MessageSocket:
    """Non-blocking messages over a SOCK_SEQPACKET socket, for any event loop.

    The owner calls `receive` when the socket is readable and `flush` when it is writable while `unsent`.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._assembler = Assembler()
        self._queue: deque[Packet] = deque()
        self.ended = False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """How many packets wait for the socket to become writable."""
        return len(self._queue)

    def send(self, body: Body, descriptors: Sequence[int] = ()) -> None:
        """Send now or queue; the caller keeps `descriptors` and may close them on return.

        Raises
        ------
        DataServerError
            The receiver has stopped reading, or the message is too large.
        """
        for packet in packets_of(body, descriptors):
            if not self._queue and self._try_send(packet):
                continue
            if len(self._queue) >= MAX_QUEUED_PACKETS:
                raise DataServerError(
                    f"{len(self._queue)} control packets wait: their receiver does not read"
                )
            duplicates = tuple(os.dup(descriptor) for descriptor in packet.descriptors)
            self._queue.append(Packet(packet.data, duplicates))

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        while self._queue and self._try_send(self._queue[0]):
            for descriptor in self._queue.popleft().descriptors:
                os.close(descriptor)

    def _try_send(self, packet: Packet) -> bool:
        ancillary = []
        if packet.descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", packet.descriptors))]
        try:
            self._socket.sendmsg([packet.data], ancillary)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            self.ended = True
        return True

    def receive(self) -> list[Message]:
        """Return the messages that are complete; sets `ended` when the other end is gone.

        Raises
        ------
        DataServerError
            The other end sends nonsense, or descriptors were lost because this process may have no more.
        """
        messages: list[Message] = []
        while not self.ended:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    MAX_PACKET_BYTES + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except ConnectionResetError:
                data, ancillary, flags = b"", [], 0
            if not data:
                self.ended = True
                break
            descriptors = array.array("i")
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
            message = self._assembler.feed(Packet(data, tuple(descriptors)))
            if flags & socket.MSG_CTRUNC:
                self._assembler.discard()
                for descriptor in message.descriptors if message else ():
                    os.close(descriptor)
                raise DataServerError("descriptors were lost: the limit of open files (ulimit -n) is too low")
            if message is not None:
                messages.append(message)
        return messages

    def close(self) -> None:
        """Close the socket and every descriptor that is still queued or half received."""
        for packet in self._queue:
            for descriptor in packet.descriptors:
                os.close(descriptor)
        self._queue.clear()
        self._assembler.discard()
        self._socket.close()
        self.ended = True
