"""The user client: opens a streaming session through two facilities' gateways, watches it, ends it.

Nothing is left behind: whatever fails while a session is opened, both sides are released.

>>> async def example(aps: Facility, alcf: Facility) -> None:
...     async with await open_session(aps, alcf, targets=[Endpoint("10.0.1.5", 5001)]) as session:
...         print("connect the consumer application to", *session.listeners)
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from scistream.client.control import ControlClient, Facility
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.status import SessionStatus
from scistream.errors import DeadlineExceeded, InvalidArgument, PeerError, SciStreamError
from scistream.wire.convert import Grant

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Releasing after a failure must not take longer than the user is willing to wait for the error. A server that
# has got the release carries it out, whether its answer is waited for or not.
_UNDO_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BothSides:
    """The status of a session at both control servers."""

    producer: SessionStatus
    consumer: SessionStatus


class StreamingSession:
    """A session that is open at both facilities; an asynchronous context manager that releases it.

    Made by `open_session`.

    Attributes
    ----------
    uid : str
        Its name at both control servers.
    listeners : tuple of Endpoint
        Where the consumer application connects, at the consumer's gateway; one per channel.
    encrypted : bool
        Whether the leg between the gateways is TLS 1.3, each side proving its session key.
    setup_s : float
        How long opening it took.
    """

    def __init__(
        self,
        *,
        uid: str,
        listeners: tuple[Endpoint, ...],
        encrypted: bool,
        setup_s: float,
        producer: ControlClient,
        consumer: ControlClient,
    ) -> None:
        self.uid = uid
        self.listeners = listeners
        self.encrypted = encrypted
        self.setup_s = setup_s
        self._producer = producer
        self._consumer = consumer
        self._released = False

    async def status(self) -> BothSides:
        """Return what both control servers show of the session.

        Raises
        ------
        SciStreamError
            One of them does not answer, or does not know the session any more.
        """
        ours, theirs = await _together(self._producer.status(self.uid), self._consumer.status(self.uid))
        return BothSides(producer=ours[0], consumer=theirs[0])

    async def release(self) -> None:
        """End the session on both sides; return when everything is free. Idempotent.

        Raises
        ------
        SciStreamError
            A side did not confirm; the other one was released all the same. Calling it again tries again.
        """
        if self._released:
            return
        try:
            await _release(self.uid, self._producer, self._consumer)
        finally:
            await self.detach()
        self._released = True

    async def detach(self) -> None:
        """Leave the session open and close our connections to the control servers."""
        await self._producer.close()
        await self._consumer.close()

    async def __aenter__(self) -> StreamingSession:
        """Return the session itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release it; an error of the block is more important than one of the release."""
        try:
            await self.release()
        except SciStreamError as failed:
            if error is None:
                raise
            logger.warning("session %s was not released: %s", self.uid, failed)


async def open_session(
    producer: Facility,
    consumer: Facility,
    *,
    targets: Sequence[Endpoint],
    num_conn: int | None = None,
    rate_mbps: int = 0,
    timeout_s: float = 30,
    encrypted: bool = True,
    uid: str | None = None,
) -> StreamingSession:
    """Open a session: REQ to both sides at the same time, HELLO for both applications, UPDATE to both.

    Parameters
    ----------
    producer, consumer : Facility
        The side whose application listens, and the side whose application connects.
    targets : sequence of Endpoint
        Where the producer's application listens, as its gateway reaches it.
    num_conn : int, optional
        Channels; default one per target.
    rate_mbps : int
        Rate that is asked for, in Mb/s; 0 is no wish.
    timeout_s : float
        For all of it.
    encrypted : bool
        Whether to insist that the leg between the gateways is encrypted.
    uid : str, optional
        The session's name; default a random UUID.

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
    uid = uid or str(uuid.uuid4())
    started_s = time.monotonic()
    clients = producer.connect(), consumer.connect()
    try:
        async with asyncio.timeout(timeout_s):
            listeners, is_encrypted = await _open(
                uid, *clients, targets, num_conn or len(targets), rate_mbps, encrypted=encrypted
            )
    except BaseException as error:
        try:
            async with asyncio.timeout(_UNDO_TIMEOUT_S):
                await _release(uid, *clients)
        except (SciStreamError, TimeoutError) as failed:
            logger.info("session %s: releasing after a failure: %s", uid, failed)
        for client in clients:
            await client.close()
        if isinstance(error, TimeoutError):
            raise DeadlineExceeded(f"session {uid} could not be opened within {timeout_s:g} s") from error
        raise
    setup_s = time.monotonic() - started_s
    logger.info("session %s is open after %.3f s", uid, setup_s)
    return StreamingSession(
        uid=uid,
        listeners=listeners,
        encrypted=is_encrypted,
        setup_s=setup_s,
        producer=clients[0],
        consumer=clients[1],
    )


async def _open(
    uid: str,
    producer: ControlClient,
    consumer: ControlClient,
    targets: Sequence[Endpoint],
    num_conn: int,
    rate_mbps: int,
    *,
    encrypted: bool,
) -> tuple[tuple[Endpoint, ...], bool]:
    ours, theirs = await _together(
        reserve_side(producer, uid, Role.PRODUCER, addresses=targets, num_conn=num_conn, rate_mbps=rate_mbps),
        reserve_side(consumer, uid, Role.CONSUMER, num_conn=num_conn, rate_mbps=rate_mbps),
    )
    for client, grant in ((producer, ours), (consumer, theirs)):
        if not grant.listeners:
            raise PeerError(f"control server {client.endpoint} granted session {uid} without any listener")
        if encrypted and not grant.certificate_pem:
            raise PeerError(
                f"control server {client.endpoint} does not encrypt session {uid}, and that was insisted on; "
                "have its operator allow encryption, or allow plain TCP (--plain, encrypted=False)"
            )
    both = bool(ours.certificate_pem and theirs.certificate_pem)
    await _together(
        producer.update(
            uid,
            Role.PRODUCER,
            ours.destinations or targets,
            peer_certificate_pem=theirs.certificate_pem if both else b"",
        ),
        consumer.update(
            uid,
            Role.CONSUMER,
            ours.listeners,
            peer_certificate_pem=ours.certificate_pem if both else b"",
        ),
    )
    return theirs.listeners, both


async def reserve_side(
    client: ControlClient,
    uid: str,
    role: Role,
    *,
    addresses: Sequence[Endpoint] = (),
    num_conn: int = 1,
    rate_mbps: int = 0,
    timeout_s: float = 30,
) -> Grant:
    """Open one side of a session and say hello for its application: all but the connection.

    Raises
    ------
    SciStreamError
        Whatever the control server refuses it with. What was reserved is freed by the server.
    """
    grant, _ = await _together(
        client.request(uid, role, num_conn=num_conn, rate_mbps=rate_mbps, timeout_s=timeout_s),
        client.hello(uid, role, addresses, timeout_s=timeout_s),
    )
    return grant


async def _release(uid: str, *clients: ControlClient) -> None:
    outcomes = await asyncio.gather(*(client.release(uid) for client in clients), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _together(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, Any]) -> tuple[T, Any]:
    """Run both at the same time and return both results; the first error cancels the other and is raised."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        for error in failed:
            if error is not None:
                raise error
        return tasks[0].result(), tasks[1].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
