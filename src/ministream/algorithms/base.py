"""What every algorithm has: when an update is due, what it works on, and what a checkpoint must hold.

An algorithm is told of each view that has been added to a `SirtEngine`, and updates the engine's slices:
while views arrive, when the scan ends, and in passes over all views after that. It always goes on from the
slices as they are. What it needs besides is in its state.

No slice knows another one. Slices that are reconstructed alone, or with others, or that are moved to
another worker and made again there, come out the same bit for bit. So whatever an algorithm decides from
what it measures, it decides for each slice by itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ministream.algorithms.denoising import denoise
from ministream.algorithms.filtering import filtered_image
from ministream.errors import InputError
from ministream.kernels.sirt import SirtEngine
from ministream.window import IndexArray, SlidingWindow, ordered_subsets

Float32Array = npt.NDArray[np.float32]
State = dict[str, npt.NDArray[np.generic]]
"""Arrays by name. Some are views of what the next update changes: to be written, or copied, before that."""


FIRST_IMAGES = ("zero", "fbp")
"""Nothing, or the filtered back projection of the views of the first update."""
_REFINE_SUBSET = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which updates there are.

    Parameters
    ----------
    window, step, iterations : int
        Views per update; new views between updates; how often each update is made. An algorithm that does not
        work on windows spends as much on each arriving view: ``window / step * iterations``.
    total_variation : float
        Strength of the regularisation, in units of the noise (`ministream.algorithms.denoising`); 0 for none.
    first_image : str
        One of `FIRST_IMAGES`: what the first update begins with.

    Raises
    ------
    InputError
        A number is out of its range.
    """

    window: int = 32
    step: int = 4
    iterations: int = 1
    total_variation: float = 1.0
    first_image: str = "zero"

    def __post_init__(self) -> None:
        SlidingWindow(self.window, self.step)
        if self.iterations < 1:
            raise InputError(f"iterations is {self.iterations}: at least 1 is needed")
        if not (math.isfinite(self.total_variation) and self.total_variation >= 0):
            raise InputError(f"total variation is {self.total_variation}: 0 or more is needed")
        if self.first_image not in FIRST_IMAGES:
            raise InputError(f"first image {self.first_image!r} is not one of {', '.join(FIRST_IMAGES)}")


