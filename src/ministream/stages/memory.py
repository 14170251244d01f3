"""How much memory a worker may use, and how many slices it can have with that.

A worker says at joining what its slices may use; the distributor knows the size of the scan, and gives nobody
more than fits. Both count as here: what the algorithm holds of each slice, projections that are on their way,
and what is sent to viewers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from ministream.errors import InputError
from ministream.stages.broadcast import MESSAGE_BYTES
from ministream.stages.host_memory import SHARE, free_bytes, shown
from ministream.stages.reconstruction import Reconstruction
from ministream.transport import FIRST_CREDITS, credits_for

_FIXED_BYTES = 48 << 20
"""Room for what is counted nowhere: buffers of sockets and files, and what an update needs for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the slices of a scan need at a worker.

    Parameters
    ----------
    algorithm : str
    columns, projections : int
    threads : int
    credits : int or None
        Projections that may be on their way; None for what `credits_for` says.
    """

    algorithm: str
    columns: int
    projections: int
    threads: int = 1
    credits: int | None = None

    def bytes_for(self, slices: int) -> int:
        """Return what so many slices need.

        Raises
        ------
        InputError
            The algorithm is unknown.
        """
        held = Reconstruction.memory_bytes(
            algorithm=self.algorithm,
            slices=slices,
            columns=self.columns,
            projections=self.projections,
            threads=self.threads,
        )
        rows = 4 * slices * self.columns
        credits = self.credits or max(credits_for(rows), FIRST_CREDITS)
        under_way = rows * min(credits, self.projections)
        volume = 4 * slices * self.columns**2
        # one that is made, and those that wait for viewers
        sent = 3 * min(volume, max(MESSAGE_BYTES, 4 * self.columns**2))
        return held + under_way + sent + _FIXED_BYTES

    def slices_in(self, budget_bytes: int, most: int) -> int:
        """Return how many slices fit into so many bytes, `most` at most."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.bytes_for(middle) <= budget_bytes:
                low = middle
            else:
                high = middle - 1
        return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What this process may use.

    Parameters
    ----------
    limit_bytes : int
        In all.
    base_bytes : int
        What it uses before it has slices.
    told : bool
        The user has said so.
    """

    limit_bytes: int
    base_bytes: int
    told: bool

    @classmethod
    def of_this_process(cls, limit_bytes: int | None) -> Budget:
        """Return the budget of this process, as it is now: before its first slices.

        Parameters
        ----------
        limit_bytes : int or None
            None for a share of what is free.
        """
        base = int(psutil.Process().memory_info().rss)
        if limit_bytes is not None:
            return cls(limit_bytes=limit_bytes, base_bytes=base, told=True)
        return cls(limit_bytes=base + int(SHARE * free_bytes()), base_bytes=base, told=False)

    @property
    def for_slices(self) -> int:
        """Bytes that are left for slices."""
        return max(0, self.limit_bytes - self.base_bytes)

    def check(self, demand: Demand, slices: int, name: str) -> None:
        """Refuse slices that do not fit.

        Raises
        ------
        InputError
            They do not; it tells the numbers, and what to do.
        """
        needed = demand.bytes_for(slices)
        if needed <= self.for_slices:
            return
        where = "--memory" if self.told else f"{SHARE:.0%} of what is free"
        fit = demand.slices_in(self.for_slices, slices)
        raise InputError(
            f"{slices} slices of {name} need {shown(needed)} of memory with {demand.algorithm} "
            f"({demand.columns} columns, {demand.projections} projections), and {shown(self.for_slices)} are "
            f"left of {shown(self.limit_bytes)} ({where}) beside the {shown(self.base_bytes)} of the "
            f"program: {fit} would fit. {advice(slices, fit)}"
        )


def advice(slices: int, fit: int) -> str:
    """Return what to do when of so many slices only some fit at one worker."""
    more = f"start {-(-slices // fit)} workers of this size, " if fit else ""
    return (
        f"What helps: {more}a larger --memory, fewer --rows, an algorithm that keeps less (sirt), or columns "
        "binned by two, which need a quarter"
    )


def room_of(attributes: Mapping[str, Any], *, columns: int, projections: int, most: int) -> int | None:
    """Return how many slices a worker can have, by what it has said at joining; None if it has said nothing.

    It is the peer's word: what cannot be is taken for nothing said.
    """
    memory, algorithm, threads, credits = (
        attributes.get(name) for name in ("memory", "algorithm", "threads", "credits")
    )
    if not _is_count(memory) or not isinstance(algorithm, str):
        return None
    demand = Demand(
        algorithm=algorithm,
        columns=columns,
        projections=projections,
        threads=threads if _is_count(threads) and threads else 1,
        credits=credits if _is_count(credits) and credits else None,
    )
    try:
        return demand.slices_in(int(memory), most)  # type: ignore[arg-type]
    except InputError:
        # an algorithm of another version
        return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
