"""The user client and the application controller, as a library.

A producer's application listens at 10.0.1.5:5001, inside its facility. This opens a session to it through
both facilities' gateways, and releases it on both sides at the end of the block, whatever happens in it:

>>> from scistream.client import Endpoint, Facility, open_session
>>> aps = Facility(
...     endpoint=Endpoint("gateway.aps.example", 5000),
...     server_certificate_pem=Path("aps.crt").read_bytes(),
...     token=Path("aps.token").read_text().strip(),
... )  # doctest: +SKIP
>>> with open_session(aps, alcf, targets=[Endpoint("10.0.1.5", 5001)]) as session:  # doctest: +SKIP
...     print("connect the consumer application to", *session.listeners)
...     print(session.status().consumer.bytes_forwarded, "bytes so far")

Works in scripts, threads and notebooks. Programs with an event loop of their own use `scistream.client.aio`,
which has the same names. Every error is a `scistream.errors.SciStreamError`.
"""

from scistream.client.aio import BothSides, CallUnknown, SessionEnd, Unreachable, Untrusted
from scistream.client.control import ControlClient, Facility
from scistream.client.session import StreamingSession, open_session, register, reserve_side
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
