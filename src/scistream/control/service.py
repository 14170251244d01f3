"""The gRPC service: who is asking, what they say as a value, and errors as gRPC status codes.

Authentication comes before everything else, so that a stranger learns nothing of the sessions. Then the
policy is asked, and what was decided is written down before anything is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from scistream import errors
from scistream.auth.certificates import check_certificate
from scistream.control.application_credentials import hash_credential, make_credential
from scistream.control.audit import Audit, Entry
from scistream.control.authorisation import Authorisation
from scistream.control.callers import Caller, Callers
from scistream.control.names import check_hosts
from scistream.control.runtime import Runtime
from scistream.core.commands import Reply
from scistream.core.events import Role, SessionKey
from scistream.core.replies import too_late
from scistream.core.session import Session
from scistream.wire import answers, requests
from scistream.wire import scistream_pb2 as pb
from scistream.wire.metadata import APPLICATION_CREDENTIAL

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

# gRPC sends details in a header; headers above 8 KiB are refused.
_MAX_DETAILS = 2_000

_UNNAMED = "unexpected error in the control server; its log says more"


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call: who makes it, what it is about as far as that is known, and what was decided of it."""

    audit: Audit
    method: str
    context: Any = field(repr=False)
    caller: Caller
    uid: str = ""
    owner: str = ""

    def allow(self, why: str) -> None:
        """Write down that it is allowed.

        Raises
        ------
        ResourceExhausted
            It cannot be written down, and is not allowed therefore.
        """
        self.audit.write(self._entry(allowed=True, why=why))

    def refuse(self, why: str) -> None:
        """Write down that it is refused."""
        self.audit.write(self._entry(allowed=False, why=why))

    def _entry(self, *, allowed: bool, why: str) -> Entry:
        return Entry(
            what=self.method,
            allowed=allowed,
            why=why,
            who=self.caller.who.name,
            authenticator=self.caller.known_by,
            peer=self.context.peer(),
            session=self.uid or None,
            owner=self.owner or self.caller.who.name,
        )


