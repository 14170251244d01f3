"""Between the protocol's messages and the values of `scistream.core`: here alone text becomes values.

Both directions for both ends. Messages from a caller that cannot be understood are the caller's fault
(`InvalidArgument`), answers from a server that cannot be understood the server's (`PeerError`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scistream.core.commands import Reply
from scistream.core.endpoint import Endpoint
from scistream.core.events import Hello, Release, Renew, Request, Role, SessionKey, Update
from scistream.core.session import State
from scistream.core.status import ChannelStatistics, SessionStatus
from scistream.errors import InvalidArgument, PeerError
from scistream.wire import scistream_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a control server answers to REQ.

    Parameters
    ----------
    listeners : tuple of Endpoint
        Where this side's data server accepts.
    destinations : tuple of Endpoint
        What the application announced by HELLO.
    certificate_pem : bytes
        This side's certificate for the session; empty where it does not encrypt.
    """

    listeners: tuple[Endpoint, ...]
    destinations: tuple[Endpoint, ...]
    certificate_pem: bytes


# --- a caller's messages, at the server ----------------------------------------------------------------


def read_request(message: pb.Request, owner: str, call: int) -> Request:
    """Return the event that a REQ is.

    Raises
    ------
    InvalidArgument
        Uid, role, number of channels or rate is none.
    """
    return Request(
        key=SessionKey(owner, message.uid),
        call=call,
        role=_role(message.uid, message.role),
        num_conn=message.num_conn,
        rate_mbps=message.rate,
        queue=message.queue,
        idle_timeout_s=message.idle_timeout if message.HasField("idle_timeout") else None,
        lifetime_s=message.lifetime if message.HasField("lifetime") else None,
    )


def read_hello(message: pb.Hello, owner: str, call: int) -> Hello:
    """Return the event that a HELLO is.

    Raises
    ------
    InvalidArgument
        Uid, role or an address is none.
    """
    return Hello(
        key=SessionKey(owner, message.uid),
        call=call,
        role=_role(message.uid, message.role),
        addresses=tuple(map(Endpoint.parse, message.prod_listeners)),
    )


def read_update(message: pb.UpdateTargets, owner: str, call: int) -> Update:
    """Return the event that an UpdateTargets is.

    Raises
    ------
    InvalidArgument
        Uid, role or an address is none.
    """
    return Update(
        key=SessionKey(owner, message.uid),
        call=call,
        role=_role(message.uid, message.role) if message.role else None,
        targets=tuple(map(Endpoint.parse, message.remote_listeners)),
        peer_certificate_pem=message.peer_certificate,
    )


def read_release(message: pb.Release, owner: str, call: int) -> Release:
    """Return the event that a REL is.

    Raises
    ------
    InvalidArgument
        The uid is none.
    """
    return Release(key=SessionKey(owner, message.uid), call=call)


def read_renew(message: pb.RenewRequest, owner: str, call: int) -> Renew:
    """Return the event that a RENEW is.

    Raises
    ------
    InvalidArgument
        The uid is none.
    """
    return Renew(key=SessionKey(owner, message.uid), call=call)


