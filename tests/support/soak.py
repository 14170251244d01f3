"""Hundreds of connections through a session, each checked byte by byte at both ends.

Every stream is the key stream of AES in counter mode, so that no part of it repeats: a byte that is wrong,
missing, doubled or another connection's is noticed where it arrives. A stream may look complete only if its
sender has ended it; one that nobody has cut may not break.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from scistream.core.endpoint import Endpoint
from scistream.dataserver import ChannelStatistics
from support.soak_plan import HEADER_BYTES, Cut, Order, Plan, Way, draw

HANG_S = 60.0
"""A connection that moves no byte for so long hangs."""
_ZEROS = bytes(1 << 20)
_HEADER = struct.Struct(">I")
_TCP_CLOSE = 7  # linux/tcp_states.h
_BREAKS = (ConnectionResetError, BrokenPipeError)


class Fault(AssertionError):
    """A gateway did what it must not do."""


class CutHereError(Exception):
    """The plan says that this end cuts the connection now."""


def key_stream(seed: str, number: int, way: str) -> Cipher[CTR]:
    key = hashlib.sha256(f"{seed}/{number}/{way}".encode()).digest()
    return Cipher(AES(key[:16]), CTR(key[16:])).encryptor()


@dataclass
class Counts:
    """What the ends of a channel's connections have sent and received, headers included."""

    connections: int = 0
    sent_there: int = 0
    received_there: int = 0
    sent_back: int = 0
    received_back: int = 0


@dataclass(eq=False)
class End:
    """One end of one connection: sends one way, receives and checks the other."""

    load: Load
    plan: Plan
    sock: socket.socket
    is_client: bool
    other: End | None = None
    sent: int = 0
    received: int = 0
    has_ended: bool = False
    hears_end: asyncio.Event = field(default_factory=asyncio.Event)
    said_all: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cuts(self) -> Cut | None:
        return self.plan.cut if self.plan.cut_by_client is self.is_client else None

    async def run(self) -> None:
        """Do this end's part; return when the connection has ended, or was cut, as it may."""
        tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        try:
            await self._unless_it_hangs(asyncio.gather(*tasks))
        except CutHereError:
            pass
        except _BREAKS as broken:
            if self.plan.cut is None and not self.load.may_be_cut:
                raise self.fault(f"nobody has cut it, and it breaks: {broken!r}") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.cuts is Cut.RESET:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    async def _unless_it_hangs(self, work: asyncio.Future[list[None]]) -> None:
        moved = -1
        while not (await asyncio.wait([work], timeout=HANG_S))[0]:
            before, moved = moved, self.moved + (self.other.moved if self.other else 0)
            if moved == before:
                raise self.fault("hangs")
        work.result()

    @property
    def moved(self) -> int:
        return self.sent + self.received

    def fault(self, what: str) -> Fault:
        sides = ("client", "application") if self.is_client else ("application", "client")
        ends = (f"{side} {end}" for side, end in zip(sides, (self, self.other), strict=True))
        return Fault(f"{what}; {', '.join(ends)}; {self.plan}")

    def __str__(self) -> str:
        ended = ", has ended" if self.has_ended else ""
        return f"has sent {self.sent} and received {self.received}{ended}"

    async def _send(self) -> None:
        plan, loop = self.plan, asyncio.get_running_loop()
        way, name = (plan.there, "there") if self.is_client else (plan.back, "back")
        head = _HEADER.pack(plan.number) if self.is_client else b""
        total = way.length + len(head)
        stop = plan.cut_after if self.cuts is Cut.RESET and plan.cut_while_sending else None
        if head and stop != 0:
            first = head if stop is None else head[:stop]
            await loop.sock_sendall(self.sock, first)
            self.sent += len(first)
        if plan.order is (Order.ANSWER_FIRST if self.is_client else Order.QUESTION_FIRST):
            if stop is not None and stop <= self.sent:
                raise CutHereError
            await self.hears_end.wait()
        keys = key_stream(self.load.seed, plan.number, name)
        until = total if stop is None else stop
        while self.sent < until:
            piece = keys.update(_ZEROS[: min(way.write_bytes, until - self.sent)])
            await loop.sock_sendall(self.sock, piece)
            self.sent += len(piece)
            await asyncio.sleep(way.write_pause_s)
        if stop is not None:
            raise CutHereError
        self.has_ended = True
        with contextlib.suppress(OSError):  # it is broken already, which whoever receives is told
            self.sock.shutdown(socket.SHUT_WR)
        self.said_all.set()

    async def _receive(self) -> None:
        plan, loop = self.plan, asyncio.get_running_loop()
        way, name = (plan.back, "back") if self.is_client else (plan.there, "there")
        stop = plan.cut_after if self.cuts and not plan.cut_while_sending else None
        keys = key_stream(self.load.seed, plan.number, name)
        buffer = memoryview(bytearray(way.read_bytes))
        got = 0
        await asyncio.sleep(way.stall_s)
        while stop is None or got < stop:
            count = await loop.sock_recv_into(self.sock, buffer if stop is None else buffer[: stop - got])
            if not count:
                if self._was_reset():
                    raise ConnectionResetError("of which sending was told")
                self._check_end(way, got)
                self.hears_end.set()
                if stop is None:
                    return
                break
            if keys.update(buffer[:count]) != _ZEROS[:count]:
                raise self.fault(f"wrong bytes between {got} and {got + count}")
            got += count
            self.received += count
            await asyncio.sleep(way.read_pause_s)
        if plan.cut is Cut.LEAVE:
            await self.said_all.wait()
        raise CutHereError

    def _was_reset(self) -> bool:
        """Whether the end is a reset's: the kernel tells of it once, and sending may have heard it first."""
        state = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return not self.has_ended and state == _TCP_CLOSE

    def _check_end(self, way: Way, got: int) -> None:
        other = self.other
        if got != way.length or other is None or not other.has_ended:
            raise self.fault(f"looks complete after {got} of {way.length} bytes")


