"""The user client: opens a streaming session through two facilities' gateways.

Nothing is left behind: whatever fails while a session is opened, what it has created is released on both
sides. A session that was there before, under the same name, stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any

from scistream.client.access import Access, check_timeout
from scistream.client.aio.control import ControlClient, connect
from scistream.client.aio.ending import Side, undo
from scistream.client.aio.reserving import (
    TIMEOUT_S,
    Wishes,
    check_reverse,
    check_same,
    is_free,
    reserve,
)
from scistream.client.aio.session import StreamingSession, together
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import DeadlineExceeded, InvalidArgument, PeerError, SessionExists
from scistream.wire.answers import Grant

logger = logging.getLogger(__name__)

# So often a side that has been granted is renewed while the other one queues: far below the 180 s after
# which a gateway gives up waiting, unless its operator has said less.
_RENEW_S = 20.0
# What a control server lets a queued request wait at most, unless its operator says otherwise.
_QUEUE_TIMEOUT_S = 3600.0

Progress = Callable[[str], None]


class Opening(Coroutine[Any, Any, StreamingSession]):
    """A session that is being opened: awaited, it is the session; in ``async with``, released at the end.

    Made by `open_session`.

    Parameters
    ----------
    work : coroutine
        What opens the session.
    """

    def __init__(self, work: Coroutine[Any, Any, StreamingSession]) -> None:
        self._work = work
        self._session: StreamingSession | None = None

    def __await__(self) -> Generator[Any, Any, StreamingSession]:
        """Open the session and return it."""
        return self._work.__await__()

    async def __aenter__(self) -> StreamingSession:
        """Open the session and return it."""
        self._session = await self._work
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it; an error of the block is more important than one of the release."""
        if self._session is not None:
            await self._session.__aexit__(kind, error, traceback)

    def send(self, value: Any) -> Any:
        """As of any coroutine: `asyncio.create_task` takes this one too."""
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        """As of any coroutine."""
        return self._work.throw(*error)

    def close(self) -> None:
        """As of any coroutine."""
        self._work.close()


def open_session(
    producer: Access | ControlClient,
    consumer: Access | ControlClient,
    *,
    targets: Sequence[Endpoint],
    num_conn: int | None = None,
    rate_mbps: int = 0,
    reverse: bool = False,
    queue: bool = False,
    idle_timeout_s: float | None = None,
    lifetime_s: float | None = None,
    timeout_s: float | None = None,
    encrypted: bool = True,
    uid: str | None = None,
    progress: Progress | None = None,
) -> Opening:
    """Open a session: REQ to both sides at the same time, HELLO for both applications, UPDATE to both.

    To be awaited, or used as an asynchronous context manager: see `Opening`.

    Parameters
    ----------
    producer, consumer : Access or ControlClient
        The side whose application listens, and the side whose application connects. A client that is
        connected already is quicker, and stays open when the session ends.
    targets : sequence of Endpoint
        Where the producer's application listens, as its gateway reaches it.
    num_conn : int, optional
        Channels; default one per target. Channel i leads to target i modulo their number.
    rate_mbps, queue, idle_timeout_s, lifetime_s
        As in `ControlClient.request`, for both sides.
    reverse : bool
        Have the producer's gateway dial the consumer's, as it cannot be reached itself. Both need native data
        servers.
    timeout_s : float, optional
        For all of it; default 30 s, and with `queue` an hour.
    encrypted : bool
        Whether to insist that the leg between the gateways is encrypted.
    uid : str, optional
        The session's name; default a random UUID. Where a session of that name and with the same parameters
        is there already, it is this one.
    progress : callable, optional
        Told in a few words, each time, what is waited for.

    Raises
    ------
    InvalidArgument
        There is no target, or both sides are the same control server.
    ConfigurationError
        `timeout_s` is no time, or a facility's token or certificate cannot be used.
    SessionExists
        There is another session of that name; it goes on.
    DeadlineExceeded
        It took longer than `timeout_s`.
    PeerError
        A control server cannot be reached, one does not encrypt and `encrypted` is set, or one does not know
        of reverse channels and `reverse` is.
    SciStreamError
        Whatever a control server refuses it with. What had been created has been released on both sides.
    """
    if timeout_s is None:
        timeout_s = _QUEUE_TIMEOUT_S if queue else TIMEOUT_S
    wishes = Wishes(
        num_conn=len(targets) if num_conn is None else num_conn,
        rate_mbps=rate_mbps,
        reverse=reverse,
        queue=queue,
        idle_timeout_s=idle_timeout_s,
        lifetime_s=lifetime_s,
    )
    return Opening(
        _open(
            producer,
            consumer,
            targets,
            wishes,
            timeout_s,
            uid,
            progress or _say_nothing,
            encrypted=encrypted,
        )
    )


