"""The user client and the application controller for programs with an event loop of their own.

>>> from scistream.client.aio import Facility, open_session
>>> async def stream(aps: Facility, alcf: Facility) -> None:
...     async with await open_session(aps, alcf, targets=[Endpoint("10.0.1.5", 5001)]) as session:
...         print("connect the consumer application to", *session.listeners)
...         print("it has ended:", await session.wait())

Programs without one use `scistream.client`, which has the same names.
"""

from scistream.client.aio.control import CallUnknown, ControlClient, Facility, Unreachable
from scistream.client.aio.hello import register
from scistream.client.aio.opening import open_session, reserve_side
from scistream.client.aio.session import BothSides, SessionEnd, StreamingSession, release_after_failure
from scistream.core.endpoint import Endpoint

__all__ = [
    "BothSides",
    "CallUnknown",
    "ControlClient",
    "Endpoint",
    "Facility",
    "SessionEnd",
    "StreamingSession",
    "Unreachable",
    "open_session",
    "register",
    "release_after_failure",
    "reserve_side",
]
