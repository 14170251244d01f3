"""How many threads the kernels use: numba keeps a number, which this module sets for a while."""

from __future__ import annotations

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
