"""Slices that a worker has had since the same projection, with their reconstruction, and how to keep both."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ministream.stages.checkpoint import Part
from ministream.stages.reconstruction import Reconstruction

FloatArray = npt.NDArray[np.float32]

_GROWN = ("angles_rad", "rows")
"""Of a reconstruction's state: what only grows, one entry a view."""


@dataclass(slots=True)
class Block:
    """Slices that are in step.

    Attributes
    ----------
    slices : range
    reconstruction : Reconstruction
    next : int
        The projection that they need next.
    flushed : bool
        The update of the last projections has been made.
    passes : int
        Passes over all views after that.
    finished : bool
        Nothing is left to be done.
    key : str
        No other slices have had it.
    """

    slices: range
    reconstruction: Reconstruction = field(repr=False)
    next: int = 0
    flushed: bool = False
    passes: int = 0
    finished: bool = False
    key: str = field(default_factory=lambda: uuid.uuid4().hex, repr=False)

    @property
    def volume(self) -> FloatArray:
        """(slice, y, x) float32; a view that the next update changes."""
        return self.reconstruction.volume

    def keep(self, slices: range) -> None:
        """Forget the other slices.

        Raises
        ------
        ProtocolError
            They are not here.
        """
        if slices == self.slices:
            return
        begin = slices.start - self.slices.start
        self.reconstruction.keep(begin, begin + len(slices))
        self.slices, self.key = slices, uuid.uuid4().hex

    def part(self) -> Part:
        """Return what a checkpoint must hold; its arrays are views of what the next update changes."""
        state = self.reconstruction.state()
        return Part(
            key=self.key,
            values={
                "slices": [self.slices.start, self.slices.stop],
                "next": self.next,
                "flushed": self.flushed,
                "passes": self.passes,
                "finished": self.finished,
            },
            arrays={name: array for name, array in state.items() if name not in _GROWN},
            grown={name: state[name] for name in _GROWN},
        )

    @classmethod
    def from_part(cls, part: Part, make: Callable[[int], Reconstruction]) -> Block:
        """Return a block that goes on where another was when it gave `part`.

        Parameters
        ----------
        part : Part
        make : callable
            Returns a new reconstruction of so many slices.

        Raises
        ------
        InputError
            The state is none of such a reconstruction.
        KeyError, TypeError, ValueError
            Something is missing, or is not what it should be.
        """
        begin, end = part.values["slices"]
        slices = range(int(begin), int(end))
        reconstruction = make(len(slices))
        reconstruction.restore({**part.arrays, **part.grown})
        block = cls(
            slices,
            reconstruction,
            next=int(part.values["next"]),
            flushed=bool(part.values["flushed"]),
            passes=int(part.values["passes"]),
            finished=bool(part.values["finished"]),
            key=part.key,
        )
        if not slices or block.next != reconstruction.views:
            raise ValueError(f"{reconstruction.views} views of slices {slices}, and {block.next} were taken")
        return block
