"""One control server, as its callers see it: typed calls over gRPC, and errors of ours for its answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from scistream import errors
from scistream.client.access import Access, check_timeout
from scistream.client.handshake import check_pem, check_server
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.status import SessionStatus
from scistream.wire import answers, requests
from scistream.wire import scistream_pb2 as pb
from scistream.wire.answers import Grant
from scistream.wire.metadata import APPLICATION_CREDENTIAL, AUTHORIZATION
from scistream.wire.scistream_pb2_grpc import ControlStub


class CallUnknown(errors.PeerError):
    """The control server is of another version: it does not know the call."""


class Unreachable(errors.PeerError):
    """The control server cannot be reached, or the connection to it broke; its sessions may go on."""


class UnnamedFault(errors.PeerError):
    """The control server failed without saying whose fault it is, as the reference implementation does."""


#: Status code → our error; any other is a `PeerError`.
ERRORS: dict[grpc.StatusCode, type[errors.SciStreamError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.SessionNotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.SessionExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.UNKNOWN: UnnamedFault,
}

_OPTIONS = [
    # a gateway is reached directly, as its data listeners are
    ("grpc.enable_http_proxy", 0),
    # a control server that was started again is found within this time, not gRPC's two minutes
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_CALL_TIMEOUT_S = 30.0
_REQ = f"/{pb.DESCRIPTOR.services_by_name['Control'].full_name}/req"

# What gRPC says where the connection was there, and TLS was not, or not with this server.
_TLS_FAILED = re.compile("handshake failed|verification check failed", re.IGNORECASE)
# To find out why.
_LOOK_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility(Access):
    """One facility's control server, and what is needed to be let in.

    Parameters
    ----------
    endpoint, server_certificate_pem, token, tls, client_certificate
        As in `Access`.
    """

    def connect(self) -> ControlClient:
        """Return a client for this facility's control server, to be closed after use."""
        return connect(self)


