"""Flow-controlled delivery of messages between stages: credits, order, exactly once."""

from ministream.transport.flow import (
    RECONNECT_TIMEOUT_S,
    Acknowledged,
    Ended,
    FlowEvent,
    Joined,
    Left,
    Message,
    Notice,
    wait_any,
)
from ministream.transport.inlet import Inlet
from ministream.transport.outlet import Outlet

__all__ = [
    "RECONNECT_TIMEOUT_S",
    "Acknowledged",
    "Ended",
    "FlowEvent",
    "Inlet",
    "Joined",
    "Left",
    "Message",
    "Notice",
    "Outlet",
    "wait_any",
]
