"""What is timed: a sliding window of ours, all views at once by ours, by ASTRA, and by a sparse matrix.

Each contestant is set up once and then asked for one round at a time, so that rounds can be interleaved. The
unit is µs/(proj·slice): forward projection, back projection and update of one projection of one slice, once.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ministream.kernels.sirt import SirtEngine

WINDOW = 32
SCAN = 180
"""Views over 180 degrees; a sliding window goes on beyond."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a contestant does. `views` are those of an update; `step` is 0 where none arrive."""

    who: str
    columns: int
    slices: int
    threads: int
    support: str
    views: int = WINDOW
    step: int = 0


class Contestant(Protocol):
    """One row of the table."""

    case: Case
    work: int
    """Projections times slices that a round works on."""
    arrivals: int
    """Projections that come in a round."""

    def round_s(self) -> float:
        """Do it once; return how long it took."""
        ...


class Window:
    """Ours, as in the pipeline: views come, the oldest goes, and every `step` the newest 32 are worked on.

    The window is full from the first timed arrival on. The time is all that a worker's engine does for a
    projection: taking it in, with its tables, and the updates.
    """

    def __init__(
        self, *, columns: int, slices: int, step: int, threads: int, arrivals: int, support: str = "circle"
    ) -> None:
        self.case = Case(
            who="ministream", columns=columns, slices=slices, threads=threads, support=support, step=step
        )
        self.arrivals = arrivals // step * step
        self.work = self.arrivals // step * WINDOW * slices
        self._engine = _engine(columns, slices, WINDOW, threads, support)
        self._rows = np.random.default_rng(0).random((slices, columns), np.float32)
        self._arrived = 0
        for _ in range(WINDOW):
            self._take()

    def round_s(self) -> float:
        """Let projections arrive."""
        self._engine.reset()
        newest = range(WINDOW)
        start = time.perf_counter()
        for arrival in range(1, self.arrivals + 1):
            self._take()
            if arrival % self.case.step == 0:
                self._engine.update(newest)
        return time.perf_counter() - start

    def _take(self) -> None:
        if self._engine.views == WINDOW:
            self._engine.drop_view(self._arrived % WINDOW)
        self._engine.add_view(self._arrived * math.pi / SCAN, self._rows)
        self._arrived += 1


class AllViews:
    """Ours, all views in each update, as ASTRA and the matrix do it."""

    arrivals = 0

    def __init__(self, *, columns: int, slices: int, views: int, threads: int, support: str) -> None:
        self.case = Case(
            who="ministream", columns=columns, slices=slices, threads=threads, support=support, views=views
        )
        self.work = views * slices
        self._engine = _engine(columns, slices, views, threads, support)
        rows = np.random.default_rng(0).random((slices, columns), np.float32)
        for angle in _half_turn(views):
            self._engine.add_view(angle, rows)

    def round_s(self) -> float:
        """Update once."""
        self._engine.reset()
        start = time.perf_counter()
        self._engine.update(range(self.case.views))
        return time.perf_counter() - start


class Astra:
    """ASTRA's CPU algorithm 'SIRT' with the projector 'linear', on one thread, as its CPU code always is.

    One slice, all its pixels. The set-up of a run is left out: a round is half the difference of a run of
    three iterations and one of one.
    """

    arrivals = 0

    def __init__(self, astra: Any, *, columns: int, views: int) -> None:
        self.case = Case(
            who="ASTRA linear", columns=columns, slices=1, threads=1, support="square", views=views
        )
        self.work = views
        self._astra = astra
        volume = astra.create_vol_geom(columns, columns)
        projection = astra.create_proj_geom("parallel", 1.0, columns, np.array(_half_turn(views)))
        settings = astra.astra_dict("SIRT")
        settings |= {
            "ProjectorId": astra.create_projector("linear", projection, volume),
            "ProjectionDataId": astra.data2d.create("-sino", projection, 1.0),
            "ReconstructionDataId": astra.data2d.create("-vol", volume, 0.0),
        }
        self._algorithm = astra.algorithm.create(settings)

    def round_s(self) -> float:
        """Iterate."""
        start = time.perf_counter()
        self._astra.algorithm.run(self._algorithm, 1)
        middle = time.perf_counter()
        self._astra.algorithm.run(self._algorithm, 3)
        return (time.perf_counter() - middle - (middle - start)) / 2


class Matrix:
    """Joseph's projector as a sparse matrix (CSR) and its transpose, by SciPy on one thread, all pixels."""

    arrivals = 0

    def __init__(self, *, columns: int, slices: int, views: int) -> None:
        self.case = Case(
            who="CSR matrix", columns=columns, slices=slices, threads=1, support="square", views=views
        )
        self.work = views * slices
        self._matrix = joseph_matrix(columns, _half_turn(views))
        self._transpose = self._matrix.T.tocsr()
        lengths = self._matrix @ np.ones(columns * columns, np.float32)
        weight = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 1)
        self._weight = weight[:, np.newaxis] / views
        self._measured = np.random.default_rng(0).random((len(weight), slices), np.float32)
        self._image = np.zeros((columns * columns, slices), np.float32)

    def round_s(self) -> float:
        """Update once: SIRT, as ours."""
        start = time.perf_counter()
        residual = self._measured - self._matrix @ self._image
        residual *= self._weight
        self._image += self._transpose @ residual
        np.maximum(self._image, 0, out=self._image)
        return time.perf_counter() - start


def joseph_matrix(columns: int, angles_rad: list[float]) -> sparse.csr_matrix:
    """Return A, (view * column, pixel), of Joseph's method on all pixels; the axis is in the middle."""
    half = (columns - 1) / 2
    detector = (np.arange(columns) - half)[:, np.newaxis]
    line = np.arange(columns)[np.newaxis]
    counts, indices, values = [], [], []
    for angle in angles_rad:
        cosine, sine = math.cos(angle), math.sin(angle)
        if abs(cosine) >= abs(sine):  # interpolated along x in each row y
            place = half + (detector - (half - line) * sine) / cosine
            first, along, length = line * columns, 1, 1 / abs(cosine)
        else:  # along y in each column x
            place = half - (detector - (line - half) * cosine) / sine
            first, along, length = line, columns, 1 / abs(sine)
        whole = np.floor(place).astype(np.int32)
        part = place - whole
        # (detector column, line, two neighbours)
        pixel = np.stack([whole, whole + 1], axis=2)
        weight = np.stack([1 - part, part], axis=2) * length
        used = (pixel >= 0) & (pixel < columns) & (weight > 0)
        counts.append(used.sum(axis=(1, 2)))
        indices.append((first[..., np.newaxis] + pixel * along)[used].astype(np.int32))
        values.append(weight[used].astype(np.float32))
    begins = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    shape = (len(angles_rad) * columns, columns * columns)
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(indices), begins), shape)


def _engine(columns: int, slices: int, views: int, threads: int, support: str) -> SirtEngine:
    return SirtEngine(
        slices=slices,
        columns=columns,
        rotation_center=(columns - 1) / 2,
        views=views,
        threads=threads,
        support=support,
    )


def _half_turn(views: int) -> list[float]:
    return [view * math.pi / views for view in range(views)]