class ControlService:
    """Answers `scistream.Control`.

    Parameters
    ----------
    runtime : Runtime
        The sessions.
    callers : Callers
        Knows who is asking.
    authorisation : Authorisation
        Knows what they may do.
    audit : Audit
        Where decisions are written.
    """

    def __init__(
        self, runtime: Runtime, callers: Callers, authorisation: Authorisation, audit: Audit
    ) -> None:
        self._runtime = runtime
        self._callers = callers
        self._authorisation = authorisation
        self._audit = audit

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

    async def _req(self, request: pb.Request, call: _Call) -> Message:
        credential = make_credential()
        event = requests.read_request(
            request,
            call.caller.who.name,
            self._runtime.next_call(),
            who=call.caller.who,
            credential_hash=hash_credential(credential),
        )
        event, why = self._authorisation.admit(call.caller.who, event, lambda: self._runtime.usage(event.key))
        call.allow(why)
        telling: list[asyncio.Future[None]] = []

        def tell() -> None:
            metadata = ((APPLICATION_CREDENTIAL, credential),)
            telling.append(asyncio.ensure_future(call.context.send_initial_metadata(metadata)))

        try:
            return self._response(await self._runtime.call(event, accepted=tell))
        finally:
            # where it fails whoever asked has gone, and so does this call
            await asyncio.gather(*telling, return_exceptions=True)

    async def _hello(self, request: pb.Hello, call: _Call) -> Message:
        key = call.caller.key(request.uid)
        event = requests.read_hello(request, key.owner, self._runtime.next_call())
        session = self._runtime.find(key)
        if call.caller.session is not None and session is not None and session.state.ended:
            raise too_late(session)  # the next session of that name is another one
        if session is not None and event.addresses:
            await self._check_targets(session, event.addresses)
        call.allow("the session's own credential" if call.caller.session else "it is the caller's session")
        return answers.write_app_response(await self._runtime.call(event))

    async def _update(self, request: pb.UpdateTargets, call: _Call) -> Message:
        event = requests.read_update(request, call.caller.who.name, self._runtime.next_call())
        if event.peer_certificate_pem:
            check_certificate(event.peer_certificate_pem)
        session = self._runtime.get(event.key)
        if self._authorisation.is_limited:
            await self._check_targets(session, event.targets or session.destinations, event.reverse_listeners)
        else:
            await check_hosts((*event.targets, *event.reverse_listeners), request.uid)
        call.allow("it is the caller's session")
        return self._response(await self._runtime.call(event))

    async def _release(self, request: pb.Release, call: _Call) -> Message:
        why = "it is the caller's session"
        key = call.caller.key(request.uid)
        if request.principal not in {"", key.owner}:
            call.owner = request.principal
            self._check_administrator(call)
            why, key = "an administrator", SessionKey(request.principal, request.uid)
        call.allow(why)
        await self._runtime.call(requests.read_release(request, key.owner, self._runtime.next_call()))
        return pb.Response()

    async def _renew(self, request: pb.RenewRequest, call: _Call) -> Message:
        event = requests.read_renew(request, call.caller.who.name, self._runtime.next_call())
        call.allow("it is the caller's session")
        return self._response(await self._runtime.call(event))

    async def _status(self, request: pb.StatusRequest, call: _Call) -> Message:
        if request.everybody:
            call.owner = "everybody"
            self._check_administrator(call)
            call.allow("an administrator")
            found = await self._runtime.status(None, request.uid)
            return answers.write_status(found, (*self._callers.notices, *self._authorisation.notices))
        uid = request.uid
        if call.caller.session is not None:
            uid = call.caller.key(uid or call.caller.session.uid).uid
        call.allow("one's own sessions")
        return answers.write_status(
            await self._runtime.status(call.caller.who.name, uid), self._callers.notices
        )

    def _check_administrator(self, call: _Call) -> None:
        if call.caller.session is not None:
            raise errors.PermissionDenied("an application's credential is for its own session alone")
        self._authorisation.check_administrator(call.caller.who)

    async def _check_targets(self, session: Session, targets: Any, dials: Any = ()) -> None:
        """Refuse what the data server of `session` would refuse to connect to, in time for who asks."""
        if session.reverse and session.role is Role.CONSUMER:
            return  # nothing is connected to
        who, uid = session.owner, session.key.uid
        await self._authorisation.connectable(uid, who, session.role, targets)
        await self._authorisation.connectable(uid, who, session.role, dials, dials=True)

    def _response(self, reply: Reply) -> pb.Response:
        return answers.write_response(reply, self._runtime.data_server)

    def _method(
        self, name: str, kind: type[M], work: Callable[[M, _Call], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(body: bytes, context: Any) -> bytes:
            call: _Call | None = None
            try:
                async with self._callers.admitted(name, context) as caller:
                    call = _Call(audit=self._audit, method=name, context=context, caller=caller)
                    request = _read(kind, body)
                    call.uid = request.uid
                    return (await work(request, call)).SerializeToString()
            except errors.SciStreamError as error:
                code = status_code_of(error)
                # the uid may be any text at all until it is checked: repr keeps it on its line
                uid = call.uid if call is not None else ""
                logger.info(
                    "session %r: %s from %s refused: %s: %s", uid[:64], name, context.peer(), code, error
                )
                self._note_refusal(call, name, context, f"{code.name}: {error}")
                details = str(error)
            except Exception:
                uid = call.uid if call is not None else ""
                logger.exception("session %r: %s from %s failed", uid[:64], name, context.peer())
                self._note_refusal(call, name, context, _UNNAMED)
                code, details = grpc.StatusCode.INTERNAL, _UNNAMED
            return await _abort(context, code, details)

        return grpc.unary_unary_rpc_method_handler(answer)

    def _note_refusal(self, call: _Call | None, name: str, context: Any, why: str) -> None:
        """Write down a refusal; where that fails, nothing was allowed, and the log says both."""
        try:
            if call is not None:
                call.refuse(why)
            else:
                self._audit.write(Entry(what=name, allowed=False, why=why, peer=context.peer()))
        except errors.ResourceExhausted:
            logger.debug("a refusal was not written down", exc_info=True)


def status_code_of(error: errors.SciStreamError) -> grpc.StatusCode:
    """Return the status code for `error`."""
    return next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)


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
