"""What a distributor tells a worker beside the frames, checked: see `ministream.stages.distribute`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import ProtocolError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the distributor wants of a worker; `blocks` are slices, and the projection that comes next."""

    slices_total: int
    columns: int
    projections: int
    blocks: tuple[tuple[range, int], ...]
    rotation_center: float | None
    scan: str
    name: str

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Assignment:
        """Return it from a notice.

        Raises
        ------
        ProtocolError
            A value is missing, or impossible.
        """
        least = {"slices_total": 1, "columns": 2, "projections": 1}
        numbers = {}
        for name, smallest in least.items():
            value = message.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ProtocolError(
                    f"the distributor assigns {name} {value!r}: at least {smallest} is needed"
                )
            numbers[name] = value
        blocks: list[tuple[range, int]] = []
        given = message.get("blocks")
        for entry in given if isinstance(given, list) else [given]:
            block = _parsed_block(entry, numbers["slices_total"], numbers["projections"])
            if block is None or (blocks and blocks[-1][0].stop != block[0].start):
                raise ProtocolError(f"the distributor assigns blocks {given!r}, of which {entry!r} cannot be")
            blocks.append(block)
        return cls(
            **numbers,
            blocks=tuple(blocks),
            rotation_center=optional_number(message, "rotation_center"),
            scan=str(message.get("scan", "")),
            name=str(message.get("name", "")),
        )

    def as_message(self) -> dict[str, Any]:
        """Return the notice that it would be parsed from."""
        return {
            "slices_total": self.slices_total,
            "columns": self.columns,
            "projections": self.projections,
            "blocks": [[slices.start, slices.stop, following] for slices, following in self.blocks],
            "rotation_center": self.rotation_center,
            "scan": self.scan,
            "name": self.name,
        }


def _parsed_block(entry: object, slices: int, projections: int) -> tuple[range, int] | None:
    """Return the slices and the next projection of a block; None if it cannot be one."""
    if not isinstance(entry, list) or len(entry) != 3:
        return None
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in entry):
        return None
    begin, end, following = entry
    if not 0 <= begin < end <= slices or not 0 <= following <= projections:
        return None
    return range(begin, end), following


def optional_number(message: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a notice, None for null.

    Raises
    ------
    ProtocolError
        It is neither.
    """
    value = message.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ProtocolError(f"the distributor sends {name} {value!r}: a number or null is needed")
    return float(value)


def stripes_from(payload: bytes, slices: int, columns: int) -> FloatArray | None:
    """Return the stripe offsets of a calibration, (slice, column) float32; None where there are none.

    Raises
    ------
    ProtocolError
        They do not fit the slices.
    """
    if not payload:
        return None
    shape = (slices, columns)
    if len(payload) != 4 * shape[0] * shape[1]:
        raise ProtocolError(f"stripe offsets of {len(payload)} bytes do not fit {shape} values of float32")
    return np.frombuffer(payload, "<f4").reshape(shape).astype(np.float32)
