"""The contract of a source of frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
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

    @property
    def live(self) -> bool:
        """Whether frames come when they are measured: in their own order, at their own rate."""
        return False

    @abstractmethod
    def describe(self) -> ScanDescription:
        """Return what a receiver must know before the first frame."""

    @abstractmethod
    def frames(self, order: ViewOrder = ViewOrder.AS_MEASURED) -> Iterator[Frame]:
        """Yield dark and flat fields before the projections that they correct, the projections in this order.

        Sequence numbers run from 0 in the order of playing. Fields that begin a new set reset the earlier
        one of their kind. One frame is in memory at a time, or as many as a file's chunks hold.

        Raises
        ------
        InputError
            A frame cannot be read, or holds values that no detector gives.
        """

    def wait(self, timeout_s: float) -> bool:  # noqa: ARG002 - files are always ready
        """Wait until the next frame, or the end, can be taken; False when the time is over before.

        Only a detector makes its players wait. They call it before they take each frame, so that they can
        do something else in between.
        """
        return True

    @property
    def counts(self) -> Mapping[str, int]:
        """What a detector has counted so far: lost frames, by name; nothing for a file."""
        return {}

    def check_complete(self) -> None:  # noqa: B027 - files cannot lose anything
        """Refuse to call the scan complete when something was lost on the way to this program.

        Raises
        ------
        ConnectionFailed
            Frames were lost; the message says how many, where, and what to do.
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
