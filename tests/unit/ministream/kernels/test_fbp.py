"""Filtered back projection: scikit-image, an analytic phantom, and images brought up to date view by view."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skimage.transform import iradon

from ministream.kernels.fbp import FILTERS, WeightLedger, angular_weights, filter_rows
from ministream.kernels.sirt import SirtEngine

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

DISCS = ((0.0, 0.0, 0.4, 1.0), (0.15, 0.1, 0.1, 0.8), (-0.1, -0.2, 0.06, -0.7))
"""x, y upwards, radius, in widths of the image, and value."""


def phantom(columns: int, discs: tuple[tuple[float, ...], ...] = DISCS) -> Float64Array:
    t = (np.arange(columns * 4) + 0.5) / 4 - columns / 2
    image = np.zeros((columns * 4, columns * 4))
    for x, y_up, radius, value in discs:
        inside = (t[None, :] - x * columns) ** 2 + (-t[:, None] - y_up * columns) ** 2
        image[inside <= (radius * columns) ** 2] += value
    return image.reshape(columns, 4, columns, 4).mean((1, 3))


def sinogram(
    columns: int, angles: Float64Array, center: float, discs: tuple[tuple[float, ...], ...] = DISCS
) -> Float32Array:
    """Chords of the discs, by formula, averaged over each detector column: (view, column)."""
    fine = (np.arange(columns * 8) + 0.5) / 8 - 0.5 - center
    rows = np.zeros((len(angles), columns * 8))
    for x, y_up, radius, value in discs:
        middle = columns * (x * np.cos(angles) + y_up * np.sin(angles))
        t = fine[None, :] - middle[:, None]
        rows += value * 2 * np.sqrt(np.maximum((radius * columns) ** 2 - t**2, 0))
    return rows.reshape(len(angles), columns, 8).mean(2).astype(np.float32)


def circle(columns: int, share: float = 1.0) -> npt.NDArray[np.bool_]:
    away = np.arange(columns) - (columns - 1) / 2
    return np.hypot(away[:, None], away) <= share * columns / 2


def engine_with(angles: Float64Array, rows: Float32Array, center: float, **options: Any) -> SirtEngine:
    """Of rows (view, column) or (view, slice, column)."""
    rows = rows.reshape(len(rows), -1, rows.shape[-1])
    engine = SirtEngine(
        slices=rows.shape[1], columns=rows.shape[2], rotation_center=center, views=len(angles), **options
    )
    for angle, row in zip(angles, rows, strict=True):
        engine.add_view(float(angle), row)
    return engine


def rms(difference: Float64Array, mask: npt.NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean(difference[mask] ** 2)))


HALF_TURN = np.linspace(0, math.pi, 180, endpoint=False)


@pytest.mark.parametrize("filter_name", FILTERS)
def test_image_is_as_good_as_scikit_images(filter_name: str) -> None:
    columns = 129  # odd: scikit-image rotates about the pixel columns // 2
    rows = sinogram(columns, HALF_TURN, 64.0)
    engine = engine_with(HALF_TURN, rows, 64.0)
    engine.add_filtered(range(180), angular_weights(HALF_TURN), filter_name)
    theirs = iradon(rows.T.astype(np.float64), np.rad2deg(HALF_TURN), filter_name=filter_name, circle=True)
    truth, inside = phantom(columns), circle(columns, 0.98)
    ours = engine.volume[0]
    # rows are displaced by up to an eighth of a pixel: that blurs edges a little
    assert rms(ours - truth, inside) < 1.05 * rms(theirs - truth, inside)
    assert rms(ours - theirs, inside) < 0.007


@pytest.mark.parametrize("center", [63.5, 60.25, 70.0])
@pytest.mark.parametrize("turn", [math.pi, 2 * math.pi])
def test_values_are_right_for_any_order_centre_and_range(center: float, turn: float) -> None:
    columns = 128
    angles = np.random.default_rng(1).permutation(np.linspace(0, turn, 240, endpoint=False)) - 9.0
    engine = engine_with(angles, sinogram(columns, angles, center), center)
    engine.add_filtered(range(240), angular_weights(angles))
    truth = phantom(columns)
    smooth = np.zeros((columns, columns), bool)
    smooth[58:71, 58:71] = True  # far from all edges: the value of the large disc
    assert engine.volume[0][smooth].mean() == pytest.approx(truth[smooth].mean(), rel=0.005)
    # of what is further out, a detector of which the axis is off the middle misses some
    assert rms(engine.volume[0] - truth, circle(columns, 0.88)) < 0.06


def test_sample_wider_than_the_detector_stays_flat() -> None:
    columns = 128
    wide = ((0.0, 0.0, 0.8, 1.0),)
    engine = engine_with(HALF_TURN, sinogram(columns, HALF_TURN, 63.5, wide), 63.5)
    engine.add_filtered(range(180), angular_weights(HALF_TURN))
    profile = engine.volume[0][64, 4:-4]
    # the values are not known from such data, but they must not rise towards the rim: with zeros beyond
    # the detector they rise by far more
    assert np.ptp(profile) < 0.35 * profile.mean()


@pytest.mark.parametrize("order", ["sequential", "bit-reversed", "random"])
def test_an_image_brought_up_to_date_is_the_image_made_at_once(order: str) -> None:
    columns, views = 64, 64
    turn = np.linspace(0, math.pi, views, endpoint=False)
    places = {
        "sequential": np.arange(views),
        "bit-reversed": np.array([int(f"{i:06b}"[::-1], 2) for i in range(views)]),
        "random": np.random.default_rng(0).permutation(views),
    }[order]
    angles = turn[places]
    rows = np.stack([sinogram(columns, angles, 31.5), sinogram(columns, angles, 31.5, DISCS[:1])], axis=1)
    growing = engine_with(angles, rows, 31.5)
    ledger = WeightLedger()
    projected = 0
    for arrived in range(4, views + 1, 4):
        changed, by = ledger.update(angles[:arrived])
        growing.add_filtered(changed, by)
        projected += len(changed)
        if arrived in (20, views):
            at_once = engine_with(angles, rows, 31.5)
            at_once.add_filtered(range(arrived), angular_weights(angles[:arrived]))
            np.testing.assert_allclose(growing.volume, at_once.volume, atol=1e-5)
    assert projected <= 3.1 * views
    assert rms(growing.volume[0] - phantom(columns), circle(columns)) < 0.09


def test_slices_and_threads_do_not_change_an_image() -> None:
    rng = np.random.default_rng(2)
    angles = rng.uniform(0, 6, 70)
    rows = rng.random((70, 5, 40)).astype(np.float32)
    weights = angular_weights(angles)
    together = engine_with(angles, rows, 19.0, threads=2)
    together.add_filtered(range(70), weights)
    for s in range(5):
        alone = engine_with(angles, rows[:, s], 19.0, threads=1)
        alone.add_filtered(range(70), weights)
        np.testing.assert_allclose(together.volume[s], alone.volume[0], atol=1e-5)


def test_stripe_offset_is_taken_off() -> None:
    offset = np.random.default_rng(0).random((1, 64)).astype(np.float32)
    rows = sinogram(64, HALF_TURN, 31.5)
    clean, striped = engine_with(HALF_TURN, rows, 31.5), engine_with(HALF_TURN, rows + offset, 31.5)
    striped.set_stripe_offset(offset)
    for engine in (clean, striped):
        engine.add_filtered(range(180), angular_weights(HALF_TURN))
    np.testing.assert_allclose(striped.volume, clean.volume, atol=1e-4)


def test_filters_are_the_formulas_in_space_and_frequency() -> None:
    columns = 64
    impulse = np.zeros((1, columns), np.float32)
    impulse[0, 32] = 1
    response = filter_rows(impulse, "ramp")[0]
    away = np.arange(columns) - 32
    odd = away % 2 == 1
    expected = np.where(odd, -1 / (math.pi * np.where(odd, away, 1)) ** 2, 0.0)
    expected[32] = 0.25
    np.testing.assert_allclose(response, expected, atol=1e-6)
    noise = np.random.default_rng(0).standard_normal((1, columns)).astype(np.float32)
    power = [float(np.square(filter_rows(noise, name)).sum()) for name in FILTERS]
    assert power == sorted(power, reverse=True)  # listed from sharp to smooth


def test_rows_of_any_shape_are_filtered_alike_and_left_alone() -> None:
    rows = np.random.default_rng(0).random((3, 4, 50)).astype(np.float32)
    before = rows.copy()
    filtered = filter_rows(rows, threads=2)
    assert filtered.dtype == np.float32
    np.testing.assert_allclose(filtered[1, 2], filter_rows(rows[1, 2]), atol=1e-6)
    np.testing.assert_array_equal(rows, before)


def test_weights_share_the_half_turn_out() -> None:
    rng = np.random.default_rng(0)
    spread = rng.permutation(np.linspace(0, 2 * math.pi, 90, endpoint=False))
    np.testing.assert_allclose(angular_weights(spread).sum(), math.pi)
    # opposite views are of one direction
    np.testing.assert_allclose(angular_weights(np.array([0.5, 0.5 + math.pi])), math.pi / 2)
    np.testing.assert_allclose(angular_weights(np.array([1.0])), math.pi)
    # the gap of 2.7 counts as the next largest, 0.2
    weights = angular_weights(np.array([0.0, 0.1, 0.3, 3.0]))
    np.testing.assert_allclose(weights, [0.1208, 0.15, 0.2, 0.1708], atol=1e-4)


def test_views_at_the_ends_of_an_unfinished_scan_do_not_stand_for_what_is_missing() -> None:
    np.testing.assert_allclose(angular_weights(np.deg2rad(np.arange(20))), math.radians(1))


def test_what_a_view_has_in_the_image_stays_when_the_view_is_gone() -> None:
    ledger = WeightLedger()
    ledger.update(np.deg2rad([0.0, 90.0]))
    views, changes = ledger.update(np.deg2rad([0.0, 90.0, 45.0, 135.0]), np.array([False, True, True, True]))
    assert views.tolist() == [1, 2, 3]
    np.testing.assert_allclose(np.rad2deg(changes), [-45, 45, 45])
    np.testing.assert_allclose(np.rad2deg(ledger.weights), [90, 45, 45, 45])
    ledger.clear()
    assert ledger.update(np.deg2rad([0.0, 90.0]))[0].tolist() == [0, 1]


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="'ram-lak' is not one of ramp, shepp-logan"):
        filter_rows(np.zeros((1, 16), np.float32), "ram-lak")
    ledger = WeightLedger()
    ledger.update(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="1 views after 2"):
        ledger.update(np.array([0.0]))
    engine = engine_with(HALF_TURN[:2], np.zeros((2, 16), np.float32), 7.5)
    with pytest.raises(ValueError, match=r"weights of shape \(1,\) for 2 views"):
        engine.add_filtered([0, 1], np.ones(1))
    with pytest.raises(ValueError, match="not one of"):
        engine.add_filtered([0, 1], np.ones(2), "none")
    with pytest.raises(ValueError, match="views 2 to 2"):
        engine.add_filtered([2], np.ones(1))
