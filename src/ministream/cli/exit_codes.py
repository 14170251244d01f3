"""What the commands' exit codes mean, and which error gives which: the only table of its kind.

The codes are stable: scripts depend on them.
"""

from __future__ import annotations

from enum import IntEnum

from ministream import errors


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    BUG = 1
    """Something that should not happen; ``-v`` shows where."""
    USAGE = 2
    BAD_INPUT = 3
    """A scan, value, file or configuration that cannot be used."""
    CONNECTION = 4
    """A peer that cannot be reached, was lost, or does not speak our protocol."""
    EXHAUSTED = 5
    """Disk full, result not writable, or a port that somebody else holds."""
    REFUSED = 6
    """Not authenticated, or not permitted."""
    STATE = 7
    """Not found, in the wrong state, or expired."""
    STAGE = 8
    """A stage or data server died."""
    INTERRUPTED = 130
    """Ended by SIGINT, after cleaning up."""
    TERMINATED = 143
    """Ended by SIGTERM, after cleaning up."""


_CODES: dict[type[errors.MiniStreamError], ExitCode] = {
    errors.InputError: ExitCode.BAD_INPUT,
    errors.OutputError: ExitCode.EXHAUSTED,
    errors.PortInUse: ExitCode.EXHAUSTED,
    errors.ConnectionFailed: ExitCode.CONNECTION,
    errors.ProtocolError: ExitCode.CONNECTION,
    errors.StageError: ExitCode.STAGE,
}

_TOLD = {ExitCode.BAD_INPUT, ExitCode.CONNECTION, ExitCode.EXHAUSTED, ExitCode.REFUSED, ExitCode.STATE}


def exit_code_of(error: errors.MiniStreamError) -> ExitCode:
    """Return the exit code for `error`: that of its class, or of the nearest parent in the table.

    A stage that has told its own error passes its exit code on.
    """
    if isinstance(error, errors.StageError) and error.exit_code in _TOLD:
        return ExitCode(error.exit_code)
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), ExitCode.BUG)
