"""The slices of one worker while their projections arrive, and after. No sockets, no files.

Which updates there are is the algorithm's choice (`ministream.algorithms`); here is what does not depend on
it: views come one by one, are corrected for stripes and a rotation centre that are found later, slices go to
other workers, and everything can be kept in a checkpoint. `docs/reconstruction.md` compares the algorithms.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ministream.algorithms import Settings, State, algorithm_named
from ministream.errors import InputError, ProtocolError
from ministream.kernels.sirt import SirtEngine

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

_SMALL_CHANGE = 0.02
"""Columns: a rotation centre that moves by less stays where it is."""
_LARGE_CHANGE = 1.0
"""Columns: what was reconstructed with a rotation centre that far off is not worth keeping."""
_CATCH_UP_PASSES = 2


class Reconstruction:
    """The slices of one worker, the views of them so far, and the updates that are due.

    Parameters
    ----------
    algorithm : str
        A name of `ministream.algorithms.ALGORITHMS`.
    slices, columns, projections : int
        Slices of this worker; detector columns; views that will come.
    rotation_center : float or None
        Column index; None where it is not known yet: the middle, until it is.
    window, step, iterations : int
        Views per update, new views between updates, iterations per update; see `Settings`.
    nonnegative : bool
        Whether what would be negative becomes zero.
    total_variation, first_image
        See `Settings`.
    threads : int or None

    Raises
    ------
    InputError
        The algorithm is unknown, or a number is out of its range.
    """

    def __init__(
        self,
        *,
        algorithm: str,
        slices: int,
        columns: int,
        projections: int,
        rotation_center: float | None,
        window: int = 32,
        step: int = 4,
        iterations: int = 1,
        nonnegative: bool = True,
        total_variation: float = 1.0,
        first_image: str = "zero",
        threads: int | None = None,
    ) -> None:
        chosen = algorithm_named(algorithm)
        settings = Settings(
            window=window,
            step=step,
            iterations=iterations,
            total_variation=total_variation,
            first_image=first_image,
        )
        try:
            self._engine = SirtEngine(
                slices=slices,
                columns=columns,
                rotation_center=(columns - 1) / 2 if rotation_center is None else rotation_center,
                views=projections,
                nonnegative=nonnegative,
                threads=threads,
            )
        except ValueError as error:
            raise InputError(f"the reconstruction cannot be set up: {error}") from error
        self._algorithm = chosen(self._engine, projections, settings)

    @staticmethod
    def memory_bytes(*, algorithm: str, slices: int, columns: int, projections: int, threads: int = 1) -> int:
        """Return how many bytes a reconstruction of this size needs, at its largest.

        Raises
        ------
        InputError
            The algorithm is unknown.
        """
        chosen = algorithm_named(algorithm)
        return SirtEngine.memory_bytes(
            slices=slices, columns=columns, views=projections, threads=threads
        ) + chosen.extra_bytes(slices=slices, columns=columns, views=projections)

    @property
    def views(self) -> int:
        """Projections that have come."""
        return self._algorithm.views

    @property
    def updates(self) -> int:
        """Updates so far; each ordered subset counts."""
        return self._algorithm.updates

    @property
    def residual(self) -> float:
        """RMS difference between measured and projected attenuation, before the last update."""
        return self._algorithm.residual

    @property
    def projections_reconstructed(self) -> int:
        """Distinct projections that at least one update was made from."""
        return int(np.count_nonzero(self._algorithm.used))

    @property
    def rotation_center(self) -> float:
        """Column index that is in use."""
        return self._engine.rotation_center

    @property
    def volume(self) -> FloatArray:
        """(slice, y, x) float32, attenuation per pixel length; a view that the next update changes."""
        return self._engine.volume

    def add(self, angle_rad: float, rows: FloatArray) -> bool:
        """Take one projection; tell whether it led to an update.

        Parameters
        ----------
        angle_rad : float
        rows : (slice, column) float32
            Attenuation. Copied.

        Raises
        ------
        ProtocolError
            There are more projections than were announced, or this one does not fit them.
        """
        try:
            return self._algorithm.add(angle_rad, rows)
        except ValueError as error:
            raise ProtocolError(f"projection {self.views} cannot be used: {error}") from error

    def calibrate(self, rotation_center: float | None, stripes: FloatArray | None) -> None:
        """Use another rotation centre or other stripe offsets, for all views, past and future.

        After a large change of the centre the slices begin anew, with some passes over the views so far.

        Parameters
        ----------
        rotation_center : float or None
            Column index.
        stripes : (slice, column) float32 or None
            To be subtracted from every view, in place of earlier offsets.

        Raises
        ------
        ProtocolError
            A value does not fit the scan.
        """
        change = 0.0 if rotation_center is None else abs(rotation_center - self.rotation_center)
        try:
            if stripes is not None:
                self._engine.set_stripe_offset(stripes)
            if rotation_center is not None and change > _SMALL_CHANGE:
                self._engine.set_rotation_center(rotation_center)
        except ValueError as error:
            raise ProtocolError(f"a calibration cannot be used: {error}") from error
        if change > _LARGE_CHANGE and self.updates:
            logger.info("rotation centre moved by %.2f columns: reconstruction begins anew", change)
            self._algorithm.restart()
            for _ in range(_CATCH_UP_PASSES):
                self.refine()

    def keep(self, begin: int, end: int) -> None:
        """Keep the slices from `begin` up to and without `end`; the others go to another worker.

        Raises
        ------
        ProtocolError
            There are no such slices.
        """
        try:
            self._algorithm.keep(begin, end)
        except ValueError as error:
            raise ProtocolError(str(error)) from error

    def finish(self) -> None:
        """Make the update of the projections that no update has used yet; the scan has ended."""
        self._algorithm.finish()

    def refine(self) -> None:
        """Make one pass over all views so far."""
        if self.views:
            self._algorithm.refine()

    # ------------------------------------------------------------------ checkpoints

    def state(self) -> State:
        """Return what is needed to go on elsewhere exactly as here: arrays by name.

        ``angles_rad`` (view,) float64 and ``rows`` (view, slice, column) float32 as they came, in order;
        ``rotation_center`` () float64; ``stripes`` (slice, column) float32; and the algorithm's own.
        They are views of what the next call changes: write or copy them before that.
        """
        return {
            "angles_rad": self._algorithm.angles_rad[: self.views],
            "rows": self._engine.measured[: self.views],
            "rotation_center": np.array(self.rotation_center),
            "stripes": self._engine.stripe_offset,
            **self._algorithm.state(),
        }

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a `state`. This one must be new, and of the same slices, columns and algorithm.

        Raises
        ------
        InputError
            The state is not one, or that of something else.
        """
        try:
            self._engine.set_rotation_center(float(state["rotation_center"]))
            self._engine.set_stripe_offset(np.asarray(state["stripes"], np.float32))
            angles = np.asarray(state["angles_rad"], np.float64)
            for angle, rows in zip(angles, np.asarray(state["rows"], np.float32), strict=True):
                self._engine.add_view(float(angle), rows)
        except KeyError as error:
            raise InputError(f"there is no {error} in what is said to be a reconstruction's state") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"this reconstruction cannot go on from another one's state: {error}") from error
        self._algorithm.restore(state, angles)
