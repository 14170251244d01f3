"""Waits for what becomes of a session, for a program that depends on it: connected, ended.

A control server that cannot be asked is no end: streams go on while it is started again. One that stays away
is, in the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scistream.core.session import State
from scistream.errors import (
    DataServerError,
    DeadlineExceeded,
    PeerError,
    SciStreamError,
    SessionNotFound,
    WrongState,
)

if TYPE_CHECKING:
    from scistream.client.aio import ControlClient

logger = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 1.0
_ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a session has ended.

    Parameters
    ----------
    state : str
        ``released``, ``expired`` or ``failed``; ``forgotten`` where the control server does not know it any
        more; ``unreachable`` where that has been away for too long.
    reason : str
        In the words of the control server, or of the client.
    """

    state: str
    reason: str

    @property
    def is_freed(self) -> bool:
        """Whether nothing is left to release."""
        return self.state != "unreachable"

    def error(self, uid: str) -> SciStreamError:
        """Return what the end means for who has depended on session `uid`."""
        text = f"session {uid} has ended: {self.state}{': ' if self.reason else ''}{self.reason}"
        if self.state == State.FAILED:
            return DataServerError(text)
        return WrongState(text) if self.is_freed else PeerError(text)


async def wait_until_connected(client: ControlClient, uid: str, deadline_s: float) -> bool:
    """Return once session `uid` is connected; False if the control server cannot say, as the reference's.

    Parameters
    ----------
    deadline_s : float
        By the monotonic clock.

    Raises
    ------
    WrongState, SessionNotFound
        It has ended.
    DeadlineExceeded
        It is not connected by then.
    SciStreamError
        The control server cannot be asked.
    """
    from scistream.client.aio import CallUnknown

    delay_s = _FIRST_DELAY_S
    while True:
        try:
            found = await client.status(uid)
        except CallUnknown as error:
            logger.warning("session %s: starting without knowing if it is connected: %s", uid, error)
            return False
        if not found:
            raise SessionNotFound(f"session {uid} has gone from {client.endpoint}")
        if found[0].state is State.CONNECTED:
            return True
        if found[0].state.ended:
            raise WrongState(
                f"session {uid} has ended before it was connected: it is {found[0].state}"
                f"{': ' if found[0].reason else ''}{found[0].reason}"
            )
        if time.monotonic() + delay_s > deadline_s:
            raise DeadlineExceeded(
                f"session {uid} was not connected in time, it is {found[0].state}; has the producer's "
                "application been announced, at the other facility? --timeout-s waits longer"
            )
        await asyncio.sleep(delay_s)
        delay_s = min(1.5 * delay_s, _LONGEST_DELAY_S)


async def wait_until_ended(client: ControlClient, uid: str, patience_s: float) -> End:
    """Return how session `uid` has ended, once it has; never where the control server cannot say.

    Parameters
    ----------
    patience_s : float
        How long the control server may be away.
    """
    from scistream.client.aio import CallUnknown

    heard_s, was_away = time.monotonic(), False
    while True:
        try:
            found = await client.status(uid, timeout_s=min(patience_s, _ANSWER_TIMEOUT_S))
            heard_s, was_away = time.monotonic(), False
            if not found:
                return End(state="forgotten", reason=f"{client.endpoint} does not know it any more")
            if found[0].state.freed:
                return End(state=found[0].state.value, reason=found[0].reason)
        except SessionNotFound as error:
            return End(state="forgotten", reason=str(error))
        except CallUnknown as error:
            logger.warning("session %s: its end will not be noticed: %s", uid, error)
            await asyncio.Event().wait()
        except SciStreamError as error:
            if time.monotonic() - heard_s >= patience_s:
                return End(
                    state="unreachable",
                    reason=f"the control server could not be asked for {patience_s:g} s: {error}",
                )
            if not was_away:
                logger.warning("session %s goes on, its control server does not answer: %s", uid, error)
            was_away = True
        await asyncio.sleep(_LONGEST_DELAY_S)
