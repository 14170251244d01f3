"""Every error that scistream raises on purpose, by whose fault it is.

The message says what failed, for which session, with the values, and what to do about it. `control` maps
these classes to gRPC status codes, `cli` to exit codes; nothing else decides from their text.

::

    SciStreamError
    ├── ConfigurationError      the operator's options or files
    ├── CallerError             the caller's message
    │   ├── InvalidArgument     ... can never be served
    │   ├── SessionNotFound     ... names a session that is not here
    │   ├── SessionExists       ... opens a session that is here, differently
    │   └── WrongState          ... comes at the wrong time
    ├── ResourceExhausted       ports, capacity, descriptors, disk
    ├── DeadlineExceeded        somebody did not come in time
    ├── AuthenticationError     who asks is not known
    ├── PermissionDenied        who asks may not
    ├── PeerError               the other control server or data server
    └── DataServerError         our data server
"""

from __future__ import annotations


class SciStreamError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigurationError(SciStreamError):
    """The operator's options, environment or files cannot be used as they are."""


class CallerError(SciStreamError):
    """The caller's message cannot be served; the session table is as it was."""


class InvalidArgument(CallerError):
    """A value in the message is wrong whatever the state of the session."""


class SessionNotFound(CallerError):
    """No session of that name is here, or not for this caller."""


class SessionExists(CallerError):
    """A session of that name is here already, with other parameters."""


class WrongState(CallerError):
    """The message is well formed and comes at the wrong time for its session."""


class ResourceExhausted(SciStreamError):
    """Ports, capacity, descriptors or disk are used up."""


class DeadlineExceeded(SciStreamError):
    """What was waited for did not come in time."""


class AuthenticationError(SciStreamError):
    """The caller could not be identified."""


class PermissionDenied(SciStreamError):
    """The caller is known, and may not do this."""


class PeerError(SciStreamError):
    """The other facility's server, or the connection to it, failed."""


class DataServerError(SciStreamError):
    """Our data server could not be started, reached or kept alive."""
