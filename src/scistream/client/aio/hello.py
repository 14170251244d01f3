"""The application controller: tells a control server where an application listens, for one session.

It may come before the user's request: it says hello again until the session is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from scistream.client.access import Access, check_timeout
from scistream.client.aio.control import ControlClient, UnnamedFault, connect
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import DeadlineExceeded, SciStreamError, SessionNotFound

logger = logging.getLogger(__name__)

# A control server of ours holds an early hello itself for some seconds; others answer at once.
_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 2.0


async def register(
    facility: Access,
    uid: str,
    role: Role,
    addresses: Sequence[Endpoint] = (),
    *,
    timeout_s: float = 180,
) -> tuple[Endpoint, ...]:
    """Say hello for the application of session `uid`; return the listeners of this side's data server.

    Parameters
    ----------
    role : Role
        PRODUCER: `addresses` are where the application listens. CONSUMER: it will connect to the result.
    timeout_s : float
        How long to wait for the session to be requested.

    Raises
    ------
    DeadlineExceeded
        Nobody requested the session in time.
    SciStreamError
        Whatever else the control server refuses it with.
    """
    async with connect(facility) as client:
        return await say_hello(client, uid, role, addresses, timeout_s=timeout_s)


async def say_hello(
    client: ControlClient,
    uid: str,
    role: Role,
    addresses: Sequence[Endpoint],
    *,
    timeout_s: float,
) -> tuple[Endpoint, ...]:
    """Say hello again until session `uid` has been requested; return the data server's listeners.

    The reference implementation says of a session that it does not know (yet), as of everything else, only
    that something failed: such an answer is tried again too.

    Raises
    ------
    DeadlineExceeded
        Nobody requested the session in time.
    SciStreamError
        Whatever else the control server refuses it with.
    """
    check_timeout(timeout_s)
    delay_s = _FIRST_DELAY_S
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            left_s = max(deadline_s - time.monotonic(), 0.001)
            return await client.hello(uid, role, addresses, timeout_s=left_s)
        except (SessionNotFound, UnnamedFault) as error:
            if time.monotonic() + delay_s >= deadline_s:
                raise _nobody_asked(client, uid, timeout_s, error) from error
            logger.info("session %s is not requested yet: %s", uid, error)
        except DeadlineExceeded as error:
            if time.monotonic() >= deadline_s:
                raise _nobody_asked(client, uid, timeout_s, error) from error
            raise
        await asyncio.sleep(delay_s)
        delay_s = min(2 * delay_s, _LONGEST_DELAY_S)


def _nobody_asked(
    client: ControlClient, uid: str, timeout_s: float, error: SciStreamError
) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"session {uid} was not requested at {client.endpoint} within {timeout_s:g} s; check the uid, and "
        f"that user and application use the same control server and user. It said last: {error}"
    )
