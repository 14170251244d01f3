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

__all__ = ["ALGORITHMS", "DEFAULT_ALGORITHM", "Algorithm", "Settings", "State", "algorithm_named"]

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