class Load:
    """Connections to the listeners of one session, whose target is this load's own application.

    Channel 0 has connections that nobody cuts only, so that its statistics have to be exact.

    Parameters
    ----------
    channels : int
        Of the session.
    may_be_cut : bool
        The session may be released at any time.
    """

    def __init__(self, seed: str, channels: int, *, may_be_cut: bool = False) -> None:
        self.seed = seed
        self.may_be_cut = may_be_cut
        self.counts = [Counts() for _ in range(channels)]
        self.faults: list[BaseException] = []
        self.open = 0
        self.most_open = 0
        self.cut = 0
        self.silent = 0
        self.heard_nothing = 0
        self._stopping = False
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[End, asyncio.Future[None]]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(channels)]
        for listener in self._listeners:
            listener.setblocking(False)
        self._accepting = [
            asyncio.create_task(self._accept(listener, counts))
            for listener, counts in zip(self._listeners, self.counts, strict=True)
        ]

    @property
    def targets(self) -> list[Endpoint]:
        """Where the application listens, one for each channel."""
        return [Endpoint("127.0.0.1", one.getsockname()[1]) for one in self._listeners]

    async def run(self, listeners: Sequence[Endpoint], connections: int, seconds: float) -> None:
        """Keep so many connections open for some time; return when all have ended."""
        deadline = asyncio.get_running_loop().time() + seconds

        async def one_after_the_other(channel: int) -> None:
            while asyncio.get_running_loop().time() < deadline and not (self.faults or self._stopping):
                await self._guarded(self._connect(listeners[channel], channel))

        await asyncio.gather(*(one_after_the_other(index % len(listeners)) for index in range(connections)))
        if self._answering:
            _, hanging = await asyncio.wait(set(self._answering), timeout=2 * HANG_S)
            if hanging:
                self.faults.append(Fault(f"{len(hanging)} connections of which no client knows do not end"))

    def stop(self) -> None:
        """Let `run` open no more connections."""
        self._stopping = True

    async def close(self) -> None:
        """End the application."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    async def _guarded(self, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except (OSError, AssertionError, TimeoutError) as error:
            self.faults.append(error)

    async def _connect(self, listener: Endpoint, channel: int) -> None:
        """Be the client of one connection."""
        loop, counts = asyncio.get_running_loop(), self.counts[channel]
        plan = draw(self.seed, next(self._numbers), finishing=channel == 0)
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, (listener.host, listener.port))
        except OSError as error:
            sock.close()
            if self.may_be_cut:
                return
            raise Fault(f"no connection to {listener}: {error!r}; {plan}") from error
        counts.connections += 1
        if plan.silent:
            self.silent += 1
            sock.close()
            return
        end = End(self, plan, sock, is_client=True)
        answered: asyncio.Future[None] = loop.create_future()
        self._waiting[plan.number] = end, answered
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.cut += plan.cut is not None
        try:
            await end.run()
            if plan.cut is None and not self.may_be_cut:
                await answered
        finally:
            self.open -= 1
            counts.sent_there += end.sent
            counts.received_back += end.received

    async def _accept(self, listener: socket.socket, counts: Counts) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            task = loop.create_task(self._guarded(self._answer(sock, counts)))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, sock: socket.socket, counts: Counts) -> None:
        """Be the application of one connection."""
        with sock:
            header = await self._header(sock, counts)
            if header is None:
                return
            (number,) = _HEADER.unpack(header)
            if number not in self._waiting:
                raise Fault(f"no client has said {number}")
            client, answered = self._waiting.pop(number)
            end = End(self, client.plan, sock, is_client=False, other=client)
            client.other = end
            try:
                await end.run()
            finally:
                answered.set_result(None)
                counts.sent_back += end.sent
                counts.received_there += end.received + HEADER_BYTES

    async def _header(self, sock: socket.socket, counts: Counts) -> bytes | None:
        """Return what a client says first; None if it says nothing, or is cut before."""
        header = b""
        with contextlib.suppress(*_BREAKS):
            while len(header) < HEADER_BYTES:
                part = await asyncio.get_running_loop().sock_recv(sock, HEADER_BYTES - len(header))
                if not part:
                    if header:
                        raise Fault(f"looks complete after {len(header)} bytes of the header")
                    self.heard_nothing += 1
                    return None
                header += part
            return header
        counts.received_there += len(header)
        return None


def check_counts(
    counts: Counts, consumer: ChannelStatistics, producer: ChannelStatistics, *, exact: bool
) -> None:
    """Compare both gateways' statistics of a channel with what its ends have counted.

    A gateway counts what it has written; of a connection that was cut, that may not have arrived.
    """
    assert consumer.connections_open == producer.connections_open == 0
    assert consumer.connections_total == counts.connections
    there = [counts.sent_there, consumer.bytes_to_target, producer.bytes_to_target, counts.received_there]
    back = [counts.sent_back, producer.bytes_from_target, consumer.bytes_from_target, counts.received_back]
    for figures in (there, back):
        assert figures == sorted(figures, reverse=True), "a byte arrived that was not sent, or not counted"
        if exact:
            assert len(set(figures)) == 1, figures
    if exact:
        assert producer.connections_total == counts.connections
        assert consumer.connections_failed == producer.connections_failed == 0
