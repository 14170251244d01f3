"""What a distributor needs of memory, and how it shares what there is.

The projections are in files, which the kernel takes out of memory when it is needed. What must be there: the
frames that the DAQ may have sent, which begin with `FIRST_CREDITS`; sums and means of the fields; and what
workers have been sent and have not acknowledged. The last two are fitted to the memory that there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psutil

from ministream.errors import InputError
from ministream.frames import ScanDescription
from ministream.stages.host_memory import SHARE, free_bytes, shown
from ministream.transport import FIRST_CREDITS, credits_for

_FIELDS_BYTES = 96
"""A pixel: sums of flat and dark fields, their means, and what a correction needs for a moment."""
_FIXED_BYTES = 64 << 20
"""Estimates of centre and stripes, buffers of sockets."""
_LEAST_UNDER_WAY = 2
"""Projections that may be on their way to the workers, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How the memory is shared.

    Parameters
    ----------
    credits : int
        Frames that the DAQ may send.
    under_way_bytes : int
        What workers may have been sent and not acknowledged, together.
    """

    credits: int
    under_way_bytes: int


def shares_of(scan: ScanDescription, limit_bytes: int | None, credits: int | None) -> Shares:
    """Return how a distributor's memory is shared.

    Parameters
    ----------
    scan : ScanDescription
    limit_bytes : int or None
        What the process may use in all; None for a share of what is free.
    credits : int or None
        Frames that the DAQ may send; None for as many as `credits_for` says, and there is room for.

    Raises
    ------
    InputError
        The scan's frames do not fit; it tells the numbers, and what to do.
    """
    base = int(psutil.Process().memory_info().rss)
    limit = base + int(SHARE * free_bytes()) if limit_bytes is None else limit_bytes
    pixels = scan.rows * scan.columns
    frame, projection = pixels * np.dtype(scan.pixel_type).itemsize, 4 * pixels
    first = frame * (credits or FIRST_CREDITS)
    needed = base + first + pixels * _FIELDS_BYTES + _LEAST_UNDER_WAY * projection + _FIXED_BYTES
    if needed > limit:
        where = f"{SHARE:.0%} of what is free" if limit_bytes is None else "--memory"
        raise InputError(
            f"frames of {scan.rows} x {scan.columns} {scan.pixel_type} need {shown(needed)} of memory here "
            f"({credits or FIRST_CREDITS} of them may be on their way), and there are {shown(limit)} "
            f"({where}). What helps: a larger --memory, fewer --rows at the DAQ, or columns binned by two"
        )
    left = limit - needed
    if credits is None:
        # the first ones are counted already
        credits = max(FIRST_CREDITS, min(credits_for(frame), FIRST_CREDITS + left // 2 // frame))
    return Shares(credits=credits, under_way_bytes=_LEAST_UNDER_WAY * projection + left // 2)
