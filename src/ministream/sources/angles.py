"""Angles of views: from a range, a text file, a dataset; in degrees or radians."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ministream.errors import InputError

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

# beyond one turn, with a little room, a number without unit cannot be in radians
_ONE_TURN_RAD = 2 * math.pi * 1.01
_RANGE = re.compile(r"\s*([^:\s]+)\s*:\s*([^:\s]+)\s*")


def parse_range(text: str) -> tuple[float, float] | None:
    """Return start and stop in degrees of ``START:STOP``; None where the text is none."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    try:
        start, stop = (float(part) for part in found.groups())
    except ValueError:
        return None
    if not math.isfinite(start) or not math.isfinite(stop) or start == stop:
        raise InputError(f"angles {text}: start and stop are different finite numbers of degrees")
    return start, stop


def from_text(text: str, units: str, count: int) -> FloatArray:
    """Return `count` angles in radians from ``START:STOP`` or the name of a text file.

    Raises
    ------
    InputError
        It is neither, or the file has another number of them.
    """
    bounds = parse_range(text)
    if bounds is not None:
        return over_range(*bounds, count)
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"angles {text!r} are neither START:STOP in degrees nor a file, nor a dataset of the scan"
        )
    given = from_text_file(path, units)
    if len(given) != count:
        raise InputError(f"{path} has {len(given)} angles; {count} are needed, one for each projection")
    return given


def over_range(start_deg: float, stop_deg: float, count: int) -> FloatArray:
    """Return `count` angles in radians, evenly spaced from start on, without the stop."""
    angles: FloatArray = np.radians(start_deg + (stop_deg - start_deg) / count * np.arange(count))
    return angles


def from_text_file(path: Path, units: str) -> FloatArray:
    """Return the angles in a text file in radians, one a line; degrees unless `units` says otherwise.

    Raises
    ------
    InputError
        It cannot be read, or holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{path} cannot be read: {reason}") from error
    angles = []
    for number, line in enumerate(lines, 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            angles.append(float(content))
        except ValueError:
            raise InputError(f"{path}, line {number}: {content[:40]!r} is not one angle") from None
    given = np.array(angles, np.float64)
    check_finite(given, str(path))
    return given if units == "radians" else np.radians(given)


def in_radians(angles: npt.NDArray[Any], where: str, units: object, chosen: str = "auto") -> FloatArray:
    """Return angles in radians, whatever they are in.

    Parameters
    ----------
    angles : (view,) of numbers
    where : str
        For messages.
    units : object
        The file's ``units``; without one that is understood, a range beyond one turn of radians is degrees.
    chosen : str
        ``degrees`` or ``radians`` where the user says so.

    Raises
    ------
    InputError
        An angle is not a finite number.
    """
    given = angles.astype(np.float64)
    check_finite(given, where)
    return np.radians(given) if _in_degrees(given, where, units, chosen) else given


def check_finite(angles: FloatArray, where: str) -> None:
    """Refuse angles that are none.

    Raises
    ------
    InputError
        One is NaN or infinite.
    """
    bad = np.flatnonzero(~np.isfinite(angles))
    if bad.size:
        raise InputError(f"{where}[{bad[0]}] is {angles[bad[0]]}; every angle must be a finite number")


def _in_degrees(angles: FloatArray, where: str, units: object, chosen: str) -> bool:
    text = units.decode(errors="replace") if isinstance(units, bytes) else str(units or "")
    text = (chosen if chosen != "auto" else text).strip().lower()
    if text.startswith(("deg", "°")):
        return True
    if text.startswith("rad"):
        return False
    degrees = bool(angles.size and np.ptp(angles) > _ONE_TURN_RAD)
    logger.warning(
        "%s has no units of angle (%r); taken as %s, because of its range; --angle-units says it for sure",
        where,
        text,
        "degrees" if degrees else "radians",
    )
    return degrees
