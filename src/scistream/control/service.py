"""The gRPC service: who is asking, what they say as a value, and errors as gRPC status codes.

Authentication comes before everything else, so that a stranger learns nothing of the sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc

from scistream import errors
from scistream.auth.base import Authenticator
from scistream.auth.certificates import check_certificate
from scistream.control.names import check_hosts
from scistream.control.runtime import Runtime
from scistream.core.events import SessionKey
from scistream.wire import convert
from scistream.wire import scistream_pb2 as pb
from scistream.wire.scistream_pb2_grpc import ControlServicer

logger = logging.getLogger(__name__)

T = TypeVar("T")

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


class ControlService(ControlServicer):
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

    async def req(self, request: pb.Request, context: Any) -> pb.Response:
        """Open one side of a session."""

        async def work(owner: str) -> pb.Response:
            event = convert.read_request(request, owner, self._runtime.next_call())
            return convert.write_response(await self._runtime.call(event))

        return await self._answer(context, "req", request.uid, work)

    async def hello(self, request: pb.Hello, context: Any) -> pb.AppResponse:
        """Take the application's announcement."""

        async def work(owner: str) -> pb.AppResponse:
            event = convert.read_hello(request, owner, self._runtime.next_call())
            return convert.write_app_response(await self._runtime.call(event))

        return await self._answer(context, "hello", request.uid, work)

    async def update(self, request: pb.UpdateTargets, context: Any) -> pb.Response:
        """Connect the session to its targets."""

        async def work(owner: str) -> pb.Response:
            event = convert.read_update(request, owner, self._runtime.next_call())
            if event.peer_certificate_pem:
                check_certificate(event.peer_certificate_pem)
            await check_hosts(event.targets, request.uid)
            return convert.write_response(await self._runtime.call(event))

        return await self._answer(context, "update", request.uid, work)

    async def release(self, request: pb.Release, context: Any) -> pb.Response:
        """End a session."""

        async def work(owner: str) -> pb.Response:
            await self._runtime.call(convert.read_release(request, owner, self._runtime.next_call()))
            return pb.Response()

        return await self._answer(context, "release", request.uid, work)

    async def renew(self, request: pb.RenewRequest, context: Any) -> pb.Response:
        """Let a session's leases begin anew."""

        async def work(owner: str) -> pb.Response:
            event = convert.read_renew(request, owner, self._runtime.next_call())
            return convert.write_response(await self._runtime.call(event))

        return await self._answer(context, "renew", request.uid, work)

    async def status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        """Show the caller's sessions."""

        async def work(owner: str) -> pb.StatusReply:
            if request.uid:
                SessionKey(owner, request.uid)
            return convert.write_status(await self._runtime.status(owner, request.uid))

        return await self._answer(context, "status", request.uid, work)

    async def _answer(self, context: Any, method: str, uid: str, work: Callable[[str], Awaitable[T]]) -> T:
        try:
            owner = await self._authenticate(context)
            return await work(owner)
        except errors.SciStreamError as error:
            code = status_code_of(error)
            # the uid may be any text at all until it is checked: repr keeps it on its line
            logger.info(
                "session %r: %s from %s refused: %s: %s", uid[:64], method, context.peer(), code, error
            )
            details = str(error)
        except Exception:
            logger.exception("session %r: %s from %s failed", uid[:64], method, context.peer())
            code, details = (
                grpc.StatusCode.INTERNAL,
                "unexpected error in the control server; its log says more",
            )
        return await _abort(context, code, details)

    async def _authenticate(self, context: Any) -> str:
        token = None
        for name, value in context.invocation_metadata() or ():
            if name == "authorization" and isinstance(value, str) and value != _NO_TOKEN:
                token = value
        try:
            async with asyncio.timeout(_AUTHENTICATION_TIMEOUT_S):
                principal = await self._authenticator.authenticate(token, context.peer())
        except TimeoutError as error:
            raise errors.PeerError(
                f"who asks could not be found out within {_AUTHENTICATION_TIMEOUT_S:g} s; ask again"
            ) from error
        return principal.name


def status_code_of(error: errors.SciStreamError) -> grpc.StatusCode:
    """Return the status code for `error`."""
    return next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)


async def _abort(context: Any, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details[:_MAX_DETAILS])
    raise AssertionError("abort always raises")
