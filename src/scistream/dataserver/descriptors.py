"""How many files a process may have open: each connection is one, and many systems begin with 1,024."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Use all the open files that the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
