"""Image metrics, against values worked out by hand and properties that they must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.data import shepp_logan_phantom
from skimage.metrics import structural_similarity

from ministream.kernels.metrics import circle_mask, mse, psnr, relative_change, sharpness, ssim


@pytest.fixture
def truth() -> np.ndarray:
    return shepp_logan_phantom()[::4, ::4].astype(np.float32)


@pytest.fixture
def noisy(truth: np.ndarray) -> np.ndarray:
    return truth + np.random.default_rng(9).normal(0, 0.1, truth.shape).astype(np.float32)


def test_the_circle_touches_the_edges_and_leaves_the_corners_out() -> None:
    mask = circle_mask(9)
    assert mask[0, 4]
    assert mask[4, 0]
    assert mask[8, 4]
    assert not mask[0, 3]
    assert not mask[0, 0]
    np.testing.assert_array_equal(mask, mask[::-1])
    np.testing.assert_array_equal(mask, mask.T)
    assert circle_mask(400).mean() == pytest.approx(math.pi / 4, rel=0.01)


def test_mse_and_psnr_of_a_known_difference(truth: np.ndarray) -> None:
    shifted = truth + np.float32(0.1)
    assert mse(shifted, truth) == pytest.approx(0.01, rel=1e-5)
    assert psnr(shifted * 1, truth) == pytest.approx(20.0, abs=1e-3)
    assert psnr(truth, truth) == math.inf
    # the range is that of the truth
    assert psnr(5 * shifted, 5 * truth) == pytest.approx(20.0, abs=1e-3)


def test_only_pixels_within_the_mask_count(truth: np.ndarray) -> None:
    mask = circle_mask(truth.shape[0])
    spoiled = truth.copy()
    spoiled[0, 0] = spoiled[-1, -1] = 100
    assert mse(spoiled, truth, mask) == 0
    assert mse(spoiled, truth) > 0
    assert relative_change(spoiled, truth, mask) == 0
    assert ssim(spoiled, truth, mask) > ssim(spoiled, truth)


def test_ssim_is_scikit_images_with_the_parameters_of_the_paper(truth: np.ndarray, noisy: np.ndarray) -> None:
    wanted = structural_similarity(
        noisy,
        truth,
        data_range=float(np.ptp(truth)),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    # scikit-image leaves a border of 5 pixels out of its mean
    inner = np.zeros(truth.shape, bool)
    inner[5:-5, 5:-5] = True
    assert ssim(noisy, truth, inner) == pytest.approx(wanted, abs=1e-6)
    assert ssim(truth, truth) == pytest.approx(1.0)
    assert wanted < 0.9


def test_no_metric_rescales_the_image(truth: np.ndarray) -> None:
    assert ssim(0.5 * truth, truth) < 0.99
    assert mse(0.5 * truth, truth) > 0


def test_a_stack_gives_the_mean_over_its_slices(truth: np.ndarray, noisy: np.ndarray) -> None:
    stack, reference = np.stack([truth, noisy]), np.stack([truth, truth])
    assert mse(stack, reference) == pytest.approx(mse(noisy, truth) / 2)
    assert ssim(stack, reference) == pytest.approx((1 + ssim(noisy, truth)) / 2)


def test_relative_change(truth: np.ndarray) -> None:
    assert relative_change(truth, truth) == 0
    assert relative_change(truth, 0.9 * truth) == pytest.approx(0.1, rel=1e-4)
    assert relative_change(truth, 0 * truth) == pytest.approx(1.0)
    assert relative_change(0 * truth, 0 * truth) == 0
    assert relative_change(0 * truth, truth) == math.inf


def test_sharpness_falls_with_blur_and_ignores_scale_and_offset(truth: np.ndarray) -> None:
    blurred = (truth + np.roll(truth, 1, 0) + np.roll(truth, 1, 1) + np.roll(truth, (1, 1), (0, 1))) / 4
    assert sharpness(blurred) < 0.9 * sharpness(truth)
    assert sharpness(3 * truth + 7) == pytest.approx(sharpness(truth), rel=1e-4)
    assert sharpness(0 * truth) == 0
    # a ramp of slope 1 over 0..n-1 has the standard deviation sqrt((n^2 - 1) / 12)
    ramp = np.tile(np.arange(10.0), (10, 1))
    assert sharpness(ramp) == pytest.approx(1 / math.sqrt(99 / 12))


@pytest.mark.parametrize("metric", [mse, psnr, ssim, relative_change])
def test_shapes_that_do_not_fit_are_refused(metric, truth: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(100, 99\)"):
        metric(truth[:, :-1], truth)
    with pytest.raises(ValueError, match="mask"):
        metric(truth, truth, np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="mask"):
        metric(truth, truth, np.zeros(truth.shape, bool))
    with pytest.raises(ValueError, match="is needed"):
        metric(truth[0], truth[0])


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_constant_reference_is_refused(metric, truth: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one value everywhere"):
        metric(truth, np.ones_like(truth))
