"""What both faces of the client know a facility by. A value: it opens no connection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from scistream.core.endpoint import Endpoint
from scistream.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One facility's control server, and what is needed to be let in.

    Parameters
    ----------
    endpoint : Endpoint
        Where the control server serves.
    server_certificate_pem : bytes or None
        Its certificate (or its authority's); None trusts what this machine trusts. None without `tls`.
    token : str or callable or None
        The user's, for this facility; or what returns it, asked before each call, in a thread, so that it may
        refresh it.
    tls : bool
        Whether the control server serves TLS. Without it, whoever is on the way reads the token.
    client_certificate : (bytes, bytes) or None
        The user's certificate and its key (PEM), for a control server that knows its users by those.
    """

    endpoint: Endpoint
    server_certificate_pem: bytes | None = None
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    tls: bool = True
    client_certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)


def check_timeout(timeout_s: float) -> None:
    """Check that `timeout_s` is a time that can be waited.

    Raises
    ------
    ConfigurationError
        It is not a number above 0, or not finite.
    """
    if not 0 < timeout_s < math.inf:
        raise ConfigurationError(f"timeout_s is {timeout_s}; it has to be a number of seconds above 0")
