"""What ends a session, on one side or both, whatever else has failed or is being cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from scistream.client.aio.control import ControlClient
from scistream.errors import SciStreamError, SessionNotFound

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Releasing after a failure must not take longer than the user is willing to wait for the error. A server that
# has got the release carries it out, whether its answer is waited for or not.
UNDO_TIMEOUT_S = 5.0


@dataclass(slots=True, kw_only=True)
class Side:
    """One control server of an open session.

    Parameters
    ----------
    client : ControlClient
        The calls.
    certificate_pem : bytes
        This side's session certificate.
    data_server : str
        Kind of this side's data server.
    owned : bool
        Whether the connection ends with the session.
    created : bool
        Whether opening the session has created it here; what was here before is not undone.
    """

    client: ControlClient
    owned: bool
    certificate_pem: bytes = b""
    data_server: str = ""
    created: bool = False

    async def close(self) -> None:
        """Close the connection if it is the session's."""
        if self.owned:
            await self.client.close()


async def release_all(uid: str, *clients: ControlClient) -> None:
    """Release session `uid` at every control server, and raise the first error after that."""
    outcomes = await asyncio.gather(*(client.release(uid) for client in clients), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def release_after_failure(uid: str, *clients: ControlClient) -> bool:
    """Release session `uid` everywhere within a short time; return whether all have confirmed it.

    Who is cancelled meanwhile is so after that.
    """

    async def work() -> bool:
        try:
            async with asyncio.timeout(UNDO_TIMEOUT_S):
                await release_all(uid, *clients)
        except (SciStreamError, TimeoutError) as failed:
            logger.info("session %s: releasing after a failure: %s", uid, failed)
            return False
        return True

    return await to_the_end(work())


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end and return its result; who is cancelled meanwhile is so after that."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.info("after the cancellation: %s", error)
        raise


async def undo(uid: str, *sides: Side) -> None:
    """Release session `uid` on the sides where opening it has created it, and close our connections."""
    created = [side.client for side in sides if side.created]
    try:
        if created:
            await release_after_failure(uid, *created)
    finally:
        for side in sides:
            await side.close()


async def has_ended(client: ControlClient, uid: str) -> bool:
    """Return whether session `uid` has ended at a control server; one that does not answer says nothing."""
    try:
        sessions = await client.status(uid, timeout_s=UNDO_TIMEOUT_S)
    except SessionNotFound:
        return True
    except SciStreamError as error:
        logger.info("session %s: %s", uid, error)
        return False
    return all(one.state.ended for one in sessions)
