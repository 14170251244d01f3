"""Flow-controlled delivery of messages between stages: credits, order, exactly once."""

from ministream.transport.flow import (
    FIRST_CREDITS,
    RECONNECT_TIMEOUT_S,
    Acknowledged,
    Ended,
    FlowEvent,
    Joined,
    Left,
    Message,
    Notice,
    credits_for,
    wait_any,
)
from ministream.transport.inlet import Inlet
from ministream.transport.link_key import LinkKey, is_loopback, link_key_for
from ministream.transport.outlet import Outlet

__all__ = [
    "FIRST_CREDITS",
    "RECONNECT_TIMEOUT_S",
    "Acknowledged",
    "Ended",
    "FlowEvent",
    "Inlet",
    "Joined",
    "Left",
    "LinkKey",
    "Message",
    "Notice",
    "Outlet",
    "credits_for",
    "is_loopback",
    "link_key_for",
    "wait_any",
]
