"""What a first image and a denoising step cost, beside an update of the same slices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ministream.kernels import total_variation
from ministream.kernels.fbp import angular_weights
from ministream.kernels.sirt import SirtEngine
from ministream.kernels.total_variation import total_variation_prox

VIEWS = 32
SLICES = 16
STEPS = 10
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Times of 16 slices, in ms: medians."""

    columns: int
    filtered_32_views_ms: float
    update_32_views_ms: float
    total_variation_10_steps_ms: float


def extras(threads: int) -> list[Extra]:
    """Time them in turn, for several widths."""
    total_variation.warm_up(threads)
    return [_extra(columns, threads) for columns in (640, 1280, 2048)]


def _extra(columns: int, threads: int) -> Extra:
    angles = np.linspace(0, np.pi, VIEWS, endpoint=False)
    weights = angular_weights(angles)
    engine = SirtEngine(
        slices=SLICES, columns=columns, rotation_center=(columns - 1) / 2, views=VIEWS, threads=threads
    )
    rows: npt.NDArray[np.float32] = np.random.default_rng(0).random((SLICES, columns), np.float32)
    for angle in angles:
        engine.add_view(float(angle), rows)

    def filtered() -> None:
        engine.reset()
        engine.add_filtered(range(VIEWS), weights)

    def update() -> None:
        engine.update(range(VIEWS))

    def denoise() -> None:
        total_variation_prox(engine.volume, 1e-3, steps=STEPS, threads=threads)

    times: dict[str, list[float]] = {}
    work: tuple[Callable[[], None], ...] = (filtered, update, denoise)
    for _ in range(_ROUNDS):
        for one in work:
            start = time.perf_counter()
            one()
            times.setdefault(one.__name__, []).append(time.perf_counter() - start)
    first, second, third = (statistics.median(times[one.__name__]) * 1e3 for one in work)
    return Extra(
        columns=columns,
        filtered_32_views_ms=first,
        update_32_views_ms=second,
        total_variation_10_steps_ms=third,
    )
