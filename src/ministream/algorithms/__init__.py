"""How slices are reconstructed while their views arrive: algorithms behind one interface, chosen by name.

What they have in common, and what each has to say for itself, is in `ministream.algorithms.base`. They know
views and slices; no sockets, no files, no wire.
"""

from __future__ import annotations

from collections.abc import Mapping

from ministream.algorithms.base import Algorithm, Settings, State
from ministream.algorithms.fbp import FilteredBackprojection
from ministream.algorithms.fista import Fista
from ministream.algorithms.ordered_subsets import OrderedSubsets
from ministream.algorithms.replay import WindowReplay
from ministream.algorithms.window_sirt import WindowSirt
from ministream.errors import InputError
from ministream.kernels import sirt, total_variation

__all__ = ["ALGORITHMS", "DEFAULT_ALGORITHM", "Algorithm", "Settings", "State", "algorithm_named", "warm_up"]

ALGORITHMS: Mapping[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (WindowSirt, WindowReplay, OrderedSubsets, Fista, FilteredBackprojection)
}
DEFAULT_ALGORITHM = WindowReplay.name


def algorithm_named(name: str) -> type[Algorithm]:
    """Return the algorithm of that name.

    Raises
    ------
    InputError
        There is none.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise InputError(f"algorithm {name!r} is not one of {', '.join(ALGORITHMS)}") from None


def warm_up(threads: int | None = None) -> None:
    """Compile all kernels, or load them if they were compiled before.

    Parameters
    ----------
    threads : int, optional
        At most so many threads; default: one for each core that this process may use.

    Raises
    ------
    ValueError
        The number of threads is out of its range.
    """
    sirt.warm_up(threads)
    total_variation.warm_up(threads)
