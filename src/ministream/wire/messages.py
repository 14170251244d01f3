"""The headers of the flow protocol between stages: JSON objects, one frozen dataclass per kind.

A message on a connection is its header, and for `Data` and `Notice` a payload behind it. Who sends what:

receiver → sender
    `Join` on each connection, and again on one that was lost and has come back; `Acknowledge` as the
    application has done with messages; `Leave`.
sender → receiver
    `Welcome` or `Refuse` for each `Join`; `Data` and `Notice`; `End`; `Leave`; `Probe` (no meaning).

Nothing here knows sockets. Parsing takes any bytes and gives a header or a `ProtocolError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from ministream.errors import ProtocolError

PROTOCOL = 2
"""Version of the flow protocol; both ends must have the same one."""

TAKEN, UNKNOWN = "taken", "unknown"
REFUSAL_CAUSES = ("", TAKEN, UNKNOWN)
"""Final; another receiver has the name, for now; the flow that was to go on is not known."""

_HEADER_LIMIT = 1 << 20
_TEXT_LIMIT = 4096
_COUNT_LIMIT = 2**53
CONNECTIONS_LIMIT = 64
CREDITS_LIMIT = 1 << 16
NOTICES_LIMIT = 1024
"""How many notices may be on their way: they need no credit, and are kept in no great number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A connection of a flow asks to be served.

    Parameters
    ----------
    protocol : int
        The receiver's version.
    flow : str
        The flow's name; all its connections carry it.
    receiver : str
        Random, the same on all connections of one receiver: another receiver cannot take the name.
    connection, connections : int
        Which one of how many.
    credits : int
        How many messages may be sent and not acknowledged.
    next_sequence, next_notice : int
        The first message and the first notice that the receiver has not got; 0 if it is new.
    arrived : int
        How much has come on this connection since the receiver began, over all the times it was lost.
    attributes : mapping
        The application's own.
    """

    protocol: int
    flow: str
    receiver: str
    connection: int
    connections: int
    credits: int
    next_sequence: int
    next_notice: int
    arrived: int
    attributes: Mapping[str, Any] = field(hash=False)

    def __post_init__(self) -> None:
        if not 0 <= self.connection < self.connections <= CONNECTIONS_LIMIT:
            raise ProtocolError(f"connection {self.connection} of {self.connections} cannot be")
        if not 1 <= self.credits <= CREDITS_LIMIT:
            raise ProtocolError(f"{self.credits} credits are not between 1 and {CREDITS_LIMIT}")
        if not self.flow or not self.receiver:
            raise ProtocolError("a flow and its receiver have names")


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The connection is part of the flow.

    Parameters
    ----------
    protocol : int
        The sender's version.
    sender : str
        Random: another process at the same address has another one.
    next_sequence, next_notice : int
        Where the flow begins for a receiver that has nothing of it: all below has been acknowledged, by
        itself or by one that was lost and had the same name.
    description : mapping
        What the sender tells about its stream.
    """

    protocol: int
    sender: str
    next_sequence: int
    next_notice: int
    description: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The connection is not served, and why.

    Parameters
    ----------
    reason : str
        For people.
    cause : str
        One of `REFUSAL_CAUSES`.
    """

    reason: str
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The payload is message number `sequence` of the flow."""

    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The application's `message` and a payload: notice number `notice`, to be delivered before a message."""

    notice: int
    before_sequence: int
    message: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """The receiver has done with messages and notices.

    Parameters
    ----------
    next_sequence : int
        All messages below it.
    next_notice : int
        All notices below it.
    received : tuple of int
        What has arrived (messages, notices, the end), by connection, since the receiver began; tells the
        sender which connections are slow, and what to send again when one is lost.
    credits : int
        How many messages may be sent and not acknowledged, from now on, if that is more than before.
    ended : bool
        The end has arrived, and everything before it.
    """

    next_sequence: int
    next_notice: int
    received: tuple[int, ...]
    credits: int
    ended: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.credits <= CREDITS_LIMIT:
            raise ProtocolError(f"{self.credits} credits are not between 1 and {CREDITS_LIMIT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The flow is complete with the messages and notices below these numbers."""

    next_sequence: int
    next_notice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Whoever sends this will close the connection; a receiver has done with messages below the number."""

    next_sequence: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Nothing; sending it shows whether the connection is still there."""


Header = Join | Welcome | Refuse | Data | Notice | Acknowledge | End | Leave | Probe

_KINDS: dict[str, type[Header]] = {
    kind.__name__.lower(): kind
    for kind in (Join, Welcome, Refuse, Data, Notice, Acknowledge, End, Leave, Probe)
}


def encode(header: Header) -> bytes:
    """Return `header` as JSON bytes."""
    content = {entry.name: getattr(header, entry.name) for entry in fields(header)}
    return json.dumps({"kind": type(header).__name__.lower(), **content}, allow_nan=False).encode()


def parse(data: bytes | memoryview) -> Header:
    """Return the header in `data`.

    Raises
    ------
    ProtocolError
        The bytes are not a header, or a field is missing, of a wrong type or out of range.
    """
    if len(data) > _HEADER_LIMIT:
        raise ProtocolError(f"a header of {len(data)} bytes is above the limit of {_HEADER_LIMIT}")
    try:
        content = json.loads(bytes(data), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a header that is not JSON: {_shown(bytes(data))}") from error
    if not isinstance(content, dict):
        raise ProtocolError(f"a header that is not a JSON object: {_shown(bytes(data))}")
    name = content.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(f"a header of unknown kind {str(name)[:40]!r}")
    # fields that a later version adds are passed over
    return kind(**{entry.name: _checked(kind, entry.name, content) for entry in fields(kind)})


def _checked(kind: type[Header], name: str, content: Mapping[str, Any]) -> Any:
    value: Any = content.get(name)
    valid = _VALID[_TYPES[name]]
    if not valid(value):
        raise ProtocolError(f"{kind.__name__.lower()}: {name} is {str(value)[:40]!r}, not {_TYPES[name]}")
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _COUNT_LIMIT


_COUNT, _TEXT, _MAPPING, _COUNTS = "a count", "a text", "an object", "a list of counts"
_CAUSE, _FLAG = f"one of {REFUSAL_CAUSES}", "true or false"
_VALID: dict[str, Callable[[Any], bool]] = {
    _COUNT: _is_count,
    _TEXT: lambda value: isinstance(value, str) and len(value) <= _TEXT_LIMIT,
    _MAPPING: lambda value: isinstance(value, dict),
    _CAUSE: lambda value: value in REFUSAL_CAUSES,
    _FLAG: lambda value: isinstance(value, bool),
    _COUNTS: lambda value: (
        isinstance(value, list) and len(value) <= CONNECTIONS_LIMIT and all(map(_is_count, value))
    ),
}
_TYPES = {
    **dict.fromkeys(("protocol", "connection", "connections", "credits", "sequence", "notice"), _COUNT),
    **dict.fromkeys(("next_sequence", "next_notice", "before_sequence", "arrived"), _COUNT),
    **dict.fromkeys(("flow", "receiver", "reason", "sender"), _TEXT),
    **dict.fromkeys(("attributes", "description", "message"), _MAPPING),
    "received": _COUNTS,
    "cause": _CAUSE,
    "ended": _FLAG,
}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _shown(data: bytes) -> str:
    return repr(data[:40]) + (" ..." if len(data) > 40 else "")
