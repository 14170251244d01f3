"""A caller's messages, and the values of `scistream.core`: here alone text becomes values.

What a caller's message holds and cannot be understood is the caller's fault (`InvalidArgument`).
"""

from __future__ import annotations

from collections.abc import Iterable

from scistream.core.endpoint import Endpoint
from scistream.core.events import Hello, Release, Renew, Request, Role, SessionKey, Update
from scistream.core.principal import Who
from scistream.errors import InvalidArgument
from scistream.wire import scistream_pb2 as pb

# An int32, which these are on the wire.
_LARGEST = 2**31 - 1

# --- at the server -------------------------------------------------------------------------------------


def read_request(
    message: pb.Request,
    owner: str,
    call: int,
    *,
    who: Who | None = None,
    credential_hash: str = "",
) -> Request:
    """Return the event that a REQ is, of `who`, with the credential that was made for its application.

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
        reverse=message.reverse,
        queue=message.queue,
        idle_timeout_s=message.idle_timeout if message.HasField("idle_timeout") else None,
        lifetime_s=message.lifetime if message.HasField("lifetime") else None,
        who=who,
        credential_hash=credential_hash,
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
        peer_data_server=message.peer_data_server,
        reverse_listeners=tuple(map(Endpoint.parse, message.reverse_listeners)),
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


# --- at the caller -------------------------------------------------------------------------------------


def write_request(
    uid: str,
    role: Role,
    num_conn: int,
    rate_mbps: int,
    *,
    reverse: bool = False,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
) -> pb.Request:
    """Return the REQ message.

    Raises
    ------
    InvalidArgument
        The wire cannot carry a number so large, or such a uid.
    """
    for name, value in (("num_conn", num_conn), ("rate", rate_mbps)):
        if abs(value) > _LARGEST:
            raise InvalidArgument(f"session {uid}: {name} is {value}; the most is {_LARGEST}")
    try:
        return pb.Request(
            uid=uid,
            role=role.value,
            num_conn=num_conn,
            rate=rate_mbps,
            reverse=reverse,
            queue=queue,
            idle_timeout=idle_timeout_s,
            lifetime=lifetime_s,
        )
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"uid {uid!r} cannot be sent: {error}; use a random UUID") from error


def write_hello(uid: str, role: Role, addresses: Iterable[Endpoint]) -> pb.Hello:
    """Return the HELLO message."""
    return pb.Hello(uid=uid, role=role.value, prod_listeners=map(str, addresses))


def write_update(
    uid: str,
    role: Role,
    targets: Iterable[Endpoint],
    peer_certificate_pem: bytes,
    *,
    peer_data_server: str = "",
    reverse_listeners: Iterable[Endpoint] = (),
) -> pb.UpdateTargets:
    """Return the UpdateTargets message."""
    return pb.UpdateTargets(
        uid=uid,
        role=role.value,
        remote_listeners=map(str, targets),
        peer_certificate=peer_certificate_pem,
        peer_data_server=peer_data_server,
        reverse_listeners=map(str, reverse_listeners),
    )
