"""A load from the near end on one path to a far end: throughput, echoes of any size, new connections.

`measure` says what a session gives; this is what a benchmark is made of. Its limits: Python, with a thread or
two for each connection, so that all connections together offer some tens of Gb/s.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from scistream.client.probe.near_end import ANSWER_TIMEOUT_S, Carried, ask, carry, failing_as, greeted
from scistream.client.probe.protocol import FRAME_BYTES, Frame, Kind, receive_frame, receive_payload
from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError, PeerError

_ECHO_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """Measures one path. Every method raises PeerError where the path or the far end fails.

    Parameters
    ----------
    address : Endpoint
        The far end, or a listener that leads to it.

    Raises
    ------
    NotAProbe
        What answers is no far end, or nothing does. Nothing more than a greeting has been sent.
    """

    address: Endpoint

    def to_here(self, connections: int, seconds: float) -> Carried:
        """Let bytes come from the far end over so many connections."""
        return carry([self.address] * connections, Kind.SEND, seconds, lambda _: None)

    def from_here(self, connections: int, seconds: float) -> Carried:
        """Let bytes go to the far end over so many connections."""
        return carry([self.address] * connections, Kind.TAKE, seconds, lambda _: None)

    def echo_times_ns(self, size_bytes: int, seconds: float) -> list[int]:
        """Send messages one by one for `seconds`, each after the last is back; return how long each takes.

        Raises
        ------
        ConfigurationError
            A message is shorter than what announces it.
        """
        if size_bytes < FRAME_BYTES:
            raise ConfigurationError(f"a message has {FRAME_BYTES} bytes at least, not {size_bytes}")
        frame, payload = Frame(Kind.ECHO, size_bytes - FRAME_BYTES), bytes(size_bytes - FRAME_BYTES)
        times_ns: list[int] = []
        with (
            greeted([self.address]) as (stream,),
            failing_as(PeerError, f"{self.address}: the far end stopped echoing; look at what it says"),
        ):
            stream.settimeout(_ECHO_TIMEOUT_S)
            deadline_s = time.monotonic() + seconds
            while not times_ns or time.monotonic() < deadline_s:
                began_ns = time.perf_counter_ns()
                frame.send(stream, payload)
                if receive_frame(stream) != frame or receive_payload(stream, frame.first) != payload:
                    raise PeerError(f"{self.address}: {size_bytes} bytes came back changed")
                times_ns.append(time.perf_counter_ns() - began_ns)
        return times_ns

    def set_up_times_ns(self, seconds: float) -> list[int]:
        """Connect, greet, close, for `seconds`; return how long it takes until the far end has greeted."""
        times_ns: list[int] = []
        deadline_s = time.monotonic() + seconds
        while not times_ns or time.monotonic() < deadline_s:
            began_ns = time.perf_counter_ns()
            with greeted([self.address]):
                times_ns.append(time.perf_counter_ns() - began_ns)
        return times_ns

    def finish(self, *, to_here_gbps: float, from_here_gbps: float) -> None:
        """Tell the far end that all is measured."""
        with greeted([self.address]) as (stream,):
            stream.settimeout(ANSWER_TIMEOUT_S)
            ask(stream, Frame(Kind.QUIT, int(to_here_gbps * 1e9), int(from_here_gbps * 1e9)), Kind.QUIT)
