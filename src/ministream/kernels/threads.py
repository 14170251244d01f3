"""How many threads the kernels use: numba keeps a number, which this module sets for a while.

And how they wait for each other: asleep. Where numba's threads are OpenMP's, they would spin otherwise, which
takes the cores from the programs around: with a few of those on two cores, two threads were two to four times
as slow as one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numba


def usable_threads(threads: int | None) -> int:
    """Return how many threads to use: those asked for, or all, but at most as many as numba may start.

    Raises
    ------
    ValueError
        Fewer than one were asked for.
    """
    # OpenMP reads it when numba starts its threads, which is later; whoever has set it knows better
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}: at least 1 is needed")
    most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    return most if threads is None else min(threads, most)


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let parallel kernels use so many threads inside the ``with`` block, and as many as before after it."""
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)
