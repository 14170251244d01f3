"""Find rotation centre and stripe offsets from the sinograms of a scan, while they fill.

The views are in the distributor's store; at a quarter, at half and at the end of the scan a thread of its own
looks at those that are there, so that the stream goes on meanwhile. One estimate at a time; one that is not
finished when the next is due makes that one wait, and an older waiting one is forgotten.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from ministream.kernels.rotation import NotTrusted, find_common_rotation_center
from ministream.kernels.rotation import warm_up as warm_up_rotation
from ministream.kernels.stripes import LEAST_VIEWS, stripe_offset
from ministream.kernels.stripes import warm_up as warm_up_stripes

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

FRACTIONS = (0.25, 0.5)
"""Of the scan's projections, at which an estimate is made; and one more at the end."""
_ROWS_FOR_CENTER = 16
_MOST_VIEWS_FOR_STRIPES = 256


def warm_up(*, center: bool, stripes: bool) -> None:
    """Import what these estimates need, before a stream begins that the imports would hold up."""
    if center:
        warm_up_rotation()
    if stripes:
        warm_up_stripes()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What some of a scan's views have told about the detector.

    Parameters
    ----------
    views : int
        How many views it is from.
    rotation_center : float or None
        Column index; None where the views do not determine it.
    stripes : (row, column) float32 or None
        To be subtracted from every view; None where it was not asked for, or the views are too few.
    """

    views: int
    rotation_center: float | None
    stripes: FloatArray | None


class Calibrator:
    """Watches the views of a scan, and estimates. A context manager: leaving it ends the thread.

    Parameters
    ----------
    views : (projection, row, column) float32
        Attenuation of all views of the scan; kept, not copied.
    angles_rad : (projection,) float64
    center : bool
        Whether the rotation centre is to be found.
    stripes : str or None
        Algotom's method to find stripes by, one of `ministream.kernels.stripes.METHODS`; None for not at all.

    Notes
    -----
    `arrived`, `newest` and `begin_last` are for one thread. A view is never changed once it has arrived, so
    the estimating thread reads without a lock those that were there when its estimate was asked for.
    """

    def __init__(
        self, views: FloatArray, angles_rad: npt.NDArray[np.float64], *, center: bool, stripes: str | None
    ) -> None:
        self._center, self._stripes = center, stripes
        self._views, self._angles = views, angles_rad
        self._rows = np.unique(
            np.linspace(0, views.shape[1] - 1, min(views.shape[1], _ROWS_FOR_CENTER)).astype(np.intp)
        )
        self._count = 0
        self._due = [max(1, int(len(views) * fraction)) for fraction in FRACTIONS]
        self._running: Future[Calibration] | None = None
        self._waiting = 0
        self._cancelled = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="calibration")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def arrived(self, count: int) -> None:
        """Take note that so many views are there, and begin an estimate if one is due."""
        due = any(self._count < moment <= count for moment in self._due)
        self._count = count
        if self._wanted and due:
            self._ask(count)

    def begin_last(self) -> None:
        """Begin the estimate from all views; the scan has ended."""
        if self._wanted and self._count:
            self._ask(self._count)

    @property
    def busy(self) -> bool:
        """Whether an estimate is being made, or waits to be fetched."""
        return self._running is not None

    def newest(self) -> Calibration | None:
        """Return an estimate that has become ready since the last call, if there is one. Does not wait."""
        if self._running is None or not self._running.done():
            return None
        calibration = self._running.result()
        self._running = None
        if self._waiting:
            self._ask(self._waiting)
        return calibration

    @property
    def _wanted(self) -> bool:
        return self._center or self._stripes is not None

    def _ask(self, count: int) -> None:
        if self._running is not None:
            self._waiting = count
            return
        self._waiting = 0
        self._running = self._pool.submit(self._estimate, count)

    def _estimate(self, count: int) -> Calibration:
        started_s = time.perf_counter()
        views, angles = self._views[:count], self._angles[:count]
        center = self._find_center(views[:, self._rows], angles) if self._center else None
        stripes = None
        if self._stripes is not None and count >= LEAST_VIEWS:
            stripes = self._find_stripes(views, self._stripes)
        logger.info(
            "calibration from %d views: rotation centre %s, stripes %s, %.2f s",
            count,
            "unknown" if center is None else f"{center:.2f}",
            "unknown" if stripes is None else f"{float(stripes.std()):.4f} (standard deviation)",
            time.perf_counter() - started_s,
        )
        return Calibration(views=count, rotation_center=center, stripes=stripes)

    @staticmethod
    def _find_center(views: FloatArray, angles: npt.NDArray[np.float64]) -> float | None:
        try:
            return find_common_rotation_center(views, angles)
        except NotTrusted as reason:
            logger.info("no rotation centre from %d views yet: %s", len(views), reason)
            return None

    def _find_stripes(self, views: FloatArray, method: str) -> FloatArray | None:
        # a median does not become better by thousands of views, and sorting them takes its time
        some = views[:: -(-len(views) // _MOST_VIEWS_FOR_STRIPES)]
        offsets = np.empty(views.shape[1:], np.float32)
        for row in range(len(offsets)):
            if self._cancelled.is_set():
                return None
            offsets[row] = stripe_offset(some[:, row], method)
        return offsets