class ControlClient:
    """Calls of one control server; an asynchronous context manager. Connects with the first call.

    Every call raises `SciStreamError`: the class says whose fault it is (`AuthenticationError`,
    `SessionNotFound`, `DeadlineExceeded` where the server does not answer in time, `Unreachable` where it
    cannot be reached or breaks off, `Untrusted` where its certificate is not the right one, `CallUnknown`
    where it is of another version, `ConfigurationError` where `timeout_s` is no time, …).

    Parameters
    ----------
    endpoint, server_certificate_pem, token, tls, client_certificate
        As in `Facility`.

    Raises
    ------
    ConfigurationError
        The token holds characters that cannot be sent, a certificate is none, or there is one and no TLS.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        server_certificate_pem: bytes | None = None,
        token: str | Callable[[], str] | None = None,
        tls: bool = True,
        client_certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        if isinstance(token, str):
            _check_token(token, endpoint)
        if client_certificate is not None:
            if not tls:
                raise errors.ConfigurationError(
                    f"control server {endpoint} is to be called without TLS, and a client certificate is "
                    "given; leave one of the two out"
                )
            check_pem(client_certificate[0], f"the client certificate for control server {endpoint}")
        if server_certificate_pem is not None:
            if not tls:
                raise errors.ConfigurationError(
                    f"control server {endpoint} is to be called without TLS, and its certificate is given; "
                    "leave one of the two out"
                )
            check_pem(server_certificate_pem, f"the certificate given for control server {endpoint}")
        self.endpoint = endpoint
        self._token = token
        self._client_certificate = client_certificate
        self._server_certificate_pem = server_certificate_pem
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._req_stream: Any = None

    async def request(
        self,
        uid: str,
        role: Role,
        *,
        num_conn: int = 1,
        rate_mbps: int = 0,
        reverse: bool = False,
        queue: bool = False,
        idle_timeout_s: float | None = None,
        lifetime_s: float | None = None,
        on_credential: Callable[[str], None] | None = None,
        timeout_s: float = 200,
    ) -> Grant:
        """Open one side of a session; the answer comes when the application has said hello.

        Parameters
        ----------
        rate_mbps : int
            What is asked for, in Mb/s; 0 is no wish.
        reverse : bool
            The producer's gateway dials the consumer's. A server that does not know of that grants an
            ordinary session: look at `Grant.reverse`.
        queue : bool
            Wait for ports and capacity, rather than be refused, where they are used up.
        idle_timeout_s, lifetime_s : float, optional
            End the session after this time without traffic, and in any case; at most, and by default, the
            gateway's own. `renew` starts both anew.
        on_credential : callable, optional
            Called with what the session's application is to say hello with, as the token of its own
            `Facility`, in place of the user's; as soon as the session is there, before the answer. Not
            called by a server of another version, or where the session is refused.
        """
        message = requests.write_request(
            uid,
            role,
            num_conn,
            rate_mbps,
            reverse=reverse,
            queue=queue,
            idle_timeout_s=idle_timeout_s,
            lifetime_s=lifetime_s,
        )
        answer: pb.Response = await self._call("req", message, timeout_s, on_credential)
        return answers.read_response(answer)

    async def hello(
        self,
        uid: str,
        role: Role,
        addresses: Iterable[Endpoint] = (),
        *,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> tuple[Endpoint, ...]:
        """Say for the application that it is there, and where; return the data server's listeners."""
        answer: pb.AppResponse = await self._call(
            "hello", requests.write_hello(uid, role, addresses), timeout_s
        )
        return answers.read_app_response(answer)

    async def update(
        self,
        uid: str,
        role: Role,
        targets: Iterable[Endpoint] = (),
        *,
        peer_certificate_pem: bytes = b"",
        peer_data_server: str = "",
        reverse_listeners: Iterable[Endpoint] = (),
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> Grant:
        """Connect this side to `targets` (none: to what the application announced).

        Parameters
        ----------
        peer_certificate_pem, peer_data_server
            What the other side has granted: its session certificate (empty: plain TCP), and the kind of its
            data server (empty: not known).
        reverse_listeners : iterable of Endpoint
            For the producer's side of a reverse session, what the consumer's was granted.
        """
        message = requests.write_update(
            uid,
            role,
            targets,
            peer_certificate_pem,
            peer_data_server=peer_data_server,
            reverse_listeners=reverse_listeners,
        )
        answer: pb.Response = await self._call("update", message, timeout_s)
        return answers.read_response(answer)

    async def release(self, uid: str, *, principal: str = "", timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """End this side of the session; return when everything is free. Fine if there is none.

        `principal` names whose it is, if it is not the caller's: that is for administrators.
        """
        await self._call("release", pb.Release(uid=uid, principal=principal), timeout_s)

    async def renew(self, uid: str, *, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Start the session's idle timeout and lifetime anew."""
        await self._call("renew", pb.RenewRequest(uid=uid), timeout_s)

    async def status(self, uid: str = "", *, timeout_s: float = _CALL_TIMEOUT_S) -> tuple[SessionStatus, ...]:
        """Return what the server shows of the session `uid`, or of all of the caller's."""
        sessions, _ = await self.status_and_notices(uid, timeout_s=timeout_s)
        return sessions

    async def status_and_notices(
        self, uid: str = "", *, everybody: bool = False, timeout_s: float = _CALL_TIMEOUT_S
    ) -> tuple[tuple[SessionStatus, ...], tuple[str, ...]]:
        """Return the caller's sessions, or `everybody`'s (for administrators); and notices of the gateway."""
        message = pb.StatusRequest(uid=uid, everybody=everybody)
        answer: pb.StatusReply = await self._call("status", message, timeout_s)
        return answers.read_status(answer), tuple(answer.notices)

    async def close(self) -> None:
        """Close the connection; calls that are waiting are cancelled. Idempotent."""
        if self._channel is not None:
            await self._channel.close(None)
            self._channel = self._stub = self._req_stream = None

    async def __aenter__(self) -> ControlClient:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def _call(
        self,
        method: str,
        message: Any,
        timeout_s: float,
        on_credential: Callable[[str], None] | None = None,
    ) -> Any:
        check_timeout(timeout_s)
        metadata = await self._metadata()
        if self._stub is None:
            self._channel = self._open_channel()
            self._stub = ControlStub(self._channel)  # type: ignore[no-untyped-call]
            self._req_stream = self._channel.unary_stream(
                _REQ,
                request_serializer=pb.Request.SerializeToString,
                response_deserializer=pb.Response.FromString,
            )
        try:
            if on_credential is not None:
                return await self._req(message, timeout_s, metadata, on_credential)
            return await getattr(self._stub, method)(message, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and _TLS_FAILED.search(error.details() or ""):
                await check_server(
                    self.endpoint, self._server_certificate_pem, timeout_s=min(timeout_s, _LOOK_TIMEOUT_S)
                )
            raise self._error(method, error, timeout_s) from error

    async def _req(
        self,
        message: Any,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...],
        on_credential: Callable[[str], None],
    ) -> pb.Response:
        """Send REQ, and hear what is said before its answer.

        As a call with one answer gRPC would deliver both at once; as one with a stream of answers, which is
        the same on the wire, each when it comes.
        """
        call = self._req_stream(message, timeout=timeout_s, metadata=metadata)
        for name, value in await call.initial_metadata() or ():
            if name == APPLICATION_CREDENTIAL:
                on_credential(str(value))
        answer = await call.read()
        if not isinstance(answer, pb.Response):
            raise errors.PeerError(f"control server {self.endpoint} ended 'req' without an answer")
        return answer

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a call is sent with: the token, which may have to be refreshed."""
        token = self._token
        if callable(token):
            token = await asyncio.to_thread(token)
            _check_token(token, self.endpoint)
        return ((AUTHORIZATION, token),) if token else ()

    def _open_channel(self) -> grpc.aio.Channel:
        address = str(self.endpoint)
        if not self._tls:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        certificate, key = self._client_certificate or (None, None)
        credentials = grpc.ssl_channel_credentials(self._server_certificate_pem, key, certificate)
        return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)

    def _error(self, method: str, error: grpc.aio.AioRpcError, timeout_s: float) -> errors.SciStreamError:
        code, details = error.code(), error.details() or ""
        where = f"control server {self.endpoint}"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return CallUnknown(f"{where} does not know the call {method!r}; its version is another one")
        if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details:
            tls = (
                ""
                if self._tls
                else " (and whether it serves TLS after all; then leave plaintext:// out, tls=False)"
            )
            if self._tls and "Socket closed" in details and self._client_certificate is None:
                # so it is where a server does without those that show no certificate
                tls = (
                    " (and whether it knows its users by certificates; then yours is missing: "
                    "client_certificate and client_key in its profile)"
                )
            return Unreachable(f"{where} cannot be reached; check address and port{tls}: {details}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == "Deadline Exceeded":
            return errors.DeadlineExceeded(f"{where} did not answer {method!r} within {timeout_s:g} s")
        return ERRORS.get(code, errors.PeerError)(f"{where}: {details or code.name}")


def connect(access: Access) -> ControlClient:
    """Return a client for the control server of `access`, to be closed after use."""
    return ControlClient(
        access.endpoint,
        server_certificate_pem=access.server_certificate_pem,
        token=access.token,
        tls=access.tls,
        client_certificate=access.client_certificate,
    )


def _check_token(token: str, endpoint: Endpoint) -> None:
    if not (token.isascii() and token.isprintable()):
        raise errors.ConfigurationError(
            f"the token for {endpoint} holds characters that no token has; check where it comes from"
        )
