"""Whether this gateway knows the hosts that a caller names; asked before anything is changed for it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from scistream.core.endpoint import Endpoint
from scistream.errors import InvalidArgument

# The callers wait for more than that besides; the reference client gives up after 5 s in all.
_TIMEOUT_S = 3.0


async def check_hosts(targets: Iterable[Endpoint], uid: str) -> None:
    """Look all host names of `targets` up.

    Raises
    ------
    InvalidArgument
        One has no address here.
    """
    names = {target.host for target in targets if not _is_address(target.host)}
    await asyncio.gather(*(_look_up(name, uid) for name in sorted(names)))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(name: str, uid: str) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise InvalidArgument(
            f"session {uid}: this gateway does not know the host {name} "
            f"({getattr(error, 'strerror', None) or 'its name server does not answer'}); nothing was changed"
        ) from error
