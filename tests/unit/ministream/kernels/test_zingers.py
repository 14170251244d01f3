"""Zingers are found in a sinogram that is still filling, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.kernels.zingers import remove_zingers

COLUMNS = 64


def disc(shift: float = 0.0, absorption: float = 0.1) -> np.ndarray:
    """Return attenuation of two rows: a disc, and air."""
    t = np.arange(COLUMNS) - 31.5 - shift
    row = absorption * np.sqrt(np.maximum(0.0, 20.0**2 - t**2))
    return np.stack([row, np.zeros(COLUMNS)]).astype(np.float32)


def noisy(view: np.ndarray, photons: float, seed: int) -> np.ndarray:
    counts = np.random.default_rng(seed).poisson(photons * np.exp(-view))
    return -np.log(np.maximum(counts, 1) / photons).astype(np.float32)


@pytest.mark.parametrize("width", [1, 2])
def test_a_zinger_is_interpolated_along_its_row(width: int) -> None:
    view = disc()
    view[0, 30 : 30 + width] -= 1.0
    view[1, 10] -= 0.2
    assert remove_zingers(view, disc(1.0), disc(-1.0)) == width + 1
    np.testing.assert_allclose(view, disc(), atol=0.01)


def test_a_dark_pixel_is_no_zinger() -> None:
    view = disc()
    view[0, 30] += 1.0
    before = view.copy()
    assert remove_zingers(view, disc(), disc()) == 0
    np.testing.assert_array_equal(view, before)


def test_what_is_bright_in_the_views_beside_it_too_belongs_to_the_object() -> None:
    # a crack that lets more light through, seen along its length; it moves a little
    views = [disc() for _ in range(3)]
    for view, column in zip(views, (31, 30, 32), strict=True):
        view[0, column] -= 0.5
    assert remove_zingers(views[0], views[1], views[2]) == 0
    # in one of the two is enough
    assert remove_zingers(views[0], views[1], disc()) == 1


@pytest.mark.parametrize("photons", [500, 5_000, 100_000])
@pytest.mark.parametrize("shift", [1.0, 15.0], ids=["near in angle", "far in angle"])
def test_noise_and_edges_are_no_zingers(photons: float, shift: float) -> None:
    found = 0
    for seed in range(50):
        view, before, after = (
            noisy(disc(by), photons, 3 * seed + k) for k, by in enumerate((0, shift, -shift))
        )
        found += remove_zingers(view, before, after)
    # of 6,400 pixels
    assert found <= 3


def test_opaque_pixels_and_narrow_views_are_no_trouble() -> None:
    view = np.full((2, COLUMNS), 200.0, np.float32)
    assert remove_zingers(view, view.copy(), view.copy()) == 0
    view[0, 9] = 1.0
    assert remove_zingers(view, np.full_like(view, 200), np.full_like(view, 200)) == 1
    assert view[0, 9] == 200.0
    narrow = np.zeros((1, 4), np.float32)
    assert remove_zingers(narrow, narrow, narrow) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        remove_zingers(disc(), disc()[:1], disc())
    with pytest.raises(ValueError, match="not above 0"):
        remove_zingers(disc(), disc(), disc(), threshold=0.0)
