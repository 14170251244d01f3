"""The user client and the application controller, as a library."""

from scistream.client.app import register
from scistream.client.control import ControlClient, Facility
from scistream.client.user import BothSides, StreamingSession, open_session, reserve_side

__all__ = [
    "BothSides",
    "ControlClient",
    "Facility",
    "StreamingSession",
    "open_session",
    "register",
    "reserve_side",
]
