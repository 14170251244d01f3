"""What is measured: each figure's name in reports, what people read, and whether more of it is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scistream.client.probe import percentile

Figures = dict[str, float]
"""Name -> value, of one contestant in one scenario."""
Table = dict[str, Figures]
"""Contestant -> figures."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of figure.

    Parameters
    ----------
    label : str
        With the unit.
    more_is_better : bool
        False: less is.
    compared : bool
        Whether tables show its ratio.
    """

    label: str
    more_is_better: bool
    compared: bool = True


FIGURES = {
    "gbps": Figure("Gb/s", more_is_better=True),
    "to_here_gbps": Figure("Gb/s to here", more_is_better=True),
    "from_here_gbps": Figure("Gb/s from here", more_is_better=True),
    "cpu_s_per_gb": Figure("CPU s/GB", more_is_better=False),
    "per_s": Figure("per s", more_is_better=True),
    "p50_us": Figure("p50 us", more_is_better=False),
    "p90_us": Figure("p90 us", more_is_better=False, compared=False),
    "p99_us": Figure("p99 us", more_is_better=False),
    "p99_9_us": Figure("p99.9 us", more_is_better=False, compared=False),
    "bytes_per_connection": Figure("B/connection", more_is_better=False),
    "open_per_s": Figure("open/s", more_is_better=True, compared=False),
    "taken_mb": Figure("taken MB", more_is_better=False, compared=False),
    "relay_mb": Figure("relay MB", more_is_better=False),
    "kernel_mb": Figure("kernel MB", more_is_better=False, compared=False),
    "ping_us": Figure("ping us", more_is_better=False),
}


def percentiles_us(times_ns: Sequence[int]) -> Figures:
    """Return the percentiles of durations, in microseconds."""
    ascending = sorted(times_ns)
    return {
        f"p{str(percent).replace('.', '_')}_us": percentile(ascending, percent) / 1e3
        for percent in (50, 90, 99, 99.9)
    }


def ratio(one: float | None, other: float | None) -> float | None:
    """Return how many times `other` the `one` is; None if that cannot be said."""
    return None if one is None or not other else one / other
