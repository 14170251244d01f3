"""The application controller: tells a control server where an application listens, for one session.

It may come before the user's request: it says hello again until the session is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from scistream.client.control import Facility
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.errors import DeadlineExceeded, SessionNotFound

logger = logging.getLogger(__name__)

# A control server of ours holds an early hello itself for some seconds; others answer at once.
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0


async def register(
    facility: Facility,
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
    async with facility.connect() as client:
        delay_s = _FIRST_DELAY_S
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return await client.hello(uid, role, addresses, timeout_s=timeout_s)
                    except SessionNotFound:
                        logger.info("session %s is not requested yet", uid)
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"session {uid} was not requested at {facility.endpoint} within {timeout_s:g} s; "
                "check the uid, and that user and application use the same control server and user"
            ) from error
