"""The contract of a source of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError
from ministream.frames import Frame, ScanDescription
from ministream.sources.order import ViewOrder


class Source(ABC):
    """A scan that can be played: opened, described, its frames taken one by one, closed.

    A source must implement `describe` and `frames`, and may implement the rest.
    """

    @property
    def rotation_center(self) -> float | None:
        """The column on which the rotation axis projects, where the source knows it."""
        return None

    @property
    def has_truth(self) -> bool:
        """Whether `truth` has something to return."""
        return False

    @abstractmethod
    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""

    @abstractmethod
    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield the dark fields, then the flat fields, then the projections in this order.

        Sequence numbers run from 0 in the order of playing. One frame is in memory at a time.

        Raises
        ------
        InputError
            A frame cannot be read, or holds values that no detector gives.
        """

    def truth(self) -> npt.NDArray[np.float32]:
        """Return what a perfect reconstruction would give, (slice, y, x), attenuation per pixel length.

        Raises
        ------
        InputError
            It is not known.
        """
        raise InputError(f"{self.describe().name} has no ground truth; only a phantom has")

    def close(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what is held. Idempotent."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
