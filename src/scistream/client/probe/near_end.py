"""The near end of a probe: it connects to a session's listeners, and measures what the session gives.

First round trips, on a connection of each channel; then each direction for itself, on all connections at
once. There are never more connections than that: gateways that keep a session to its rate share it among
them. What is counted is what has arrived. The first fifth of the time is not counted: congestion windows
and buffers fill in it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from scistream.client.probe.protocol import (
    FAR_GREETING,
    GREETING_TIMEOUT_S,
    MAX_SECONDS,
    NEAR_GREETING,
    Frame,
    Kind,
    NotAProbe,
    expect_greeting,
    prepare,
    receive_frame,
    send_bytes,
    take_bytes,
    throw_away_when_closed,
)
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, PeerError

MIN_SECONDS = 0.5
_SETTLING = 0.2
_PINGING = 0.2
ANSWER_TIMEOUT_S = 5.0
_TICK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """Round-trip times of small messages through an otherwise idle session, in milliseconds."""

    samples: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a session gives.

    Parameters
    ----------
    to_consumer_gbps, to_producer_gbps : float
        Throughput of all connections together, far end to near end and back, in 10^9 bits per second.
    round_trip : RoundTrip
        From the near end to the far end and back.
    connections : int
        How many carried it, over all channels.
    """

    to_consumer_gbps: float
    to_producer_gbps: float
    round_trip: RoundTrip
    connections: int


@dataclass(frozen=True, slots=True)
class Carried:
    """What has gone through in one direction: the rate once it was settled, and all bytes that arrived."""

    gbps: float
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a probe is.

    Parameters
    ----------
    what : str
        "round trip", "to consumer" or "to producer".
    elapsed_s, seconds : float
        Since this began, and how long it takes.
    gbps : float or None
        The mean rate up to now, where a rate is measured.
    """

    what: str
    elapsed_s: float
    seconds: float
    gbps: float | None = None


def measure(
    listeners: Sequence[Endpoint],
    *,
    connections: int = 1,
    seconds: float = 5.0,
    progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure what a session gives between here and the far ends at its targets.

    It takes a fifth of `seconds` for the round trips and `seconds` for each direction.

    Parameters
    ----------
    listeners : sequence of Endpoint
        Where the session's consumer application would connect; one per channel.
    connections : int
        For each channel.
    seconds : float
        For each direction: 0.5 to 600.
    progress : callable, optional
        Called some ten times in a second.

    Raises
    ------
    NotAProbe
        What answers is no far end, or nothing does. Nothing more than a greeting has been sent.
    PeerError
        A listener cannot be connected to, or a connection or the far end fails in between.
    ConfigurationError
        A value cannot be used.
    """
    if not listeners or connections < 1:
        raise ConfigurationError("a probe needs a listener at least, and a connection to each")
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ConfigurationError(
            f"seconds is {seconds}; it has to be a number from {MIN_SECONDS:g} to {MAX_SECONDS:g}"
        )
    show = progress or (lambda _: None)
    many = [listener for listener in listeners for _ in range(connections)]
    with greeted(listeners) as controls:
        round_trip = _ping(controls, seconds * _PINGING, show)
    to_consumer = carry(many, Kind.SEND, seconds, show).gbps
    to_producer = carry(many, Kind.TAKE, seconds, show).gbps
    farewell = Frame(Kind.QUIT, int(to_consumer * 1e9), int(to_producer * 1e9))
    with greeted(listeners) as controls:
        for control in controls:
            ask(control, farewell, Kind.QUIT)
    return Measurement(
        to_consumer_gbps=to_consumer,
        to_producer_gbps=to_producer,
        round_trip=round_trip,
        connections=len(many),
    )


