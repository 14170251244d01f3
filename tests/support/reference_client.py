"""What the released reference client does on the wire, call by call and pause by pause, in bytes of its own.

It stands in for ``s2uc`` 1.2.1 (``inbound-request``, ``outbound-request``, ``release``) and 1.1.0
(``prod-req``, ``cons-req`` with ``appctrl mock``), which cannot be installed beside ours. Where the release
swallows an error and goes on, this keeps the error in the outcome and goes on too. Source: the public
releases as they were run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc

from support import wire_bytes

#: From the start of REQ to HELLO, whatever has become of the REQ.
HELLO_PAUSE_S = 0.5
#: The release waits no longer than this for the answer to HELLO, and for REQ's once HELLO is sent.
ANSWER_LIMIT_S = 5.0
#: ``appctrl mock`` tries so often, with this pause.
APPCTRL_TRIES, APPCTRL_PAUSE_S = 5, 0.1

DEFAULT_PORTS = (5074, 5075, 5076, 37000, 47000)
DEFAULT_CHANNELS, DEFAULT_RATE = 5, 10000
NO_TOKEN = "INVALID_TOKEN"

SERVICE = "/scistream.Control/"


@dataclass
class Refused:
    """The status that a call ended with."""

    code: grpc.StatusCode
    details: str


@dataclass
class Answer:
    """The bytes that a call was answered with, read as the reference client reads them."""

    raw: bytes

    @property
    def listeners(self) -> list[str]:
        """Field 1 of Response."""
        return wire_bytes.texts(self.raw, 1)

    @property
    def prod_listeners(self) -> list[str]:
        """Field 2 of Response."""
        return wire_bytes.texts(self.raw, 2)

    @property
    def message(self) -> str:
        """Field 1 of AppResponse."""
        return wire_bytes.texts(self.raw, 1)[0]

    @property
    def hello_listeners(self) -> list[str]:
        """Field 2 of AppResponse."""
        return wire_bytes.texts(self.raw, 2)


Result = Answer | Refused


def granted(result: Result | None) -> Answer:
    """Return the answer of a call that must have been served."""
    assert isinstance(result, Answer), result
    return result


def refusal(result: Result | None) -> Refused:
    """Return the status of a call that must have been refused."""
    assert isinstance(result, Refused), result
    return result


@dataclass
class Flow:
    """What one command of the client got, call by call; None: it did not come so far."""

    req: Result | None = None
    hello: Result | None = None
    update: Result | None = None
    #: Seconds from HELLO to the answers of HELLO and of REQ.
    waited_s: list[float] = field(default_factory=list)

    @property
    def listeners(self) -> list[str]:
        """What the command prints in its last line."""
        return granted(self.req).listeners


@dataclass
class Wire:
    """A channel to one control server that carries bytes as they are."""

    channel: grpc.Channel
    token: str = NO_TOKEN

    def call(self, method: str, message: bytes, timeout_s: float | None = None) -> Result:
        ask = self.channel.unary_unary(SERVICE + method)  # no serializers: bytes in, bytes out
        try:
            return Answer(ask(message, timeout=timeout_s, metadata=(("authorization", self.token),)))
        except grpc.RpcError as error:
            return Refused(error.code(), error.details())


@dataclass
class ReferenceClient:
    """The reference user client and application controller at one control server."""

    address: str
    certificate_pem: bytes
    token: str = NO_TOKEN

    @contextlib.contextmanager
    def open(self) -> Iterator[Wire]:
        credentials = grpc.ssl_channel_credentials(root_certificates=self.certificate_pem)
        with grpc.secure_channel(self.address, credentials) as channel:
            yield Wire(channel, self.token)

    def inbound_request(
        self,
        uid: str,
        *,
        remote_ip: str = "localhost",
        receiver_ports: Sequence[int] = DEFAULT_PORTS,
        num_conn: int = DEFAULT_CHANNELS,
        rate: int = DEFAULT_RATE,
        two_channels: bool = False,
    ) -> Flow:
        """1.2.1: REQ, 0.5 s later HELLO, then UPDATE with what REQ's answer says."""
        receivers = [f"{remote_ip}:{port}" for port in receiver_ports]
        return self._request(uid, "PROD", receivers, None, num_conn, rate, two_channels=two_channels)

    def outbound_request(
        self,
        uid: str,
        prod_lstn: str,
        *,
        remote_ip: str = "localhost",
        receiver_ports: Sequence[int] = DEFAULT_PORTS,
        num_conn: int = DEFAULT_CHANNELS,
        rate: int = DEFAULT_RATE,
        two_channels: bool = False,
    ) -> Flow:
        """1.2.1: the same with role CONS, but PROD in HELLO, and UPDATE with what the user says."""
        receivers = [f"{remote_ip}:{port}" for port in receiver_ports]
        targets = prod_lstn.split(",")
        return self._request(uid, "CONS", receivers, targets, num_conn, rate, two_channels=two_channels)

    def prod_req(self, uid: str, *, num_conn: int = DEFAULT_CHANNELS, rate: int = DEFAULT_RATE) -> Flow:
        """1.1.0: REQ, which waits until somebody else says HELLO; then UPDATE with its answer."""
        return self._wait(uid, "PROD", None, num_conn, rate)

    def cons_req(
        self, uid: str, prod_lstn: str, *, num_conn: int = DEFAULT_CHANNELS, rate: int = DEFAULT_RATE
    ) -> Flow:
        """1.1.0: the same with role CONS, and UPDATE with what the user says."""
        return self._wait(uid, "CONS", prod_lstn.split(","), num_conn, rate)

    def appctrl_mock(self, uid: str, role: str, controller_ip: str = "127.0.0.1") -> list[Result]:
        """``appctrl mock``: HELLO until it is answered, five times at most; five fixed ports with PROD."""
        addresses = [f"{controller_ip}:{port}" for port in DEFAULT_PORTS] if role == "PROD" else []
        tried: list[Result] = []
        with self.open() as wire:
            for _ in range(APPCTRL_TRIES):
                tried.append(wire.call("hello", wire_bytes.hello(uid, role, addresses)))
                if isinstance(tried[-1], Answer) or tried[-1].code is grpc.StatusCode.UNAUTHENTICATED:
                    break
                time.sleep(APPCTRL_PAUSE_S)
        return tried

    def release(self, uid: str) -> Result:
        with self.open() as wire:
            return wire.call("release", wire_bytes.release(uid))

    def _request(
        self,
        uid: str,
        role: str,
        receivers: Sequence[str],
        targets: Sequence[str] | None,
        num_conn: int,
        rate: int,
        *,
        two_channels: bool,
    ) -> Flow:
        flow = Flow()
        with contextlib.ExitStack() as stack:
            wire = stack.enter_context(self.open())
            hello_wire = stack.enter_context(self.open()) if two_channels else wire
            threads = stack.enter_context(ThreadPoolExecutor(2))
            request = wire_bytes.request(uid, role, num_conn, rate)
            req: Future[Result] = threads.submit(wire.call, "req", request)
            time.sleep(HELLO_PAUSE_S)
            said_s = time.monotonic()
            hello = threads.submit(
                hello_wire.call, "hello", wire_bytes.hello(uid, "PROD", receivers), ANSWER_LIMIT_S
            )
            flow.hello = hello.result()
            flow.waited_s.append(time.monotonic() - said_s)
            flow.req = req.result(ANSWER_LIMIT_S)
            flow.waited_s.append(time.monotonic() - said_s)
            self._update(wire, uid, role, targets, flow)
        return flow

    def _wait(self, uid: str, role: str, targets: Sequence[str] | None, num_conn: int, rate: int) -> Flow:
        flow = Flow()
        with self.open() as wire:
            flow.req = wire.call("req", wire_bytes.request(uid, role, num_conn, rate))
            self._update(wire, uid, role, targets, flow)
        return flow

    def _update(self, wire: Wire, uid: str, role: str, targets: Sequence[str] | None, flow: Flow) -> None:
        if not isinstance(flow.req, Answer) or (isinstance(flow.hello, Refused) and role == "PROD"):
            return
        named = flow.req.prod_listeners if targets is None else targets
        flow.update = wire.call("update", wire_bytes.update(uid, role, named))
