"""Measures without a reference, of images whose noise and contrast are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ministream.kernels.metrics import circle_mask
from ministream.kernels.noreference import contrast_to_noise, noise


def disc(size: int = 256) -> np.ndarray:
    return 3.0 * circle_mask(size)[::-1] * (np.add.outer(np.arange(size), 0 * np.arange(size)) > size / 2)


def noisy(sigma: float, size: int = 256) -> np.ndarray:
    return disc(size) + np.random.default_rng(4).normal(0, sigma, (size, size))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_white_noise_is_found_beside_edges(sigma: float) -> None:
    assert noise(noisy(sigma)) == pytest.approx(sigma, rel=0.03)
    assert noise(noisy(sigma), circle_mask(256)) == pytest.approx(sigma, rel=0.03)


def test_it_is_that_of_the_wavelet_of_another_package() -> None:
    # algotom brings PyWavelets: median(|diagonal details|) / 0.6745 is what the paper says
    import pywt

    image = noisy(0.2)
    diagonal = pywt.dwt2(image, "haar")[1][2]
    assert noise(image) == pytest.approx(np.median(np.abs(diagonal)) / 0.6744897501960817, rel=1e-12)


def test_what_a_constraint_has_cut_off_does_not_count() -> None:
    sample_in_air = np.where(disc() > 0, noisy(0.1), 0)
    assert (sample_in_air == 0).mean() > 0.5
    assert noise(sample_in_air) == pytest.approx(0.1, rel=0.05)
    assert noise(np.ones((8, 8))) == 0
    # without noise, edges are not taken for it
    assert noise(disc()) == 0


def test_it_scales_and_ignores_offset_and_slope() -> None:
    image = noisy(0.1)
    assert noise(5 * image + 3) == pytest.approx(5 * noise(image))
    slope = np.add.outer(np.arange(256.0), np.arange(256.0))
    assert noise(image + slope) == pytest.approx(noise(image), rel=1e-6)


def test_contrast_is_told_in_standard_deviations_of_noise() -> None:
    assert contrast_to_noise(noisy(0.1)) == pytest.approx(30, rel=0.05)
    assert contrast_to_noise(noisy(0.3)) == pytest.approx(10, rel=0.05)
    assert contrast_to_noise(7 * noisy(0.3) - 1) == pytest.approx(contrast_to_noise(noisy(0.3)), rel=1e-2)
    assert contrast_to_noise(disc()) == math.inf
    assert contrast_to_noise(np.ones((16, 16))) == 0


def test_stacks_are_means() -> None:
    stack = np.stack([noisy(0.1), noisy(0.3)])
    assert noise(stack) == pytest.approx((noise(stack[0]) + noise(stack[1])) / 2)


@pytest.mark.parametrize("measure", [noise, contrast_to_noise])
def test_what_cannot_be_measured_is_refused(measure) -> None:
    with pytest.raises(ValueError, match="2 by 2"):
        measure(np.ones((1, 5)))
    with pytest.raises(ValueError, match="mask"):
        measure(np.ones((8, 8)), np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="not finite"):
        measure(np.full((8, 8), np.nan))
