"""Which slices each reconstruction worker has: contiguous ranges, as equal as they can be."""

from __future__ import annotations

from ministream.errors import InputError


def slice_range(total: int, rank: int, size: int) -> range:
    """Return the slices of worker `rank` of `size`: ``total // size``, the first ``total % size`` one more.

    Parameters
    ----------
    total : int
        Slices of the scan, at least one for each worker.
    rank : int
        From 0.
    size : int
        Number of workers.

    Raises
    ------
    InputError
        There is no such worker, or not a slice for each.
    """
    if not 0 <= rank < size:
        raise InputError(f"there is no worker {rank} among {size}; ranks run from 0 to {size - 1}")
    if total < size:
        raise InputError(f"{size} workers for {total} slices: each worker needs at least one")
    share, more = divmod(total, size)
    begin = rank * share + min(rank, more)
    return range(begin, begin + share + (rank < more))
