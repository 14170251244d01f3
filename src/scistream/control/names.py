"""Whether this gateway knows the hosts that a caller names; asked before anything is changed for it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

from scistream.core.endpoint import Endpoint
from scistream.errors import InvalidArgument, PeerError

# The callers wait for more than that besides; the reference client gives up after 5 s in all.
TIMEOUT_S = 3.0


async def check_hosts(targets: Iterable[Endpoint], uid: str, timeout_s: float = TIMEOUT_S) -> None:
    """Look all host names of `targets` up, each within `timeout_s`.

    Raises
    ------
    InvalidArgument
        One has no address here.
    PeerError
        No name server answers; another time one may.
    """
    names = {target.host for target in targets if not _is_address(target.host)}
    await asyncio.gather(*(_look_up(name, uid, timeout_s) for name in sorted(names)))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def addresses_of(host: str, uid: str, timeout_s: float = TIMEOUT_S) -> tuple[str, ...]:
    """Return the addresses of `host`, in the order in which they are to be tried; of an address, itself.

    Raises
    ------
    InvalidArgument
        It has none here.
    PeerError
        No name server answers; another time one may.
    """
    return (host,) if _is_address(host) else await _look_up(host, uid, timeout_s)


async def _look_up(name: str, uid: str, timeout_s: float) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        # a time limit of the operating system's, and ours, are both an OSError
        if isinstance(error, TimeoutError) or (
            isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        ):
            raise PeerError(
                f"session {uid}: this gateway cannot look the host {name} up now: its name server does not "
                "answer; nothing was changed, ask again in a moment"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise InvalidArgument(
            f"session {uid}: this gateway does not know the host {name} ({reason}); nothing was changed"
        ) from error
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
