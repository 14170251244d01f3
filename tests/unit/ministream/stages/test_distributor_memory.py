"""How a distributor shares its memory between the DAQ's frames and the workers', and what it refuses."""

from __future__ import annotations

import psutil
import pytest

from ministream.errors import InputError
from ministream.frames import ScanDescription
from ministream.stages.distributor_memory import shares_of
from ministream.transport import FIRST_CREDITS, credits_for

GIB = 1 << 30
SCAN = ScanDescription(
    name="tall",
    rows=2048,
    columns=2448,
    pixel_type="uint16",
    projections=1500,
    flat_fields=10,
    dark_fields=10,
)
FRAME = 2 * 2048 * 2448
PROJECTION = 2 * FRAME


def base() -> int:
    return int(psutil.Process().memory_info().rss)


def test_frames_that_do_not_fit_are_refused_with_the_numbers() -> None:
    with pytest.raises(InputError) as refused:
        shares_of(SCAN, base() + 300_000_000, None)
    told = str(refused.value)
    assert "frames of 2048 x 2448 uint16 need" in told
    assert "(16 of them may be on their way)" in told
    assert "(--memory). What helps: a larger --memory, fewer --rows" in told


@pytest.mark.parametrize("gib", [2, 4, 64])
def test_what_there_is_is_shared_and_never_more(gib: int) -> None:
    limit = base() + gib * GIB
    shares = shares_of(SCAN, limit, None)
    assert FIRST_CREDITS <= shares.credits <= credits_for(FRAME)
    assert shares.under_way_bytes >= 2 * PROJECTION
    assert base() + shares.credits * FRAME + shares.under_way_bytes < limit + (16 << 20)


def test_credits_that_were_asked_for_are_given_or_refused() -> None:
    assert shares_of(SCAN, base() + 4 * GIB, 100).credits == 100
    with pytest.raises(InputError, match="1000 of them may be on their way"):
        shares_of(SCAN, base() + 4 * GIB, 1000)


def test_by_default_a_share_of_what_is_free_is_used() -> None:
    small = ScanDescription(
        name="s", rows=4, columns=8, pixel_type="uint8", projections=5, flat_fields=1, dark_fields=1
    )
    shares = shares_of(small, None, None)
    assert shares.credits == credits_for(32)
    assert shares.under_way_bytes > 1 << 20
