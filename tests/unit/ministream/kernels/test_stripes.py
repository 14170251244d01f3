"""Stripe offsets: known ones are found, none are invented, and the order of the views does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.kernels.stripes import LEAST_VIEWS, stripe_offset

COLUMNS = 320


def sinogram(views: int) -> np.ndarray:
    """Attenuation of two discs, one off the axis; smooth, between 0 and about 2."""
    angles = np.linspace(0, np.pi, views, endpoint=False)[:, np.newaxis]
    t = np.arange(COLUMNS) - (COLUMNS - 1) / 2
    large = np.sqrt(np.maximum(0, 130.0**2 - t**2)) / 130
    small = np.sqrt(np.maximum(0, 30.0**2 - (t - 70 * np.cos(angles)) ** 2)) / 60
    return (large + small).astype(np.float32)


def noisy(clean: np.ndarray, offset: np.ndarray) -> np.ndarray:
    counts = np.random.default_rng(2).poisson(2e4 * np.exp(-clean - offset))
    return -np.log(counts / 2e4).astype(np.float32)


def stripes() -> np.ndarray:
    offset = np.zeros(COLUMNS, np.float32)
    offset[[70, 110, 161, 162, 220, 250]] = [0.05, -0.05, 0.04, 0.04, -0.06, 0.03]
    return offset


@pytest.mark.parametrize(
    ("method", "views"), [("sorting", 45), ("sorting", 180), ("filtering", 180), ("large", 180), ("all", 180)]
)
def test_known_offsets_are_found(method: str, views: int) -> None:
    wanted = stripes()
    found = stripe_offset(noisy(sinogram(views), wanted), method)
    assert found.dtype == np.float32
    at = wanted != 0
    # photon noise of the mean of the views: at most 0.02 / sqrt(45)
    np.testing.assert_allclose(found[at], wanted[at], atol=0.012)


def test_a_sinogram_without_stripes_is_left_nearly_as_it_is() -> None:
    found = stripe_offset(noisy(sinogram(180), np.zeros(COLUMNS)))
    assert found.std() < 2e-3


def test_the_order_of_the_views_does_not_matter() -> None:
    data = noisy(sinogram(64), stripes())
    shuffled = data[np.random.default_rng(3).permutation(64)]
    np.testing.assert_allclose(stripe_offset(shuffled), stripe_offset(data), atol=1e-6)


def test_the_sinogram_is_not_changed() -> None:
    data = noisy(sinogram(32), stripes())
    copy = data.copy()
    stripe_offset(data)
    np.testing.assert_array_equal(data, copy)


def test_too_few_views_are_refused() -> None:
    with pytest.raises(ValueError, match=f"{LEAST_VIEWS - 1} views"):
        stripe_offset(sinogram(LEAST_VIEWS - 1))


def test_a_method_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'magic' is not one of sorting, filtering, large, all"):
        stripe_offset(sinogram(LEAST_VIEWS), "magic")


def test_what_is_no_sinogram_is_refused() -> None:
    with pytest.raises(ValueError, match="two axes"):
        stripe_offset(np.zeros(COLUMNS, np.float32))
