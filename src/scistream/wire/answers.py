"""A control server's answers, and the values of `scistream.core`: here alone text becomes values.

What an answer holds and cannot be understood is the server's fault (`PeerError`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scistream.core.commands import Reply
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
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
    data_server : str
        Kind of this side's data server; empty where the server does not say.
    reverse : bool
        Whether the producer's side dials the consumer's. A server that knows nothing of that says no.
    reverse_listeners : tuple of Endpoint
        Where the consumer's side of a reverse session waits for the producer's.
    """

    listeners: tuple[Endpoint, ...]
    destinations: tuple[Endpoint, ...]
    certificate_pem: bytes
    data_server: str = ""
    reverse: bool = False
    reverse_listeners: tuple[Endpoint, ...] = ()


# --- at the server -------------------------------------------------------------------------------------


def write_response(reply: Reply, data_server: str) -> pb.Response:
    """Return the answer to REQ and UpdateTargets of a gateway with data servers of that kind."""
    return pb.Response(
        listeners=map(str, reply.listeners),
        prod_listeners=map(str, reply.destinations),
        certificate=reply.certificate_pem,
        data_server=data_server,
        reverse=reply.reverse,
        reverse_listeners=map(str, reply.reverse_listeners),
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
                        connections_ready=channel.connections_ready,
                    )
                    for channel in one.channels
                ),
                restarts=one.restarts,
                notice=one.notice,
                idle_timeout=one.idle_timeout_s,
                lifetime=one.lifetime_s,
                lifetime_left=one.lifetime_left_s,
                paced=one.paced,
                reverse=one.reverse,
            )
            for one in sessions
        )
    )


# --- at the caller -------------------------------------------------------------------------------------


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
        data_server=message.data_server,
        reverse=message.reverse,
        reverse_listeners=_addresses(message.reverse_listeners),
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
                        connections_ready=channel.connections_ready,
                    )
                    for channel in one.channels
                ),
                restarts=one.restarts,
                notice=one.notice,
                idle_timeout_s=one.idle_timeout,
                lifetime_s=one.lifetime,
                lifetime_left_s=one.lifetime_left if one.HasField("lifetime_left") else None,
                paced=one.paced,
                reverse=one.reverse,
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
