"""The user client: opens a streaming session through two facilities' gateways.

Nothing is left behind: whatever fails while a session is opened, both sides are released.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scistream.client.access import Access
from scistream.client.aio.control import ControlClient, connect
from scistream.client.aio.hello import say_hello
from scistream.client.aio.session import Side, StreamingSession, release_after_failure, together
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import DeadlineExceeded, InvalidArgument, PeerError
from scistream.wire.convert import Grant

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
# So often a side that has been granted is renewed while the other one queues: far below the 180 s after
# which a gateway gives up waiting, unless its operator has said less.
_RENEW_S = 20.0
# What a control server lets a queued request wait at most, unless its operator says otherwise.
_QUEUE_TIMEOUT_S = 3600.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What both sides of a session are asked for; as in `ControlClient.request`."""

    num_conn: int
    rate_mbps: int = 0
    queue: bool = False
    idle_timeout_s: float | None = None
    lifetime_s: float | None = None


async def open_session(
    producer: Access | ControlClient,
    consumer: Access | ControlClient,
    *,
    targets: Sequence[Endpoint],
    num_conn: int | None = None,
    rate_mbps: int = 0,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
    timeout_s: float | None = None,
    encrypted: bool = True,
    uid: str | None = None,
    progress: Progress | None = None,
) -> StreamingSession:
    """Open a session: REQ to both sides at the same time, HELLO for both applications, UPDATE to both.

    Parameters
    ----------
    producer, consumer : Access or ControlClient
        The side whose application listens, and the side whose application connects. A client that is
        connected already is quicker, and stays open when the session ends.
    targets : sequence of Endpoint
        Where the producer's application listens, as its gateway reaches it.
    num_conn : int, optional
        Channels; default one per target.
    rate_mbps, queue, idle_timeout_s, lifetime_s
        As in `ControlClient.request`, for both sides.
    timeout_s : float, optional
        For all of it; default 30 s, and with `queue` an hour.
    encrypted : bool
        Whether to insist that the leg between the gateways is encrypted.
    uid : str, optional
        The session's name; default a random UUID.
    progress : callable, optional
        Told in a few words, each time, what is waited for.

    Raises
    ------
    InvalidArgument
        There is no target.
    DeadlineExceeded
        It took longer than `timeout_s`.
    PeerError
        A control server cannot be reached, or one does not encrypt and `encrypted` is set.
    SciStreamError
        Whatever a control server refuses it with. Both sides have been released.
    """
    if not targets:
        raise InvalidArgument("a session needs at least one target: where the producer's application listens")
    if timeout_s is None:
        timeout_s = _QUEUE_TIMEOUT_S if queue else _TIMEOUT_S
    uid = uid or str(uuid.uuid4())
    wishes = Wishes(
        num_conn=len(targets) if num_conn is None else num_conn,
        rate_mbps=rate_mbps,
        queue=queue,
        idle_timeout_s=idle_timeout_s,
        lifetime_s=lifetime_s,
    )
    started_s = time.monotonic()
    ours, theirs = _side(producer), _side(consumer)
    opening = _Opening(uid, ours, theirs, targets, wishes, timeout_s, progress or _say_nothing)
    try:
        async with asyncio.timeout(timeout_s):
            listeners, is_encrypted = await opening.run(encrypted=encrypted)
    except BaseException as error:
        await release_after_failure(uid, ours.client, theirs.client)
        for side in (ours, theirs):
            await side.close()
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded(
                f"session {uid} could not be opened within {timeout_s:g} s: {opening.waiting}"
            ) from error
        raise
    setup_s = time.monotonic() - started_s
    logger.info("session %s is open after %.3f s", uid, setup_s)
    return StreamingSession(
        uid=uid,
        listeners=listeners,
        encrypted=is_encrypted,
        setup_s=setup_s,
        producer=ours,
        consumer=theirs,
    )


