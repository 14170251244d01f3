"""What of this gateway is free and what is held: its ports, its capacity. Nothing is bound or carried here.

A port is free or held by one session, never by two. A pool of ephemeral ports only counts: the operating
system chooses each port when it is bound.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable

from scistream.errors import InvalidArgument, ResourceExhausted


class PortPool:
    """The ports that this gateway may listen on.

    The port given back longest ago is taken first, so that late connections meant for an ended session find
    nobody, rather than the next user's session, for as long as possible.

    Parameters
    ----------
    ports : iterable of int
        The ports, each once.

    Raises
    ------
    InvalidArgument
        There is none, one is not from 1 to 65535, or one comes twice.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._free = deque(ports)
        self._held: set[int] = set()
        self._outside: set[int] = set()
        self.size = len(self._free)
        if not self._free:
            raise InvalidArgument("the port range is empty")
        if len(set(self._free)) != self.size:
            raise InvalidArgument("the port range names a port twice")
        if wrong := [port for port in self._free if not 1 <= port <= 65535]:
            raise InvalidArgument(f"the port range names {wrong[0]}; ports are from 1 to 65535")

    @property
    def free(self) -> int:
        """How many ports can be taken."""
        return self.size - self.held

    @property
    def held(self) -> int:
        """How many ports of the range are taken."""
        return len(self._held)

    def take(self, count: int, *, avoid: Collection[int] = ()) -> tuple[int, ...]:
        """Hold `count` free ports that are not in `avoid`.

        Raises
        ------
        ResourceExhausted
            There are not so many; nothing is held.
        """
        chosen = [port for port in self._free if port not in avoid][:count]
        if len(chosen) < count:
            blocked = f", {len(avoid)} of the range are held by other programs" if avoid else ""
            raise ResourceExhausted(
                f"{count} ports wanted, {len(chosen)} of {self.size} free{blocked}; "
                "release sessions or widen the port range"
            )
        for port in chosen:
            self._free.remove(port)
        self._held.update(chosen)
        return tuple(chosen)

    def hold(self, ports: Iterable[int]) -> None:
        """Hold just these ports, as a session out of the journal did before.

        One outside of the range, which was another then, is held too, and forgotten when it is given back.

        Raises
        ------
        InvalidArgument
            One is held already, or is none; nothing is held.
        """
        wanted = tuple(ports)
        held = self._held | self._outside
        for index, port in enumerate(wanted):
            if port in held or port in wanted[:index]:
                raise InvalidArgument(f"port {port} is held already, by another session")
            if not 1 <= port <= 65535:
                raise InvalidArgument(f"port {port} cannot be held; ports are from 1 to 65535")
        for port in wanted:
            if port in self._free:
                self._free.remove(port)
                self._held.add(port)
            else:
                self._outside.add(port)

    def give_back(self, ports: Iterable[int]) -> None:
        """Free held ports.

        Raises
        ------
        InvalidArgument
            One of them is not held; the ones before it are free.
        """
        for port in ports:
            if port in self._outside:
                self._outside.remove(port)
                continue
            if port not in self._held:
                raise InvalidArgument(f"port {port} is given back and was not taken")
            self._held.remove(port)
            self._free.append(port)


class EphemeralPool:
    """Any free ports of the operating system, `size` at a time: each is taken as port 0."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise InvalidArgument(f"a pool of {size} ports serves nobody")
        self.size = size
        self.held = 0

    @property
    def free(self) -> int:
        """How many ports can be taken."""
        return max(0, self.size - self.held)

    def take(self, count: int, *, avoid: Collection[int] = ()) -> tuple[int, ...]:  # noqa: ARG002
        """Hold `count` ports, each shown as 0; the operating system avoids what others hold.

        Raises
        ------
        ResourceExhausted
            So many would be more than the pool's size; nothing is held.
        """
        if count > self.free:
            raise ResourceExhausted(
                f"{count} ports wanted, {self.free} of {self.size} free; release sessions and ask again"
            )
        self.held += count
        return (0,) * count

    def hold(self, ports: Iterable[int]) -> None:
        """Hold ports that a session out of the journal held before, even beyond today's size."""
        self.held += len(tuple(ports))

    def give_back(self, ports: Iterable[int]) -> None:
        """Free ports taken before.

        Raises
        ------
        InvalidArgument
            More are given back than are held; nothing is freed.
        """
        count = len(tuple(ports))
        if count > self.held:
            raise InvalidArgument(f"{count} ports are given back and {self.held} were taken")
        self.held -= count


#: What a session table takes its ports from.
Pool = PortPool | EphemeralPool


class Capacity:
    """How much of the gateway's throughput the sessions have reserved.

    It is counted in whole bits per second, so that what is given back is what was taken.

    Parameters
    ----------
    limit_mbps : float
        What there is; 0: no limit.

    Raises
    ------
    InvalidArgument
        The limit is negative or no number.
    """

    def __init__(self, limit_mbps: float) -> None:
        if not (math.isfinite(limit_mbps) and limit_mbps >= 0):
            raise InvalidArgument(f"the capacity is {limit_mbps} Mb/s; give 0 (no limit) or more")
        self.limit_mbps = limit_mbps
        self._held_bps = 0

    @property
    def held_mbps(self) -> float:
        """How much is reserved."""
        return self._held_bps / _BITS_PER_MEGABIT

    @property
    def free_mbps(self) -> float:
        """How much can be reserved; infinite without a limit."""
        return (
            max(0, _bps(self.limit_mbps) - self._held_bps) / _BITS_PER_MEGABIT
            if self.limit_mbps
            else math.inf
        )

    def fits(self, rate_mbps: float) -> bool:
        """Return whether `rate_mbps` can be reserved now. 0 always can."""
        free_bps = _bps(self.limit_mbps) - self._held_bps
        return not rate_mbps or not self.limit_mbps or _bps(rate_mbps) <= free_bps

    def take(self, rate_mbps: float) -> None:
        """Reserve `rate_mbps`.

        Raises
        ------
        ResourceExhausted
            So much is not free; nothing is reserved.
        """
        if not self.fits(rate_mbps):
            raise ResourceExhausted(
                f"{rate_mbps:g} Mb/s wanted, {self.free_mbps:g} of {self.limit_mbps:g} Mb/s free"
            )
        self._held_bps += _bps(rate_mbps)

    def hold(self, rate_mbps: float) -> None:
        """Reserve what a session out of the journal had reserved, even beyond today's limit."""
        self._held_bps += _bps(rate_mbps)

    def give_back(self, rate_mbps: float) -> None:
        """Free what was reserved.

        Raises
        ------
        InvalidArgument
            So much was not; nothing is freed.
        """
        if _bps(rate_mbps) > self._held_bps:
            raise InvalidArgument(f"{rate_mbps:g} Mb/s are given back and {self.held_mbps:g} Mb/s were taken")
        self._held_bps -= _bps(rate_mbps)


_BITS_PER_MEGABIT = 1_000_000


def _bps(rate_mbps: float) -> int:
    return round(rate_mbps * _BITS_PER_MEGABIT)