@contextlib.contextmanager
def greeted(listeners: Sequence[Endpoint]) -> Iterator[list[socket.socket]]:
    """Connect to `listeners`, and return the connections when a far end has answered on each."""
    with contextlib.ExitStack() as stack:
        streams = []
        for listener in listeners:
            stream = stack.enter_context(_connect(listener))
            with failing_as(NotAProbe, f"{listener} closes the connection at once; {_START_FAR_END}"):
                stream.sendall(NEAR_GREETING)
            streams.append(stream)
        deadline_s = time.monotonic() + GREETING_TIMEOUT_S
        for listener, stream in zip(listeners, streams, strict=True):
            _expect_far_end(listener, stream, deadline_s)
        yield streams


def _connect(listener: Endpoint) -> socket.socket:
    try:
        stream = socket.create_connection((listener.host, listener.port), GREETING_TIMEOUT_S)
    except OSError as error:
        raise PeerError(
            f"listener {listener} cannot be connected to: {error.strerror or error}; check that the session "
            "is connected ('s2uc status'), and that its consumer's gateway can be reached from here"
        ) from error
    prepare(stream)
    return stream


_START_FAR_END = (
    "start 's2uc probe --serve HOST:PORT' at the session's target, in place of the application, and try again"
)


def _expect_far_end(listener: Endpoint, stream: socket.socket, deadline_s: float) -> None:
    behind = f"behind listener {listener}"
    only_greeting = f"nothing but a greeting of {len(NEAR_GREETING)} bytes was sent to it"
    try:
        answered = expect_greeting(stream, FAR_GREETING, deadline_s)
    except NotAProbe as error:
        raise NotAProbe(
            f"{behind} is no probe end but probably your application: {error}; {only_greeting}; "
            f"{_START_FAR_END}"
        ) from error
    except TimeoutError as error:
        raise NotAProbe(
            f"no probe end {behind} has answered within {GREETING_TIMEOUT_S:g} s ({error}): it is an "
            f"application, or nothing is there; {only_greeting}; {_START_FAR_END}"
        ) from error
    except OSError as error:
        raise NotAProbe(
            f"the connection to what is {behind} was cut ({error.strerror or error}); {only_greeting}; "
            f"{_START_FAR_END}"
        ) from error
    if not answered:
        raise NotAProbe(
            f"what is {behind} closed the connection without an answer: an application that does not know "
            f"probes, or nothing listens at the target; {only_greeting}; {_START_FAR_END}"
        )


def _ping(controls: Sequence[socket.socket], seconds: float, show: Callable[[Progress], None]) -> RoundTrip:
    """Send one message after the other, to each channel in turn."""
    times_ms: list[float] = []
    began_s = shown_s = time.monotonic()
    show(Progress(what="round trip", elapsed_s=0, seconds=seconds))
    while len(times_ms) < len(controls) or time.monotonic() - began_s < seconds:
        control = controls[len(times_ms) % len(controls)]
        sent_ns = time.perf_counter_ns()
        ask(control, Frame(Kind.PING, len(times_ms)), Kind.PONG)
        times_ms.append((time.perf_counter_ns() - sent_ns) / 1e6)
        if (now_s := time.monotonic()) - shown_s >= _TICK_S:
            show(Progress(what="round trip", elapsed_s=now_s - began_s, seconds=seconds))
            shown_s = now_s
    times_ms.sort()
    return RoundTrip(
        samples=len(times_ms),
        min_ms=times_ms[0],
        p50_ms=percentile(times_ms, 50),
        p90_ms=percentile(times_ms, 90),
        p99_ms=percentile(times_ms, 99),
        max_ms=times_ms[-1],
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the smallest of the sorted values that `percent` of them do not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)]


def ask(control: socket.socket, frame: Frame, kind: Kind) -> None:
    """Send `frame`, and expect an answer of `kind` with the same number."""
    with failing_as(PeerError, "the far end of the probe stopped answering; look at what it says"):
        control.settimeout(ANSWER_TIMEOUT_S)
        frame.send(control)
        answer = receive_frame(control)
    if (answer.kind, answer.first) != (kind, frame.first):
        raise PeerError(f"the far end of the probe answered {frame} with {answer}")


@contextlib.contextmanager
def failing_as(kind: type[PeerError], message: str) -> Iterator[None]:
    """Raise an OSError of the block as an error of this `kind`."""
    try:
        yield
    except OSError as error:
        raise kind(f"{message} ({error.strerror or error})") from error


