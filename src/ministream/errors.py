"""Every error that ministream raises on purpose, by whose fault it is.

::

    MiniStreamError
    ├── InputError          a file, dataset, shape, value or option that cannot be used
    ├── OutputError         a result that cannot be written (disk full, no permission)
    ├── ConnectionFailed    an address that cannot be bound, reached or kept
    │   ├── PortInUse       ... because another program listens there
    │   └── FlowUnknown     ... because the sender is another one, and cannot go on with the stream
    ├── ProtocolError       a peer's message that cannot be understood
    └── StageError          a stage that died; the message carries its own last words
"""

from __future__ import annotations


class MiniStreamError(Exception):
    """Root of every error that this package raises on purpose."""


class InputError(MiniStreamError):
    """A file, dataset, shape, value or option cannot be used as it is."""


class OutputError(MiniStreamError):
    """A result cannot be written."""


class ConnectionFailed(MiniStreamError):
    """An address cannot be bound, reached, or kept."""


class PortInUse(ConnectionFailed):
    """An address cannot be bound: another program listens there."""


class FlowUnknown(ConnectionFailed):
    """The sender does not know the flow that was to go on: it was started again, or has given the flow up."""


class ProtocolError(MiniStreamError):
    """A peer sent what cannot be understood."""


class StageError(MiniStreamError):
    """A stage of the pipeline ended before its work was done.

    Parameters
    ----------
    message : str
    exit_code : int or None
        The exit code of the stage's process, if it told what its error was.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
