"""REQ and HELLO to one control server, and whether what that makes is ours to undo."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from scistream.client.aio.control import CallUnknown, ControlClient
from scistream.client.aio.hello import say_hello
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import InvalidArgument, PeerError, SessionExists, SessionNotFound
from scistream.wire.answers import Grant

# Between the refusals of HELLO and of REQ, which were sent together.
_REFUSAL_TIMEOUT_S = 0.5

#: For opening a session or one side of it, if nothing else is said.
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What both sides of a session are asked for; as in `ControlClient.request`."""

    num_conn: int
    rate_mbps: int = 0
    reverse: bool = False
    queue: bool = False
    idle_timeout_s: float | None = None
    lifetime_s: float | None = None


async def reserve_side(
    client: ControlClient,
    uid: str,
    role: Role,
    *,
    addresses: Sequence[Endpoint] = (),
    num_conn: int = 1,
    rate_mbps: int = 0,
    reverse: bool = False,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Grant:
    """Open one side of a session and say hello for its application: all but the connection.

    Raises
    ------
    PeerError
        `reverse` is asked for, and the control server does not know of that; what it has granted is released
        by whoever has asked.
    SciStreamError
        Whatever the control server refuses it with. What was reserved is freed by the server.
    """
    wishes = Wishes(
        num_conn=num_conn,
        rate_mbps=rate_mbps,
        reverse=reverse,
        queue=queue,
        idle_timeout_s=idle_timeout_s,
        lifetime_s=lifetime_s,
    )
    return await reserve(client, uid, role, addresses, wishes, timeout_s)


async def is_free(client: ControlClient, uid: str, *, timeout_s: float) -> bool:
    """Return whether the control server has no live session `uid` of ours; asked before REQ.

    What REQ makes then is ours to undo, if something fails; a session that was there is not, for REQ of the
    same parameters joins it. A server that cannot be asked so, of another version, is taken to have none.

    Raises
    ------
    InvalidArgument
        The uid is empty.
    SciStreamError
        The control server does not answer.
    """
    if not uid:
        raise InvalidArgument("the session's uid is empty; give one, or none for a random one")
    try:
        sessions = await client.status(uid, timeout_s=timeout_s)
    except (SessionNotFound, CallUnknown):
        return True
    return all(one.state.ended for one in sessions)


def check_reverse(client: ControlClient, uid: str, grant: Grant) -> None:
    """Check that a control server that was asked for reverse channels has understood it.

    Raises
    ------
    PeerError
        It is of a version that knows nothing of them.
    """
    if not grant.reverse:
        raise PeerError(
            f"control server {client.endpoint} granted session {uid} without reverse channels: its version "
            "does not know them; ask its operator for a newer one, or ask without --reverse (reverse=False)"
        )


def check_same(client: ControlClient, uid: str, addresses: Sequence[Endpoint], grant: Grant) -> None:
    """Check that a session that was there before is for the application at `addresses`, if there are any.

    Raises
    ------
    SessionExists
        It is for another one.
    """
    if addresses and grant.destinations != tuple(addresses):
        raise SessionExists(
            f"session {uid} is at {client.endpoint} already, for the application at "
            f"{', '.join(map(str, grant.destinations))}; lead it elsewhere (s2uc update {uid} --target …, "
            "retarget), use another uid, or release it first"
        )


async def reserve(
    client: ControlClient,
    uid: str,
    role: Role,
    addresses: Sequence[Endpoint],
    wishes: Wishes,
    timeout_s: float,
) -> Grant:
    """Send REQ, and HELLO on a second stream while REQ is pending.

    What REQ is answered with is the outcome: a HELLO still being said then is not needed any more.
    """
    request = asyncio.ensure_future(
        client.request(
            uid,
            role,
            num_conn=wishes.num_conn,
            rate_mbps=wishes.rate_mbps,
            reverse=wishes.reverse,
            queue=wishes.queue,
            idle_timeout_s=wishes.idle_timeout_s,
            lifetime_s=wishes.lifetime_s,
            timeout_s=timeout_s,
        )
    )
    hello = asyncio.ensure_future(say_hello(client, uid, role, addresses, timeout_s=timeout_s))
    try:
        await asyncio.wait({request, hello}, return_when=asyncio.FIRST_COMPLETED)
        if not request.done() and hello.exception() is not None:
            # where REQ is refused too, its answer is on its way, and says more
            await asyncio.wait({request}, timeout=_REFUSAL_TIMEOUT_S)
            if not request.done():
                hello.result()
        return await request
    finally:
        for task in (request, hello):
            task.cancel()
        await asyncio.gather(request, hello, return_exceptions=True)
