"""The gRPC service: who is asking, what they say as a value, and errors as gRPC status codes.

Authentication comes before everything else, so that a stranger learns nothing of the sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from scistream import errors
from scistream.auth.base import Authenticator, Credentials, Principal
from scistream.auth.certificates import check_certificate
from scistream.control.names import check_hosts
from scistream.control.runtime import Runtime
from scistream.core.commands import Reply
from scistream.wire import answers, requests
from scistream.wire import scistream_pb2 as pb

logger = logging.getLogger(__name__)

M = TypeVar("M", pb.Request, pb.Hello, pb.UpdateTargets, pb.Release, pb.RenewRequest, pb.StatusRequest)

_SERVICE = pb.DESCRIPTOR.services_by_name["Control"].full_name

#: Error → status code; a class that is not here has its nearest parent's.
STATUS_CODES: dict[type[errors.SciStreamError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SessionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.SessionExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.CallerError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.PeerError: grpc.StatusCode.UNAVAILABLE,
    errors.SciStreamError: grpc.StatusCode.INTERNAL,
}

# What the reference client sends when its user is not logged in.
_NO_TOKEN = "INVALID_TOKEN"  # noqa: S105 - it says that there is none

# Who asks waits no longer than 5 s, if it is the reference client.
_AUTHENTICATION_TIMEOUT_S = 4.0

# gRPC sends details in a header; headers above 8 KiB are refused.
_MAX_DETAILS = 2_000


class ControlService:
    """Answers `scistream.Control`.

    Parameters
    ----------
    runtime : Runtime
        The sessions.
    authenticator : Authenticator
        Knows who is asking.
    """

    def __init__(self, runtime: Runtime, authenticator: Authenticator) -> None:
        self._runtime = runtime
        self._authenticator = authenticator

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what gRPC calls; messages come as they are, so that a stranger's are not even read."""
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "req": self._method("req", pb.Request, self._req),
                "hello": self._method("hello", pb.Hello, self._hello),
                "update": self._method("update", pb.UpdateTargets, self._update),
                "release": self._method("release", pb.Release, self._release),
                "renew": self._method("renew", pb.RenewRequest, self._renew),
                "status": self._method("status", pb.StatusRequest, self._status),
            },
        )

    async def _req(self, request: pb.Request, owner: str) -> Message:
        event = requests.read_request(request, owner, self._runtime.next_call())
        return self._response(await self._runtime.call(event))

    async def _hello(self, request: pb.Hello, owner: str) -> Message:
        event = requests.read_hello(request, owner, self._runtime.next_call())
        return answers.write_app_response(await self._runtime.call(event))

    async def _update(self, request: pb.UpdateTargets, owner: str) -> Message:
        event = requests.read_update(request, owner, self._runtime.next_call())
        if event.peer_certificate_pem:
            check_certificate(event.peer_certificate_pem)
        self._runtime.check_known(event.key)
        await check_hosts((*event.targets, *event.reverse_listeners), request.uid)
        return self._response(await self._runtime.call(event))

    async def _release(self, request: pb.Release, owner: str) -> Message:
        await self._runtime.call(requests.read_release(request, owner, self._runtime.next_call()))
        return pb.Response()

    async def _renew(self, request: pb.RenewRequest, owner: str) -> Message:
        event = requests.read_renew(request, owner, self._runtime.next_call())
        return self._response(await self._runtime.call(event))

    async def _status(self, request: pb.StatusRequest, owner: str) -> Message:
        return answers.write_status(await self._runtime.status(owner, request.uid))

    def _response(self, reply: Reply) -> pb.Response:
        return answers.write_response(reply, self._runtime.data_server)

    def _method(
        self, name: str, kind: type[M], work: Callable[[M, str], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(body: bytes, context: Any) -> bytes:
            uid = ""
            try:
                owner = (await self._authenticate(context)).name
                request = _read(kind, body)
                uid = request.uid
                return (await work(request, owner)).SerializeToString()
            except errors.SciStreamError as error:
                code = status_code_of(error)
                # the uid may be any text at all until it is checked: repr keeps it on its line
                logger.info(
                    "session %r: %s from %s refused: %s: %s", uid[:64], name, context.peer(), code, error
                )
                details = str(error)
            except Exception:
                logger.exception("session %r: %s from %s failed", uid[:64], name, context.peer())
                code, details = (
                    grpc.StatusCode.INTERNAL,
                    "unexpected error in the control server; its log says more",
                )
            return await _abort(context, code, details)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _authenticate(self, context: Any) -> Principal:
        token = None
        for name, value in context.invocation_metadata() or ():
            if name == "authorization" and isinstance(value, str) and value != _NO_TOKEN:
                token = value
        try:
            async with asyncio.timeout(_AUTHENTICATION_TIMEOUT_S):
                return await self._authenticator.authenticate(
                    Credentials(token, context.peer(), _client_certificate(context))
                )
        except TimeoutError as error:
            raise errors.PeerError(
                f"who asks could not be found out within {_AUTHENTICATION_TIMEOUT_S:g} s; ask again"
            ) from error


def status_code_of(error: errors.SciStreamError) -> grpc.StatusCode:
    """Return the status code for `error`."""
    return next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)


def _client_certificate(context: Any) -> bytes | None:
    """Return the certificate (PEM) that the caller has proven in the TLS handshake; None without."""
    found = context.auth_context().get("x509_pem_cert")
    return bytes(found[0]) if found else None


def _read(kind: type[M], body: bytes) -> M:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise errors.InvalidArgument(
            f"the message cannot be read as {kind.DESCRIPTOR.full_name}: it was damaged on its way, "
            "or another program than a SciStream client sent it"
        ) from error


async def _abort(context: Any, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details[:_MAX_DETAILS])
    raise AssertionError("abort always raises")