async def _open(
    producer: Access | ControlClient,
    consumer: Access | ControlClient,
    targets: Sequence[Endpoint],
    wishes: Wishes,
    timeout_s: float,
    uid: str | None,
    progress: Progress,
    *,
    encrypted: bool,
) -> StreamingSession:
    if not targets:
        raise InvalidArgument("a session needs at least one target: where the producer's application listens")
    if _is_same(producer.endpoint, consumer.endpoint):
        raise InvalidArgument(
            f"producer and consumer are the same control server, {producer.endpoint}; a session leads "
            "through the gateways of two facilities, each with a control server of its own"
        )
    check_timeout(timeout_s)
    if 0 < wishes.num_conn < len(targets):
        logger.warning(
            "%d targets for num_conn %d: not used are %s",
            len(targets),
            wishes.num_conn,
            ", ".join(map(str, targets[wishes.num_conn :])),
        )
    started_s = time.monotonic()
    ours, theirs = _side(producer), _side(consumer)
    opening = _Steps(uid, ours, theirs, targets, wishes, timeout_s, progress)
    try:
        async with asyncio.timeout(timeout_s):
            listeners, is_encrypted = await opening.run(encrypted=encrypted)
    except BaseException as error:
        await undo(opening.uid, ours, theirs)
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded(
                f"session {opening.uid} could not be opened within {timeout_s:g} s: {opening.waiting}"
            ) from error
        raise
    setup_s = time.monotonic() - started_s
    logger.info("session %s is open after %.3f s", opening.uid, setup_s)
    return StreamingSession(
        uid=opening.uid,
        listeners=listeners,
        encrypted=is_encrypted,
        setup_s=setup_s,
        producer=ours,
        consumer=theirs,
    )


class _Steps:
    """The steps of opening one session, and which of them is waited for."""

    def __init__(
        self,
        uid: str | None,
        producer: Side,
        consumer: Side,
        targets: Sequence[Endpoint],
        wishes: Wishes,
        timeout_s: float,
        progress: Progress,
    ) -> None:
        self.uid = str(uuid.uuid4()) if uid is None else uid
        self._is_new = uid is None
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
        reverse = self._wishes.reverse
        for side, grant in ((self._producer, ours), (self._consumer, theirs)):
            if reverse:
                check_reverse(side.client, self.uid, grant)
            accepts = not reverse or side is self._consumer
            if accepts and not grant.listeners:
                raise PeerError(
                    f"control server {side.client.endpoint} granted session {self.uid} without any listener"
                )
            if encrypted and not grant.certificate_pem:
                raise PeerError(
                    f"control server {side.client.endpoint} does not encrypt session {self.uid}, and that "
                    "was insisted on; have its operator allow encryption, or allow plain TCP "
                    "(--plain, encrypted=False)"
                )
            side.certificate_pem = grant.certificate_pem
            side.data_server = grant.data_server
        both = bool(ours.certificate_pem and theirs.certificate_pem)
        self._tell("waiting for both data servers to connect")
        await together(
            self._producer.client.update(
                self.uid,
                Role.PRODUCER,
                ours.destinations or self._targets,
                peer_certificate_pem=theirs.certificate_pem if both else b"",
                peer_data_server=theirs.data_server,
                reverse_listeners=theirs.reverse_listeners,
                timeout_s=self._timeout_s,
            ),
            self._consumer.client.update(
                self.uid,
                Role.CONSUMER,
                () if reverse else ours.listeners,
                peer_certificate_pem=ours.certificate_pem if both else b"",
                peer_data_server=ours.data_server,
                timeout_s=self._timeout_s,
            ),
        )
        return theirs.listeners, both

    async def _reserve(self, side: Side, role: Role, addresses: Sequence[Endpoint]) -> Grant:
        side.created = self._is_new or await is_free(side.client, self.uid, timeout_s=self._timeout_s)
        try:
            grant = await reserve(side.client, self.uid, role, addresses, self._wishes, self._timeout_s)
        except SessionExists:  # it has come in between
            side.created = False
            raise
        if not side.created:
            check_same(side.client, self.uid, addresses, grant)
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
                await side.client.renew(self.uid)

    def _tell(self, text: str = "") -> None:
        self.waiting = text or f"waiting for ports at {' and '.join(map(str, self._awaited))}"
        self._progress(self.waiting)


def _side(gateway: Access | ControlClient) -> Side:
    if isinstance(gateway, ControlClient):
        return Side(client=gateway, owned=False)
    return Side(client=connect(gateway), owned=True)


def _is_same(first: Endpoint, second: Endpoint) -> bool:
    """Return whether two addresses are surely one server's: ``localhost`` is either loopback address."""
    hosts = {first.host.lower(), second.host.lower()}
    by_name = "localhost" in hosts and hosts <= {"localhost", "127.0.0.1", "::1"}
    return first.port == second.port and (len(hosts) == 1 or by_name)


def _say_nothing(_: str) -> None:
    pass
