"""The user client and the application controller for programs with an event loop of their own.

>>> from scistream.client.aio import Endpoint, Facility, open_session
>>> async def stream(aps: Facility, alcf: Facility) -> None:
...     async with open_session(aps, alcf, targets=[Endpoint("10.0.1.5", 5001)]) as session:
...         print("connect the consumer application to", *session.listeners)
...         print("it has ended:", await session.wait())

Programs without one use `scistream.client`, which has the same names.
"""

from scistream.client.aio.control import CallUnknown, ControlClient, Facility, Unreachable
from scistream.client.aio.hello import register
from scistream.client.aio.opening import open_session
from scistream.client.aio.reserving import reserve_side
from scistream.client.aio.session import BothSides, SessionEnd, StreamingSession
from scistream.client.handshake import Untrusted
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role

__all__ = [
    "BothSides",
    "CallUnknown",
    "ControlClient",
    "Endpoint",
    "Facility",
    "Role",
    "SessionEnd",
    "StreamingSession",
    "Unreachable",
    "Untrusted",
    "open_session",
    "register",
    "reserve_side",
]
