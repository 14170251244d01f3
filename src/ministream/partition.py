"""Which slices each reconstruction worker has: contiguous ranges, as equal as they can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from ministream.errors import InputError

NOTHING = range(0)


def slice_range(total: int, rank: int, size: int) -> range:
    """Return part `rank` of `size` of all slices: ``total // size``, the first ``total % size`` one more.

    Parameters
    ----------
    total : int
        Slices of the scan, at least one for each part.
    rank : int
        From 0.
    size : int
        Number of parts.

    Raises
    ------
    InputError
        There is no such part, or not a slice for each.
    """
    if not 0 <= rank < size:
        raise InputError(f"there is no worker {rank} among {size}; they are numbered from 0 to {size - 1}")
    if total < size:
        raise InputError(f"{size} workers for {total} slices: each worker needs at least one")
    share, more = divmod(total, size)
    begin = rank * share + min(rank, more)
    return range(begin, begin + share + (rank < more))


def share_slices(total: int, held: Sequence[range], room: Sequence[int | None] | None = None) -> list[range]:
    """Share all slices among workers that hold some of them already, so that few change hands.

    Those that hold slices keep their order along the axis; those that hold none are put between them where
    the fewest slices change hands. All ranges are as equal as they can be, and as there is room.

    Parameters
    ----------
    total : int
        Slices of the scan.
    held : sequence of range
        What each worker holds; empty for one that is new. They may overlap.
    room : sequence of int or None
        How many slices each worker can have at most; None where there is no limit.

    Returns
    -------
    list of range
        For each worker, in the same order; together every slice once. Where there are more workers than
        slices, the last of those that hold least get none.

    Raises
    ------
    InputError
        There is not enough room for all slices.

    Examples
    --------
    >>> share_slices(12, [range(0), range(0), range(0)])
    [range(0, 4), range(4, 8), range(8, 12)]

    One that has gone is replaced by a new one, and nothing else moves:

    >>> share_slices(12, [range(0, 4), range(8, 12), range(0)])
    [range(0, 4), range(8, 12), range(4, 8)]

    One has little room, and the others have more:

    >>> share_slices(12, [range(0), range(0), range(0)], [None, 2, None])
    [range(0, 5), range(5, 7), range(7, 12)]
    """
    most = [total if limit is None else min(limit, total) for limit in room or [None] * len(held)]
    able = [worker for worker in range(len(held)) if most[worker] > 0]
    busy = sorted(able, key=lambda worker: -len(held[worker]))[:total]
    if held and sum(most[worker] for worker in busy) < total:
        raise InputError(
            f"{total} slices, and room for {sum(most[worker] for worker in busy)} at {len(held)} workers"
        )
    # one that has come back with slices that another has taken over goes to that one's side
    holders = sorted(
        (worker for worker in busy if held[worker]),
        key=lambda worker: (held[worker].start, held[worker].stop),
    )
    newcomers = sorted(worker for worker in busy if not held[worker])
    place = _places(total, holders, newcomers, most)
    # kept[h][n]: the most slices that stay when h holders and n newcomers have the first h + n parts
    kept = [[0] * (len(newcomers) + 1) for _ in range(len(holders) + 1)]
    for h in range(len(holders) + 1):
        for n in range(len(newcomers) + 1):
            with_holder = kept[h - 1][n] + _common(held[holders[h - 1]], place(h, n, True)) if h else -1
            kept[h][n] = max(with_holder, kept[h][n - 1] if n else -1, 0)
    result = [NOTHING] * len(held)
    h, n = len(holders), len(newcomers)
    while h or n:
        part = place(h, n, True) if h else NOTHING
        if h and kept[h][n] == kept[h - 1][n] + _common(held[holders[h - 1]], part):
            h -= 1
            result[holders[h]] = part
        else:
            part = place(h, n, False)
            n -= 1
            result[newcomers[n]] = part
    return result


def _places(
    total: int, holders: Sequence[int], newcomers: Sequence[int], most: Sequence[int]
) -> Callable[[int, int, bool], range]:
    """Return what says which slices the last of the first h holders or n newcomers has behind the others."""
    workers = [*holders, *newcomers]
    parts = [slice_range(total, rank, len(workers)) for rank in range(len(workers))]
    if all(len(parts[0]) <= most[worker] for worker in workers):
        return lambda h, n, _: parts[h + n - 1]
    sizes = _levelled(total, {worker: most[worker] for worker in workers})
    ends = [
        list(accumulate((sizes[worker] for worker in group), initial=0)) for group in (holders, newcomers)
    ]

    def place(h: int, n: int, of_holder: bool) -> range:
        end = ends[0][h] + ends[1][n]
        return range(end - sizes[holders[h - 1] if of_holder else newcomers[n - 1]], end)

    return place


def _levelled(total: int, most: Mapping[int, int]) -> dict[int, int]:
    """Return how many slices each has: as equal as can be, and none more than its most."""
    sizes = {}
    left = total
    for done, worker in enumerate(sorted(most, key=lambda worker: most[worker])):
        sizes[worker] = min(most[worker], left // (len(most) - done))
        left -= sizes[worker]
    return sizes


def overlap(one: range, other: range) -> range:
    """Return the slices that two ranges have in common."""
    begin = max(one.start, other.start)
    return range(begin, max(begin, min(one.stop, other.stop)))


def _common(one: range, other: range) -> int:
    return len(overlap(one, other))