class Algorithm(ABC):
    """Updates of the slices of one engine.

    Parameters
    ----------
    engine : SirtEngine
        Without views. It belongs to the algorithm from now on; only views and calibrations come from outside.
    views : int
        Most views.
    settings : Settings
    """

    name: ClassVar[str]
    """What users call it."""
    summary: ClassVar[str]
    """What it does, in one line of help."""

    def __init__(self, engine: SirtEngine, views: int, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.arrivals = SlidingWindow(settings.window, settings.step)
        self.angles_rad = np.empty(views, np.float64)
        self.used = np.zeros(views, np.bool_)
        """(view,) bool: which views an update was made from."""
        self.updates = 0
        """Updates so far; each ordered subset counts."""
        self.residual = 0.0
        """RMS difference between measured and projected attenuation, before the last update."""

    @property
    def views(self) -> int:
        """Views that have come."""
        return self.engine.views

    def add(self, angle_rad: float, rows: Float32Array) -> bool:
        """Take one view; tell whether the slices were updated.

        Parameters
        ----------
        angle_rad : float
        rows : (slice, column) float32
            Attenuation. Copied.

        Raises
        ------
        ValueError
            There is no room for another view, or this one does not fit the slices.
        """
        view = self.engine.add_view(angle_rad, rows)
        self.angles_rad[view] = angle_rad
        return self._update_if_due(self.arrivals.push(view))

    def finish(self) -> None:
        """Make the update that views still wait for; the scan has ended."""
        if not self.used[: self.views].all():
            self._iterate(self.arrivals.newest)

    def refine(self) -> None:
        """Make one pass over all views so far, in ordered subsets, and denoise."""
        self._pass_over(np.arange(self.views), _REFINE_SUBSET)

    @abstractmethod
    def _stream(self, newest: IndexArray) -> None:
        """Update the slices once, because views have come: `newest` is the window that ends with them."""

    def keep(self, begin: int, end: int) -> None:
        """Forget all slices but those from `begin` up to and without `end`.

        Raises
        ------
        ValueError
            There are no such slices.
        """
        self.engine.keep(begin, end)

    def restart(self) -> None:
        """Begin anew with the views that are there: as after a large change of the rotation centre."""
        self.engine.reset()

    # ------------------------------------------------------------------ checkpoints

    def state(self) -> State:
        """Return what a new algorithm over the same views needs besides them to go on exactly as this one."""
        return {
            "volume": self.engine.volume,
            "newest": self.arrivals.newest,
            "waiting": np.array(self.arrivals.waiting),
            "used": self.used[: self.views],
            "updates": np.array(self.updates),
            "residual": np.array(self.residual),
        }

    def restore(
        self, state: Mapping[str, npt.NDArray[np.generic]], angles_rad: npt.NDArray[np.float64]
    ) -> None:
        """Go on from a `state`; the engine has its views already.

        Raises
        ------
        InputError
            The state is that of other slices, or of another algorithm.
        """
        views = len(angles_rad)
        volume, used = (
            self._part(state, "volume", self.engine.volume.shape),
            self._part(state, "used", (views,)),
        )
        newest = self._part(state, "newest", (min(views, self.settings.window),))
        self.arrivals.restore(newest.astype(np.intp), int(self._part(state, "waiting", ())))
        self.engine.volume[:] = volume
        self.angles_rad[:views] = angles_rad
        self.used[:views] = used
        self.updates = int(self._part(state, "updates", ()))
        self.residual = float(self._part(state, "residual", ()))

    def _part(
        self, state: Mapping[str, npt.NDArray[np.generic]], name: str, shape: tuple[int, ...]
    ) -> npt.NDArray[np.generic]:
        if name not in state:
            raise InputError(f"there is no {name!r} in what is said to be the state of {self.name}")
        if state[name].shape != shape:
            raise InputError(
                f"{name!r} of the state of {self.name} has the shape {state[name].shape}, not {shape}"
            )
        return state[name]

    # ------------------------------------------------------------------ memory

    @classmethod
    def extra_bytes(cls, *, slices: int, columns: int, views: int) -> int:  # noqa: ARG003 - one signature
        """Bytes that it needs besides the engine: none, where an algorithm does not say otherwise."""
        return 0

    # ------------------------------------------------------------------ for the algorithms

    def _update_if_due(self, newest: IndexArray | None) -> bool:
        if newest is None or not self._is_worth_an_update():
            return False
        self._iterate(newest)
        return True

    def _is_worth_an_update(self) -> bool:
        """Whether enough views have come for an update, now that a step is complete."""
        return True

    def _iterate(self, newest: IndexArray) -> None:
        if self.updates == 0 and self.settings.first_image == "fbp":
            filtered_image(self.engine, self.angles_rad[: self.views])
        for _ in range(self.settings.iterations):
            self._stream(newest)

    def _update(self, views: IndexArray) -> None:
        """Update the slices once over these views."""
        self.residual = self.engine.update(views)
        self.updates += 1
        self.used[views] = True

    def _pass_over(self, views: IndexArray, subset: int) -> None:
        """Update over all these views, about so many at a time and well spread, and denoise the slices."""
        dealt = ordered_subsets(self.angles_rad[views], max(1, len(views) // subset))
        for chosen in dealt:
            self._update(views[chosen])
        self._denoise(len(dealt))

    def _denoise(self, updates: int) -> None:
        """Denoise the slices after so many updates."""
        denoise(self.engine, strength=self.settings.total_variation * updates)

    def _by_direction(self) -> IndexArray:
        """Return the views so far by direction; one and that from the other side see the same lines."""
        return np.argsort(np.mod(self.angles_rad[: self.views], math.pi), kind="stable")
