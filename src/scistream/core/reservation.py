"""Which ports of this gateway are free and which are held: nothing is bound here.

A port is free or held by one session, never by two. A pool of ephemeral ports only counts: the operating
system chooses each port when it is bound.
"""

from __future__ import annotations

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
        """How many ports are taken."""
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

    def give_back(self, ports: Iterable[int]) -> None:
        """Free held ports.

        Raises
        ------
        InvalidArgument
            One of them is not held; the ones before it are free.
        """
        for port in ports:
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
        return self.size - self.held

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