async def reserve_side(
    client: ControlClient,
    uid: str,
    role: Role,
    *,
    addresses: Sequence[Endpoint] = (),
    num_conn: int = 1,
    rate_mbps: int = 0,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Grant:
    """Open one side of a session and say hello for its application: all but the connection.

    Raises
    ------
    SciStreamError
        Whatever the control server refuses it with. What was reserved is freed by the server.
    """
    wishes = Wishes(
        num_conn=num_conn,
        rate_mbps=rate_mbps,
        queue=queue,
        idle_timeout_s=idle_timeout_s,
        lifetime_s=lifetime_s,
    )
    return await _reserve(client, uid, role, addresses, wishes, timeout_s)


class _Opening:
    """The steps of opening one session, and which of them is waited for."""

    def __init__(
        self,
        uid: str,
        producer: Side,
        consumer: Side,
        targets: Sequence[Endpoint],
        wishes: Wishes,
        timeout_s: float,
        progress: Progress,
    ) -> None:
        self._uid = uid
        self._producer, self._consumer = producer, consumer
        self._targets = targets
        self._wishes = wishes
        self._timeout_s = timeout_s
        self._progress = progress
        self._awaited = [producer.client.endpoint, consumer.client.endpoint]
        self._all_granted = asyncio.Event()
        self.waiting = ""

    async def run(self, *, encrypted: bool) -> tuple[tuple[Endpoint, ...], bool]:
        """Return the consumer's listeners, and whether the leg between the gateways is encrypted."""
        self._tell()
        ours, theirs = await together(
            self._reserve(self._producer, Role.PRODUCER, self._targets),
            self._reserve(self._consumer, Role.CONSUMER, ()),
        )
        for side, grant in ((self._producer, ours), (self._consumer, theirs)):
            if not grant.listeners:
                raise PeerError(
                    f"control server {side.client.endpoint} granted session {self._uid} without any listener"
                )
            if encrypted and not grant.certificate_pem:
                raise PeerError(
                    f"control server {side.client.endpoint} does not encrypt session {self._uid}, and that "
                    "was insisted on; have its operator allow encryption, or allow plain TCP "
                    "(--plain, encrypted=False)"
                )
            side.certificate_pem = grant.certificate_pem
        both = bool(ours.certificate_pem and theirs.certificate_pem)
        self._tell("waiting for both data servers to connect")
        await together(
            self._producer.client.update(
                self._uid,
                Role.PRODUCER,
                ours.destinations or self._targets,
                peer_certificate_pem=theirs.certificate_pem if both else b"",
                timeout_s=self._timeout_s,
            ),
            self._consumer.client.update(
                self._uid,
                Role.CONSUMER,
                ours.listeners,
                peer_certificate_pem=ours.certificate_pem if both else b"",
                timeout_s=self._timeout_s,
            ),
        )
        return theirs.listeners, both

    async def _reserve(self, side: Side, role: Role, addresses: Sequence[Endpoint]) -> Grant:
        grant = await _reserve(side.client, self._uid, role, addresses, self._wishes, self._timeout_s)
        self._awaited.remove(side.client.endpoint)
        if self._awaited:
            self._tell()
            if self._wishes.queue:
                await self._keep(side)
        else:
            self._all_granted.set()
        return grant

    async def _keep(self, side: Side) -> None:
        """Renew what `side` has granted until the other one has granted too."""
        while self._awaited:
            try:
                async with asyncio.timeout(_RENEW_S):
                    await self._all_granted.wait()
            except TimeoutError:
                await side.client.renew(self._uid)

    def _tell(self, text: str = "") -> None:
        self.waiting = text or f"waiting for ports at {' and '.join(map(str, self._awaited))}"
        self._progress(self.waiting)


async def _reserve(
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
            queue=wishes.queue,
            idle_timeout_s=wishes.idle_timeout_s,
            lifetime_s=wishes.lifetime_s,
            timeout_s=timeout_s,
        )
    )
    hello = asyncio.ensure_future(say_hello(client, uid, role, addresses, timeout_s=timeout_s))
    try:
        await asyncio.wait({request, hello}, return_when=asyncio.FIRST_COMPLETED)
        if not request.done():
            hello.result()  # refused: there is nothing to wait for
        return await request
    finally:
        for task in (request, hello):
            task.cancel()
        await asyncio.gather(request, hello, return_exceptions=True)


def _side(gateway: Access | ControlClient) -> Side:
    if isinstance(gateway, ControlClient):
        return Side(client=gateway, owned=False)
    return Side(client=connect(gateway), owned=True)


def _say_nothing(_: str) -> None:
    pass
