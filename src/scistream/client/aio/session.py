"""An open session: shown, retargeted, renewed, watched until it ends, and freed on both sides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from scistream.client.aio.control import Unreachable
from scistream.client.aio.ending import Side, has_ended, release_after_failure, release_all, to_the_end, undo
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State
from scistream.core.status import SessionStatus
from scistream.errors import DeadlineExceeded, InvalidArgument, SciStreamError, SessionNotFound

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BothSides:
    """The status of a session at both control servers."""

    producer: SessionStatus
    consumer: SessionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd:
    """Which side of a session ended first, and why.

    Parameters
    ----------
    side : Role
        The side that ended.
    state : State or None
        How its control server calls the end; None where it does not know the session any more.
    reason : str
        In the words of the control server.
    """

    side: Role
    state: State | None
    reason: str

    def __str__(self) -> str:
        """Return one line for people."""
        side = "producer" if self.side is Role.PRODUCER else "consumer"
        return f"{self.state or 'forgotten'} at the {side}'s side: {self.reason}"


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
        producer: Side,
        consumer: Side,
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
        ours, theirs = await together(
            self._producer.client.status(self.uid), self._consumer.client.status(self.uid)
        )
        return BothSides(producer=ours[0], consumer=theirs[0])

    async def retarget(self, targets: Sequence[Endpoint]) -> None:
        """Lead new connections to the producer's application at `targets`; old ones finish as they are.

        Raises
        ------
        InvalidArgument
            A target is none, or there is none.
        SciStreamError
            The producer's control server cannot be reached, or refuses it. The session goes on as it was;
            only if it has ended there, the other side has been released too.
        """
        if not targets:
            raise InvalidArgument(f"session {self.uid}: retarget needs at least one target")
        peer_certificate_pem = self._consumer.certificate_pem if self.encrypted else b""
        try:
            await self._producer.client.update(
                self.uid,
                Role.PRODUCER,
                targets,
                peer_certificate_pem=peer_certificate_pem,
                peer_data_server=self._consumer.data_server,
            )
        except SciStreamError:
            if await has_ended(self._producer.client, self.uid):
                await self._release_rest()
            raise

    async def renew(self) -> None:
        """Start the session's idle timeout and lifetime anew on both sides.

        Raises
        ------
        SciStreamError
            A side could not, or is of a version that cannot; the session goes on as long as its leases say.
        """
        await together(self._producer.client.renew(self.uid), self._consumer.client.renew(self.uid))

    async def wait(self, *, interval_s: float = 1.0, patience_s: float = 60.0) -> SessionEnd:
        """Return when either side has ended, and why; the other side has been released then.

        Cancelling it leaves the session as it is.

        Parameters
        ----------
        interval_s : float
            How often both control servers are asked.
        patience_s : float
            How long one may be unreachable: streams go on while a control server is started again.

        Raises
        ------
        SciStreamError
            A control server cannot be asked. Both sides have been released, as far as they answer.
        """
        heard_s = {Role.PRODUCER: time.monotonic(), Role.CONSUMER: time.monotonic()}
        sides = {Role.PRODUCER: self._producer.client, Role.CONSUMER: self._consumer.client}
        while True:
            answers = await asyncio.gather(
                *(client.status(self.uid, timeout_s=patience_s) for client in sides.values()),
                return_exceptions=True,
            )
            for (role, client), answer in zip(sides.items(), answers, strict=True):
                if isinstance(answer, SessionNotFound):
                    return await self._ended(SessionEnd(side=role, state=None, reason=str(answer)))
                if isinstance(answer, Unreachable | DeadlineExceeded):
                    logger.warning("session %s: %s", self.uid, answer)
                    if time.monotonic() - heard_s[role] >= patience_s:
                        await self._fail(
                            DeadlineExceeded(
                                f"session {self.uid}: control server {client.endpoint} could not be "
                                f"asked for {patience_s:g} s: {answer}"
                            )
                        )
                elif isinstance(answer, BaseException):
                    await self._fail(answer)
                else:
                    heard_s[role] = time.monotonic()
                    if answer[0].state.freed:  # what it ends as is known by then
                        end = SessionEnd(side=role, state=answer[0].state, reason=answer[0].reason)
                        return await self._ended(end)
            await asyncio.sleep(interval_s)

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
            await release_all(self.uid, self._producer.client, self._consumer.client)
        finally:
            await self.detach()
        self._released = True

    async def detach(self) -> None:
        """Leave the session open and close our connections to the control servers."""
        await self._producer.close()
        await self._consumer.close()

    async def abandon(self) -> None:
        """Undo what opening it has done, for who has opened it and cannot use it; then as `detach`."""
        await undo(self.uid, self._producer, self._consumer)

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
            await to_the_end(self.release())
        except SciStreamError as failed:
            if error is None:
                raise
            logger.warning("session %s was not released: %s", self.uid, failed)

    async def _ended(self, end: SessionEnd) -> SessionEnd:
        logger.info("session %s: %s", self.uid, end)
        await self._release_rest()
        return end

    async def _fail(self, error: BaseException) -> NoReturn:
        await self._release_rest()
        raise error

    async def _release_rest(self) -> None:
        sides = self._producer.client, self._consumer.client
        self._released = await release_after_failure(self.uid, *sides)
        await self.detach()


async def together(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, Any]) -> tuple[T, Any]:
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
