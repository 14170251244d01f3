"""Flat and dark fields of a stream: averaged, begun anew when told, and required."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.errors import InputError
from ministream.frames import Frame, FrameKind, ScanDescription
from ministream.stages.correction import Corrector

SCAN = ScanDescription(
    name="test", rows=2, columns=4, pixel_type="uint16", projections=3, flat_fields=2, dark_fields=2
)


def frame(kind: FrameKind, value: float, *, resets: bool = False, shape: tuple[int, int] = (2, 4)) -> Frame:
    return Frame(sequence=0, kind=kind, pixels=np.full(shape, value, np.uint16), resets=resets)


def test_fields_are_averaged() -> None:
    corrector = Corrector(SCAN)
    for dark in (90, 110):
        assert corrector.take(frame(FrameKind.DARK_FIELD, dark)) is None
    for flat in (1000, 1200):
        assert corrector.take(frame(FrameKind.FLAT_FIELD, flat)) is None
    attenuation = corrector.take(frame(FrameKind.PROJECTION, 600))
    np.testing.assert_allclose(attenuation, np.log(2), rtol=1e-6)
    assert corrector.invalid_pixels == 0


def test_a_resetting_field_begins_a_new_set_of_its_kind_alone() -> None:
    corrector = Corrector(SCAN)
    corrector.take(frame(FrameKind.DARK_FIELD, 100))
    corrector.take(frame(FrameKind.FLAT_FIELD, 60_000))
    corrector.take(frame(FrameKind.FLAT_FIELD, 1000, resets=True))
    corrector.take(frame(FrameKind.FLAT_FIELD, 1200))
    np.testing.assert_allclose(corrector.take(frame(FrameKind.PROJECTION, 600)), np.log(2), rtol=1e-6)


def test_fields_may_come_again_between_projections() -> None:
    corrector = Corrector(SCAN)
    corrector.take(frame(FrameKind.FLAT_FIELD, 1000))
    np.testing.assert_allclose(corrector.take(frame(FrameKind.PROJECTION, 500)), np.log(2), rtol=1e-6)
    corrector.take(frame(FrameKind.FLAT_FIELD, 2000, resets=True))
    np.testing.assert_allclose(corrector.take(frame(FrameKind.PROJECTION, 500)), np.log(4), rtol=1e-6)


def test_without_dark_fields_the_dark_is_zero_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    corrector = Corrector(SCAN)
    corrector.take(frame(FrameKind.FLAT_FIELD, 1000))
    for _ in range(2):
        corrector.take(frame(FrameKind.PROJECTION, 500))
    assert [record.message for record in caplog.records] == ["no dark field has come: it is taken to be 0"]


def test_a_projection_before_any_flat_field_is_an_error() -> None:
    corrector = Corrector(SCAN)
    corrector.take(frame(FrameKind.DARK_FIELD, 100))
    with pytest.raises(InputError, match="no flat field has come before"):
        corrector.take(frame(FrameKind.PROJECTION, 600))


def test_invalid_pixels_are_counted_over_all_projections() -> None:
    corrector = Corrector(SCAN)
    corrector.take(frame(FrameKind.DARK_FIELD, 100))
    corrector.take(frame(FrameKind.FLAT_FIELD, 1000))
    for _ in range(2):
        bad = frame(FrameKind.PROJECTION, 600)
        bad.pixels[0, :3] = 50
        corrector.take(bad)
    assert corrector.invalid_pixels == 6


def test_a_frame_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 5\).*\(2, 4\)"):
        Corrector(SCAN).take(frame(FrameKind.FLAT_FIELD, 1000, shape=(2, 5)))


def test_one_zinger_in_a_field_is_in_no_projection() -> None:
    kept, dropped = (Corrector(SCAN, trimmed=trimmed) for trimmed in (False, True))
    for corrector in (kept, dropped):
        for number in range(6):
            frame = np.full((2, 4), 1000 + 10 * (number % 3), np.uint16)
            if number == 2:
                frame[1, 3] = 65535
            if number == 4:
                frame[0, 0] = 0
            corrector.take(Frame(sequence=number, kind=FrameKind.FLAT_FIELD, pixels=frame))
    assert dropped.flat_fields.mean.tolist() == [[1007.5, 1010, 1010, 1010], [1010, 1010, 1010, 1010]]
    assert kept.flat_fields.mean[1, 3] > 10_000
    # what is kept of them is enough to go on
    again = Corrector(SCAN)
    again.flat_fields.restore(dropped.flat_fields.count, dropped.flat_fields.sums)
    np.testing.assert_array_equal(again.flat_fields.mean, dropped.flat_fields.mean)


def test_a_new_set_forgets_the_extremes_of_the_one_before() -> None:
    corrector = Corrector(SCAN)
    for value, resets in ((9, False), (60_000, False), *((1000, number == 0) for number in range(6))):
        pixels = np.full((2, 4), value, np.uint16)
        corrector.take(Frame(sequence=0, kind=FrameKind.FLAT_FIELD, pixels=pixels, resets=resets))
    assert (corrector.flat_fields.mean == 1000).all()
