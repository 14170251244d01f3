"""A source with fewer rows, wider pixels, or played more than once."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.errors import InputError
from ministream.sources import ViewOrder, open_source

TEXT = "phantom:columns=64,rows=5,projections=6,flats=2,darks=1"


def test_rows_are_cut_out() -> None:
    with open_source(TEXT) as whole, open_source(TEXT, rows=(1, 3)) as part:
        assert part.describe().rows == 3
        assert part.has_truth
        np.testing.assert_array_equal(part.truth(), whole.truth()[1:4])
        for one, other in zip(whole.frames(), part.frames(), strict=True):
            np.testing.assert_array_equal(other.pixels, one.pixels[1:4])


def test_pixels_become_wider() -> None:
    with open_source(TEXT) as whole, open_source(TEXT, pixel_type="float32") as wide:
        assert wide.describe().pixel_type == "float32"
        for one, other in zip(whole.frames(), wide.frames(), strict=True):
            assert other.pixels.dtype == np.float32
            np.testing.assert_array_equal(other.pixels, one.pixels)


@pytest.mark.parametrize("order", [ViewOrder.AS_MEASURED, ViewOrder.BIT_REVERSED])
def test_it_plays_again_with_new_sets_of_fields_and_numbers_on(order: ViewOrder) -> None:
    with open_source(TEXT) as once, open_source(TEXT, repeat=3) as thrice:
        description = thrice.describe()
        single, frames = list(once.frames(order)), list(thrice.frames(order))
    assert (description.projections, description.flat_fields, description.dark_fields) == (18, 6, 3)
    assert [frame.sequence for frame in frames] == list(range(27))
    assert [frame.sequence for frame in frames if frame.resets] == [0, 1, 9, 10, 18, 19]
    for place, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.pixels, single[place % 9].pixels)
        assert frame.angle_rad == single[place % 9].angle_rad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": (3, 3)}, "rows 3 to 5 are wanted of phantom, which has rows 0 to 4"),
        ({"rows": (-1, 2)}, "0 or more"),
        ({"rows": (0, 0)}, "at least one"),
        ({"pixel_type": "uint8"}, "uint16 pixels, which do not fit uint8"),
        ({"pixel_type": "int64"}, "uint8, uint16, float32"),
        ({"repeat": 0}, "above 0"),
        ({"dataset": "x"}, "a phantom has no use for --dataset"),
        ({"projections": "12"}, "a phantom has no use for --projections"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(TEXT, **options)
    assert words in str(caught.value)
