"""Total variation weighed by the noise: what is taken for noise, and what it does to a slice."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.algorithms.denoising import denoise, measured_noise
from ministream.kernels.sirt import SirtEngine

COLUMNS = 200


def engine(noise: tuple[float, ...], views: int = 20) -> SirtEngine:
    """Return an engine with projections of a half disc, with an edge, each slice with its own noise."""
    subject = SirtEngine(slices=len(noise), columns=COLUMNS, rotation_center=99.5, views=views, threads=1)
    rng = np.random.default_rng(0)
    t = np.abs(np.arange(COLUMNS) - 99.5)
    row = 0.03 * np.sqrt(np.maximum(0, 80.0**2 - t**2)) * (np.arange(COLUMNS) < 130)
    for view in range(views):
        rows = row + np.array(noise)[:, np.newaxis] * rng.standard_normal((len(noise), COLUMNS))
        subject.add_view(0.1 * view, rows.astype(np.float32))
    return subject


def test_noise_is_found_beside_edges_for_each_slice() -> None:
    noise = (0.01, 0.1)
    np.testing.assert_allclose(measured_noise(engine(noise)), noise, rtol=0.1)


def test_stripes_that_are_known_are_no_noise() -> None:
    subject, stripes = engine((0.01,)), np.random.default_rng(3).standard_normal((1, COLUMNS))
    striped = SirtEngine(slices=1, columns=COLUMNS, rotation_center=99.5, views=20, threads=1)
    for view in range(20):
        striped.add_view(0.1 * view, subject.measured[view] + stripes.astype(np.float32))
    assert measured_noise(striped)[0] > 0.5
    striped.set_stripe_offset(stripes.astype(np.float32))
    np.testing.assert_allclose(measured_noise(striped), measured_noise(subject), rtol=1e-3)


@pytest.mark.parametrize("columns", [2, 3])
def test_the_narrowest_detectors_have_a_noise(columns: int) -> None:
    subject = SirtEngine(slices=1, columns=columns, rotation_center=0.5, views=1, threads=1)
    subject.add_view(0.0, np.ones((1, columns), np.float32))
    assert measured_noise(subject).tolist() == [0]


def test_flat_parts_become_flatter_and_edges_stay() -> None:
    subject = engine((0.05,))
    at = np.arange(COLUMNS)
    clean = np.where((at > 60) & (at < 140) & (at[:, np.newaxis] > 60) & (at[:, np.newaxis] < 140), 0.02, 0)
    noisy = (clean + 0.0005 * np.random.default_rng(1).standard_normal(clean.shape)).astype(np.float32)
    subject.volume[0] = noisy
    denoise(subject, strength=0)
    np.testing.assert_array_equal(subject.volume[0], noisy)
    denoise(subject, strength=10)
    result = subject.volume[0]
    assert result[70:130, 70:130].std() < 0.3 * noisy[70:130, 70:130].std()
    assert result[100, 62] - result[100, 58] > 0.9 * 0.02
