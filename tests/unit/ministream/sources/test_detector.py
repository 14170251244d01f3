"""The synthetic detector: noise of photons, faults that flat fields take away, rings that they do not."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.sources.detector import Detector, DetectorOptions


def detector(**changes: object) -> Detector:
    options = {"rows": 20, "columns": 200, "photons": 1000.0, "rings": 0.0, "pixel_type": "uint16", "seed": 1}
    return Detector(DetectorOptions(**{**options, **changes}))  # type: ignore[arg-type]


def transmission(frames: list[np.ndarray], made: Detector) -> np.ndarray:
    dark = np.mean([made.dark_field(index) for index in range(50)], axis=0)
    flat = np.mean([made.flat_field(index) for index in range(200)], axis=0)
    return (np.mean(frames, axis=0) - dark) / (flat - dark)


def test_the_correction_gives_back_what_came_through() -> None:
    made = detector()
    through = np.full((20, 200), 0.3)
    seen = transmission([made.projection(index, through) for index in range(200)], made)
    # 200 x 300 photons: 0.4 % of noise, and as much from the flat fields
    np.testing.assert_allclose(seen, through, atol=0.3 * 6 * 0.005)


def test_the_noise_is_that_of_the_photons() -> None:
    made = detector(photons=400.0)
    flats = np.stack([made.flat_field(index) for index in range(300)]).astype(float)
    dark = np.mean([made.dark_field(index) for index in range(20)], axis=0)
    signal = flats.mean(axis=0) - dark
    # of N photons the relative spread is 1 / sqrt(N); the response is part of N
    relative = flats.std(axis=0) / signal
    expected = 1 / np.sqrt(signal / (0.6 * 65535 / 400))
    assert np.median(relative / expected) == pytest.approx(1, abs=0.02)


def test_rings_are_columns_that_the_flat_fields_do_not_know() -> None:
    made = detector(rings=0.05, photons=100_000.0)
    seen = transmission([made.projection(index, np.ones((20, 200))) for index in range(50)], made)
    changed = abs(seen - 1) > 0.03
    assert 0.01 < changed.mean() < 0.1
    np.testing.assert_allclose(abs(seen[changed] - 1), 0.05, atol=0.01)


def test_counts_end_at_the_largest_of_the_pixel_type() -> None:
    for pixel_type, most in (("uint8", 255), ("uint16", 65535)):
        frame = detector(pixel_type=pixel_type).projection(0, np.full((20, 200), 5.0))
        assert frame.dtype == pixel_type
        assert frame.max() == most
        assert (frame == most).mean() > 0.9


def test_dark_fields_hold_the_offset_and_little_noise() -> None:
    darks = np.stack([detector().dark_field(index) for index in range(30)]).astype(float)
    assert 100 < darks.mean() < 600
    assert 0 < darks.std(axis=0).mean() < 50


def test_a_frame_is_the_same_whenever_it_is_asked_for() -> None:
    one, other = detector(), detector()
    other.flat_field(7)
    np.testing.assert_array_equal(one.flat_field(3), other.flat_field(3))
    assert (one.flat_field(3) != one.flat_field(4)).any()
    assert (one.flat_field(3) != detector(seed=2).flat_field(3)).any()


def test_dead_pixels_count_nothing_in_any_frame() -> None:
    made = detector(dead_pixels=25)
    frames = [made.dark_field(0), made.flat_field(1), made.projection(2, np.full((20, 200), 0.5))]
    dead = made.flat_field(0) == 0
    assert dead.sum() == 25
    for frame in frames:
        assert (frame[dead] == 0).all()
    alive = detector().flat_field(1)
    np.testing.assert_array_equal(frames[1][~dead], alive[~dead])


def test_zingers_are_few_bright_and_elsewhere_in_each_frame() -> None:
    made, clean = detector(zingers=7.0), detector()
    counts, places = [], []
    for index in range(100):
        changed = made.projection(index, np.full((20, 200), 0.5)) != clean.projection(
            index, np.full((20, 200), 0.5)
        )
        counts.append(changed.sum())
        places.append(changed)
        assert (made.projection(index, np.full((20, 200), 0.5))[changed] >= 0.79 * 65535).all()
    # Poisson: the mean of 100 is within 5 of its standard deviations
    assert np.mean(counts) == pytest.approx(7, abs=5 * np.sqrt(7 / 100))
    assert np.sum(places, axis=0).max() < 5
