"""Which report says that a command could not be carried out: the command decides, whatever the error is."""

from __future__ import annotations

from scistream.core.commands import BindListeners, RecoverListeners, RetargetDataServer, StartDataServer
from scistream.core.events import DataServerFailed, Event, ReservationFailed, RetargetFailed

ShellCommand = BindListeners | RecoverListeners | StartDataServer


def failed(command: ShellCommand, reason: str) -> Event:
    """Return the report that `command` could not be carried out."""
    match command:
        case BindListeners() | RecoverListeners():
            return ReservationFailed(key=command.key, reason=reason)
        case RetargetDataServer():
            return RetargetFailed(key=command.key, generation=command.generation, reason=reason)
    return DataServerFailed(key=command.key, reason=reason)


def unexpected(error: Exception) -> str:
    """Return the reason that callers are told for an error that nobody has thought of."""
    return f"unexpected {type(error).__name__} in the control server; its log says more"
