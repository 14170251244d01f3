"""How many calls one user and one address may have under way, and how fast somebody may guess.

Memory is bounded whatever comes: what is counted is under way, and of addresses that failed the latest are
remembered.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from scistream.errors import ResourceExhausted

#: So many calls that failed are answered without delay: somebody has mistyped, or a token has expired.
FREE_FAILURES = 3
#: The first delay, doubled by each further failure up to the longest. With `MAX_WAITING` at a time an address
#: tries 32 tokens in a second, and a provider is asked no more often for it.
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 0.5
#: So many of an address that failed are kept waiting at a time; more are refused unheard.
MAX_WAITING = 16
#: After this time without a failure an address is as any other.
FORGET_S = 60.0
_MAX_ADDRESSES = 4096


def address_of(peer: str) -> str:
    """Return the address in gRPC's `peer`: of IPv6 its /64, which is one network's; else all of it.

    >>> address_of("ipv4:192.0.2.7:40000"), address_of("ipv6:%5B2001:db8:0:1::5%5D:40000")
    ('192.0.2.7', '2001:db8:0:1::/64')
    """
    match = re.fullmatch(r"ipv[46]:\[?([^\[\]]+?)\]?:\d+", unquote(peer))
    if match is None:
        return peer
    try:
        address = ipaddress.ip_address(match[1].partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Crowd:
    """Calls under way, by whom they are; at most `limit` each.

    Parameters
    ----------
    whose : str
        Whom they are counted by, for the error: "user", "address".
    """

    def __init__(self, whose: str, limit: int) -> None:
        self._whose = whose
        self._limit = limit
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def one_of(self, key: str) -> Iterator[None]:
        """Count a call of `key` while it is under way.

        Raises
        ------
        ResourceExhausted
            There are as many as may be.
        """
        if self._under_way[key] >= self._limit:
            raise ResourceExhausted(
                f"{self._limit} calls of this {self._whose} are under way, which are the most; await answers"
            )
        self._under_way[key] += 1
        try:
            yield
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def __len__(self) -> int:
        """Return how many are counted now."""
        return len(self._under_way)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_s: float = 0
    waiting: int = 0


class FailedAttempts:
    """Addresses that have failed to prove who they are, the latest ones.

    Parameters
    ----------
    clock : callable
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def check(self, address: str) -> None:
        """Refuse an address of which enough failed calls are waiting.

        Raises
        ------
        ResourceExhausted
            It is one.
        """
        failures = self._failures.get(address)
        if failures is not None and failures.waiting >= MAX_WAITING:
            raise ResourceExhausted(
                "too many calls from this address have failed to prove who they are; ask again later"
            )

    def delay_s(self, address: str) -> float:
        """Note that a call from `address` has failed; return how long its answer is to wait."""
        now_s = self._clock()
        failures = self._failures.setdefault(address, _Failures())
        if now_s - failures.last_s > FORGET_S:
            failures.count = 0
        failures.count += 1
        failures.last_s = now_s
        self._failures.move_to_end(address)
        if len(self._failures) > _MAX_ADDRESSES:
            self._failures.popitem(last=False)
        if failures.count <= FREE_FAILURES:
            return 0
        return float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(failures.count - FREE_FAILURES - 1, 10)))

    @contextmanager
    def waiting(self, address: str) -> Iterator[None]:
        """Count a failed call of `address` that is kept waiting."""
        failures = self._failures.setdefault(address, _Failures())
        failures.waiting += 1
        try:
            yield
        finally:
            failures.waiting -= 1

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._failures)
