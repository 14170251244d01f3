"""What the programs' exit codes mean, and which error gives which: the only table of its kind.

The codes are stable: scripts depend on them.
"""

from __future__ import annotations

from enum import IntEnum

from scistream import errors


class ExitCode(IntEnum):
    """How a program ended."""

    OK = 0
    BUG = 1
    """Something that should not happen; ``-v`` shows where."""
    USAGE = 2
    BAD_INPUT = 3
    """A value, file or configuration that cannot be used."""
    CONNECTION = 4
    """A peer that cannot be reached, or failed."""
    EXHAUSTED = 5
    """Ports, capacity, descriptors or disk used up; a port that somebody else holds."""
    REFUSED = 6
    """Not authenticated, or not permitted."""
    STATE = 7
    """Not found, in the wrong state, or expired."""
    DATA_SERVER = 8
    """A data server died or could not be started."""
    INTERRUPTED = 130
    """Ended by SIGINT, after cleaning up."""
    OUTPUT_CLOSED = 141
    """Whoever read the output has gone, as ``head`` does (128 + SIGPIPE)."""
    TERMINATED = 143
    """Ended by SIGTERM, after cleaning up."""


_CODES: dict[type[errors.SciStreamError], ExitCode] = {
    errors.ConfigurationError: ExitCode.BAD_INPUT,
    errors.InvalidArgument: ExitCode.BAD_INPUT,
    errors.CallerError: ExitCode.STATE,
    errors.ResourceExhausted: ExitCode.EXHAUSTED,
    errors.DeadlineExceeded: ExitCode.STATE,
    errors.AuthenticationError: ExitCode.REFUSED,
    errors.PermissionDenied: ExitCode.REFUSED,
    errors.PeerError: ExitCode.CONNECTION,
    errors.DataServerError: ExitCode.DATA_SERVER,
}


def exit_code_of(error: errors.SciStreamError) -> ExitCode:
    """Return the exit code for `error`: that of its class, or of the nearest parent in the table."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), ExitCode.BUG)
