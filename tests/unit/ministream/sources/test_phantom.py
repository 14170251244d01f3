"""The synthetic scan: its options, its frames, and that they show the truth in our convention."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.transform import iradon

from ministream.errors import InputError
from ministream.frames import FrameKind
from ministream.kernels.metrics import circle_mask, ssim
from ministream.sources import ViewOrder, open_source
from ministream.sources.phantom import Phantom, PhantomOptions

SMALL = PhantomOptions(columns=64, rows=2, projections=12, flats=3, darks=2)


def test_it_gives_darks_then_flats_then_projections_as_described() -> None:
    phantom = Phantom(SMALL)
    frames = list(phantom.frames())
    description = phantom.describe()
    assert len(frames) == description.frames == 17
    assert [frame.sequence for frame in frames] == list(range(17))
    kinds = [FrameKind.DARK_FIELD] * 2 + [FrameKind.FLAT_FIELD] * 3 + [FrameKind.PROJECTION] * 12
    assert [frame.kind for frame in frames] == kinds
    assert {frame.pixels.shape for frame in frames} == {(2, 64)}
    assert {frame.pixels.dtype.name for frame in frames} == {"uint16"}
    np.testing.assert_allclose([frame.angle_rad for frame in frames[5:]], np.pi / 12 * np.arange(12))


def test_a_view_is_the_same_in_every_order() -> None:
    phantom = Phantom(SMALL)
    measured = {frame.angle_rad: frame.pixels for frame in list(phantom.frames())[5:]}
    reversed_ = {frame.angle_rad: frame.pixels for frame in list(phantom.frames(ViewOrder.BIT_REVERSED))[5:]}
    assert list(reversed_) != list(measured)
    for angle_rad, pixels in measured.items():
        np.testing.assert_array_equal(reversed_[angle_rad], pixels)


def test_the_views_show_the_truth_in_the_convention_of_radon() -> None:
    """Filtered back projection by an independent program gives the truth, at the stated rotation centre."""
    columns = 128
    phantom = Phantom(PhantomOptions(columns=columns, rows=1, projections=180))
    sinogram = np.stack([-np.log(phantom.transmission(angle)[0]) for angle in phantom.angles_rad], axis=1)
    # iradon has its axis on column N // 2 of the views and on pixel N // 2 of the image
    wider = columns + 1
    at = np.arange(wider) - wider // 2 + phantom.rotation_center
    shifted = np.stack([np.interp(at, np.arange(columns), view) for view in sinogram.T], axis=1)
    image = iradon(shifted, theta=np.degrees(phantom.angles_rad), output_size=wider, filter_name="hann")
    # between four pixels of the odd grid lies one of ours
    ours = (image[:-1, :-1] + image[1:, :-1] + image[:-1, 1:] + image[1:, 1:]) / 4
    truth = phantom.truth()[0]
    mask = circle_mask(columns)
    good = ssim(ours.astype(np.float32), truth, mask)
    assert good > 0.85
    for wrong in (ours[::-1], ours[:, ::-1], ours.T):
        assert ssim(wrong.astype(np.float32), truth, mask) < good - 0.1


def test_the_truth_is_attenuation_and_fits_the_options() -> None:
    phantom = Phantom(PhantomOptions(columns=96, rows=3, absorption=1.5))
    truth = phantom.truth()
    assert truth.shape == (3, 96, 96)
    assert truth.dtype == np.float32
    assert truth.min() == 0
    # the matrix fills most of the object
    radius = 0.85 * (47.5 - 5.3)
    assert np.median(truth[truth > 0]) == pytest.approx(1.5 / (2 * radius), rel=0.01)
    assert (truth[0] != truth[1]).any()


def test_the_object_is_whole_on_the_detector() -> None:
    phantom = Phantom(PhantomOptions(columns=64, rows=2))
    for angle_rad in phantom.angles_rad:
        through = phantom.transmission(float(angle_rad))
        np.testing.assert_array_equal(through[:, [0, -1]], 1.0)


def test_its_options_are_read_from_text() -> None:
    options = PhantomOptions.parse("columns=96, rows=4,photons=1e4,center-offset=-2.5,pixel_type=float32")
    assert options == PhantomOptions(
        columns=96, rows=4, photons=1e4, center_offset=-2.5, pixel_type="float32"
    )
    assert PhantomOptions.parse("") == PhantomOptions()
    with open_source("phantom:columns=32,rows=1") as source:
        assert source.describe().columns == 32
        assert source.has_truth


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("columns=many", "columns is 'many'; a whole number"),
        ("columns=9.5", "a whole number"),
        ("columns=4", "columns is 4; it lies between 16"),
        ("photons=nan", "photons"),
        ("photons=lots", "a number"),
        ("colums=5", "'colums=5' is not KEY=VALUE with a KEY of columns"),
        ("columns", "KEY=VALUE"),
        ("columns=32,columns=64", "twice"),
        ("pixel_type=int64", "uint8, uint16, float32"),
        ("columns=32,center_offset=12", "a quarter"),
    ],
)
def test_options_that_cannot_be_are_named(text: str, words: str) -> None:
    with pytest.raises(InputError, match="phantom: ") as caught:
        PhantomOptions.parse(text)
    assert words in str(caught.value)


def test_fields_come_again_as_often_as_asked() -> None:
    phantom = Phantom(PhantomOptions(columns=64, rows=2, projections=12, flats=3, darks=2, fields_every=5))
    description, frames = phantom.describe(), list(phantom.frames())
    assert (description.flat_fields, description.dark_fields) == (9, 6)
    assert [frame.sequence for frame in frames if frame.resets] == [0, 2, 10, 12, 20, 22]
    # of other noise, because they are other frames
    assert (frames[2].pixels != frames[12].pixels).any()


def test_a_view_is_the_same_in_every_order_whatever_happens_in_time() -> None:
    options = PhantomOptions(
        columns=64,
        rows=2,
        projections=12,
        fields_every=6,
        move_x=4,
        move_y=-3,
        move_rows=1,
        drift=-0.3,
        zingers=3,
    )
    played = [
        {
            frame.angle_rad: frame.pixels
            for frame in Phantom(options).frames(order)
            if frame.kind is FrameKind.PROJECTION
        }
        for order in ViewOrder
    ]
    for views in played[1:]:
        for angle_rad, pixels in views.items():
            np.testing.assert_array_equal(pixels, played[0][angle_rad])


def test_the_object_moves_as_far_as_asked() -> None:
    phantom = Phantom(PhantomOptions(columns=128, rows=4, move_x=6.0, move_y=-4.0, object="cylinder"))
    columns = np.arange(128)

    def middle(angle_rad: float, progress: float) -> float:
        absorbed = -np.log(phantom.transmission(angle_rad, progress)).sum(axis=0)
        return float((absorbed * columns).sum() / absorbed.sum())

    for progress in (0.5, 1.0):
        # a view along y shows x, one along x shows y
        assert middle(0.0, progress) - middle(0.0, 0.0) == pytest.approx(6 * progress, abs=0.1)
        assert middle(np.pi / 2, progress) - middle(np.pi / 2, 0.0) == pytest.approx(-4 * progress, abs=0.1)


def test_the_object_moves_through_the_rows() -> None:
    phantom = Phantom(PhantomOptions(columns=64, rows=8, move_rows=3))
    np.testing.assert_allclose(
        phantom.transmission(0.3, 1.0)[3:], phantom.transmission(0.3, 0.0)[:-3], atol=1e-9
    )


def test_the_beam_drifts_and_new_flat_fields_see_it() -> None:
    options = PhantomOptions(
        columns=64, rows=2, projections=20, fields_every=10, drift=-0.4, rings=0, photons=1e7
    )
    frames = list(Phantom(options).frames())
    flats = [frame.pixels.mean() for frame in frames if frame.kind is FrameKind.FLAT_FIELD]
    assert flats[-1] / flats[0] == pytest.approx(1 - 0.4 * 10 / 19, abs=0.01)
    # the outermost columns see nothing of the object
    views = [frame.pixels[:, 0].mean() for frame in frames if frame.kind is FrameKind.PROJECTION]
    assert views[-1] / views[0] == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("object_", ["shepp-logan", "cylinder"])
def test_other_objects_are_known_too(object_: str) -> None:
    phantom = Phantom(PhantomOptions(columns=128, rows=1, object=object_, absorption=1.0))
    truth = phantom.truth()[0]
    assert truth.min() >= 0
    # mass is conserved: every view adds up to what the object holds
    for angle_rad in (0.0, 0.7, 2.0):
        mass = -np.log(phantom.transmission(angle_rad)).sum()
        assert mass == pytest.approx(truth.sum(), rel=0.01)


def test_views_are_spread_over_the_range() -> None:
    phantom = Phantom(PhantomOptions(projections=36, range=360))
    np.testing.assert_allclose(np.degrees(phantom.angles_rad), np.arange(36) * 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("object=teapot", "rock, shepp-logan, cylinder"),
        ("range=0", "range is 0"),
        ("drift=-1", "drift is -1.0; it lies between -0.99"),
        ("zingers=-1", "zingers"),
        ("dead_pixels=1.5", "a whole number"),
        ("move_x=inf", "move_x"),
        ("fields_every=-2", "fields_every"),
    ],
)
def test_options_of_what_happens_are_named(text: str, words: str) -> None:
    with pytest.raises(InputError, match="phantom: ") as caught:
        PhantomOptions.parse(text)
    assert words in str(caught.value)