class _Flow:
    """Bytes in one direction over one connection, carried by threads.

    `arrived` is how many bytes have arrived, and when: nanoseconds on the clock of who takes them.
    """

    def __init__(self, stream: socket.socket, direction: Kind, seconds: float) -> None:
        self.arrived = (0, 0)
        self._stream = stream
        self._deadline_s = time.monotonic() + seconds + ANSWER_TIMEOUT_S
        self._works = [self._take] if direction is Kind.SEND else [self._send, self._read_reports]
        self._order = Frame(direction, math.ceil(seconds * 1000))

    def start(self, failed: Callable[[Exception], None]) -> list[threading.Thread]:
        """Start the threads; they end when the connection is shut down."""

        def run(work: Callable[[], None]) -> None:
            try:
                work()
                raise ConnectionAbortedError("the connection was closed")
            except (OSError, PeerError) as error:
                failed(error)

        self._order.send(self._stream)
        self._stream.settimeout(None)  # which two threads share; shutting it down ends both
        threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in self._works]
        for thread in threads:
            thread.start()
        return threads

    def _take(self) -> None:
        take_bytes(self._stream, self._deadline_s, self._note)

    def _send(self) -> None:
        send_bytes(self._stream, self._deadline_s)

    def _read_reports(self) -> None:
        while True:
            report = receive_frame(self._stream)
            self._note(report.first, report.second)

    def _note(self, total: int, time_ns: int) -> None:
        self.arrived = total, time_ns


def carry(
    listeners: Sequence[Endpoint], direction: Kind, seconds: float, show: Callable[[Progress], None]
) -> Carried:
    """Let bytes flow for `seconds`: SEND from the far end, TAKE to it; over a connection to each listener.

    Raises
    ------
    PeerError
        A connection ends before, or nothing arrives.
    """
    what = "to consumer" if direction is Kind.SEND else "to producer"
    failures: list[Exception] = []
    failed = threading.Event()

    def fail(error: Exception) -> None:
        failures.append(error)
        failed.set()

    with greeted(listeners) as streams, contextlib.ExitStack() as stack:
        flows = [_Flow(stream, direction, seconds) for stream in streams]
        for stream, flow in zip(streams, flows, strict=True):
            throw_away_when_closed(stream)
            with failing_as(PeerError, f"{what}: a connection broke"):
                for thread in flow.start(fail):
                    stack.callback(thread.join)
            stack.callback(_shut_down, stream)
        settled = [flow.arrived for flow in flows]
        is_settled = False
        began_s = time.monotonic()
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            if not is_settled and elapsed_s >= seconds * _SETTLING:
                settled, is_settled = [flow.arrived for flow in flows], True
            total = sum(flow.arrived[0] for flow in flows)
            show(
                Progress(
                    what=what,
                    elapsed_s=elapsed_s,
                    seconds=seconds,
                    gbps=total * 8e-9 / elapsed_s if elapsed_s else 0,
                )
            )
            if failed.wait(min(_TICK_S, seconds - elapsed_s)):
                raise PeerError(
                    f"{what}: the connection broke after {elapsed_s:.1f} s ({failures[0]}): the far end or a "
                    "gateway has ended; look at what they say"
                ) from failures[0]
        ended = [flow.arrived for flow in flows]
    gbps = sum(rate_gbps(before, after) for before, after in zip(settled, ended, strict=True))
    if gbps == 0:
        raise PeerError(f"{what}: no byte has arrived within {seconds:g} s; the session carries nothing")
    return Carried(gbps, sum(flow.arrived[0] for flow in flows))


def _shut_down(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has broken already
        stream.shutdown(socket.SHUT_RDWR)


def rate_gbps(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the rate, in Gb/s, between two pairs of bytes and nanoseconds; 0 if no time lies between."""
    nanoseconds = after[1] - before[1]
    return 8 * (after[0] - before[0]) / nanoseconds if nanoseconds > 0 else 0.0
