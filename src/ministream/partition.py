"""Which slices each reconstruction worker has: contiguous ranges, as equal as they can be."""

from __future__ import annotations

from collections.abc import Sequence

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


def share_slices(total: int, held: Sequence[range]) -> list[range]:
    """Share all slices among workers that hold some of them already, so that few change hands.

    Those that hold slices keep their order along the axis; those that hold none are put between them where
    the fewest slices change hands. All ranges are as equal as they can be.

    Parameters
    ----------
    total : int
        Slices of the scan.
    held : sequence of range
        What each worker holds; empty for one that is new. They may overlap.

    Returns
    -------
    list of range
        For each worker, in the same order; together every slice once. Where there are more workers than
        slices, the last of those that hold least get none.

    Examples
    --------
    >>> share_slices(12, [range(0), range(0), range(0)])
    [range(0, 4), range(4, 8), range(8, 12)]

    One that has gone is replaced by a new one, and nothing else moves:

    >>> share_slices(12, [range(0, 4), range(8, 12), range(0)])
    [range(0, 4), range(8, 12), range(4, 8)]
    """
    busy = sorted(range(len(held)), key=lambda worker: -len(held[worker]))[:total]
    holders = sorted((worker for worker in busy if held[worker]), key=lambda worker: held[worker].start)
    newcomers = sorted(worker for worker in busy if not held[worker])
    parts = [slice_range(total, place, len(busy)) for place in range(len(busy))]
    # kept[h][n]: the most slices that stay when h holders and n newcomers have the first h + n parts
    kept = [[0] * (len(newcomers) + 1) for _ in range(len(holders) + 1)]
    for h in range(len(holders) + 1):
        for n in range(len(newcomers) + 1):
            with_holder = kept[h - 1][n] + _common(held[holders[h - 1]], parts[h + n - 1]) if h else -1
            kept[h][n] = max(with_holder, kept[h][n - 1] if n else -1, 0)
    result = [NOTHING] * len(held)
    h, n = len(holders), len(newcomers)
    while h or n:
        part = parts[h + n - 1]
        if h and kept[h][n] == kept[h - 1][n] + _common(held[holders[h - 1]], part):
            h -= 1
            result[holders[h]] = part
        else:
            n -= 1
            result[newcomers[n]] = part
    return result


def overlap(one: range, other: range) -> range:
    """Return the slices that two ranges have in common."""
    begin = max(one.start, other.start)
    return range(begin, max(begin, min(one.stop, other.stop)))


def _common(one: range, other: range) -> int:
    return len(overlap(one, other))