def _role(uid: str, text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise InvalidArgument(f"session {uid[:80]}: role {text[:20]!r} is neither PROD nor CONS") from None


# --- a caller's messages, at the caller ----------------------------------------------------------------


def write_request(
    uid: str,
    role: Role,
    num_conn: int,
    rate_mbps: int,
    *,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
) -> pb.Request:
    """Return the REQ message; values that the wire cannot carry are `InvalidArgument`."""
    try:
        return pb.Request(
            uid=uid,
            role=role.value,
            num_conn=num_conn,
            rate=rate_mbps,
            queue=queue,
            idle_timeout=idle_timeout_s,
            lifetime=lifetime_s,
        )
    except ValueError as error:
        raise InvalidArgument(f"num_conn {num_conn} or rate {rate_mbps} is too large: {error}") from error


def write_hello(uid: str, role: Role, addresses: Iterable[Endpoint]) -> pb.Hello:
    """Return the HELLO message."""
    return pb.Hello(uid=uid, role=role.value, prod_listeners=map(str, addresses))


def write_update(
    uid: str, role: Role, targets: Iterable[Endpoint], peer_certificate_pem: bytes
) -> pb.UpdateTargets:
    """Return the UpdateTargets message."""
    return pb.UpdateTargets(
        uid=uid,
        role=role.value,
        remote_listeners=map(str, targets),
        peer_certificate=peer_certificate_pem,
    )


# --- answers, at the server ----------------------------------------------------------------------------


def write_response(reply: Reply) -> pb.Response:
    """Return the answer to REQ and UpdateTargets."""
    return pb.Response(
        listeners=map(str, reply.listeners),
        prod_listeners=map(str, reply.destinations),
        certificate=reply.certificate_pem,
    )


def write_app_response(reply: Reply) -> pb.AppResponse:
    """Return the answer to HELLO."""
    return pb.AppResponse(message="Success", listeners=map(str, reply.listeners))


def write_status(sessions: Iterable[SessionStatus]) -> pb.StatusReply:
    """Return the answer to a status request."""
    return pb.StatusReply(
        sessions=(
            pb.SessionStatus(
                uid=one.uid,
                role=one.role.value,
                state=one.state.value,
                reason=one.reason,
                num_conn=one.num_conn,
                rate=one.rate_mbps,
                listeners=map(str, one.listeners),
                targets=map(str, one.targets),
                principal=one.principal,
                encrypted=one.encrypted,
                data_server=one.data_server,
                seconds=one.seconds,
                channels=(
                    pb.ChannelStatistics(
                        connections_open=channel.connections_open,
                        connections_total=channel.connections_total,
                        connections_failed=channel.connections_failed,
                        bytes_to_target=channel.bytes_to_target,
                        bytes_from_target=channel.bytes_from_target,
                    )
                    for channel in one.channels
                ),
                restarts=one.restarts,
                notice=one.notice,
                idle_timeout=one.idle_timeout_s,
                lifetime=one.lifetime_s,
                lifetime_left=one.lifetime_left_s,
                paced=one.paced,
            )
            for one in sessions
        )
    )


# --- answers, at the caller ----------------------------------------------------------------------------


def read_response(message: pb.Response) -> Grant:
    """Return what REQ has granted.

    Raises
    ------
    PeerError
        An address of the answer is none.
    """
    return Grant(
        listeners=_addresses(message.listeners),
        destinations=_addresses(message.prod_listeners),
        certificate_pem=message.certificate,
    )


def read_app_response(message: pb.AppResponse) -> tuple[Endpoint, ...]:
    """Return the listeners that the answer to HELLO names.

    Raises
    ------
    PeerError
        An address of the answer is none.
    """
    return _addresses(message.listeners)


def read_status(message: pb.StatusReply) -> tuple[SessionStatus, ...]:
    """Return the sessions of a status answer.

    Raises
    ------
    PeerError
        A role, state or address of the answer is none.
    """
    try:
        return tuple(
            SessionStatus(
                uid=one.uid,
                role=Role(one.role),
                state=State(one.state),
                reason=one.reason,
                num_conn=one.num_conn,
                rate_mbps=one.rate,
                listeners=_addresses(one.listeners),
                targets=_addresses(one.targets),
                principal=one.principal,
                encrypted=one.encrypted,
                data_server=one.data_server,
                seconds=one.seconds,
                channels=tuple(
                    ChannelStatistics(
                        connections_open=channel.connections_open,
                        connections_total=channel.connections_total,
                        connections_failed=channel.connections_failed,
                        bytes_to_target=channel.bytes_to_target,
                        bytes_from_target=channel.bytes_from_target,
                    )
                    for channel in one.channels
                ),
                restarts=one.restarts,
                notice=one.notice,
                idle_timeout_s=one.idle_timeout,
                lifetime_s=one.lifetime,
                lifetime_left_s=one.lifetime_left if one.HasField("lifetime_left") else None,
                paced=one.paced,
            )
            for one in message.sessions
        )
    except ValueError as error:
        raise PeerError(f"the control server's status cannot be understood: {error}") from error


def _addresses(texts: Iterable[str]) -> tuple[Endpoint, ...]:
    try:
        return tuple(map(Endpoint.parse, texts))
    except InvalidArgument as error:
        raise PeerError(f"the control server's answer holds an address that is none: {error}") from error
