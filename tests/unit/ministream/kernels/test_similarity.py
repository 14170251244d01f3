"""MS-SSIM against other packages, UQI against its formula written out, and properties of both."""

from __future__ import annotations

import numpy as np
import pytest

from ministream.kernels.metrics import circle_mask
from ministream.kernels.similarity import ms_ssim, uqi


def images(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image and its truth, of range 1; without random numbers: every package gets the same."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    truth = 0.5 + 0.25 * np.sin(x / 7) * np.cos(y / 11) + 0.2 * ((x - 90) ** 2 + (y - 80) ** 2 < 1600)
    truth[0, 0], truth[0, 1] = 0, 1
    pattern = ((x * 7919 + y * 104729 + x * y * 31) % 1009) / 1009 - 0.5
    return np.clip(truth + 0.6 * pattern, 0, 1), truth


def variants(rows: int, columns: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    noisy, truth = images(rows, columns)
    return truth, {"noisy": noisy, "brighter": np.clip(truth + 0.1, 0, 1), "dimmer": 0.7 * truth}


# piq 0.8.0: multi_scale_ssim(image, truth, data_range=1.0), float64, torch 2.15.0
# torchmetrics 1.9.0: multiscale_structural_similarity_index_measure(..., data_range=1.0, normalize=None)
PIQ = {"noisy": 0.7387116299014349, "brighter": 0.9980636972117722, "dimmer": 0.9377196915405731}
TORCHMETRICS = {"noisy": 0.7385468255998127, "brighter": 0.9975113553772048, "dimmer": 0.9378563686065415}
ODD_PIQ = {"noisy": 0.7397605586074392, "brighter": 0.9980044589618337, "dimmer": 0.9377859584976638}
ODD_TORCHMETRICS = {"noisy": 0.739808057229032, "brighter": 0.9975100778895666, "dimmer": 0.9379486586092213}


@pytest.mark.parametrize("name", PIQ)
def test_ms_ssim_is_that_of_other_packages(name: str) -> None:
    truth, others = variants(192, 192)
    assert ms_ssim(others[name], truth) == pytest.approx(PIQ[name], abs=1e-12)
    # it leaves out a wider border
    assert ms_ssim(others[name], truth) == pytest.approx(TORCHMETRICS[name], abs=1e-3)


@pytest.mark.parametrize("name", ODD_PIQ)
def test_ms_ssim_of_odd_sizes_is_near_that_of_other_packages(name: str) -> None:
    # they differ in what they make of an odd last row
    truth, others = variants(209, 177)
    assert ms_ssim(others[name], truth) == pytest.approx(ODD_PIQ[name], abs=5e-4)
    assert ms_ssim(others[name], truth) == pytest.approx(ODD_TORCHMETRICS[name], abs=1e-3)


def brute_force(image: np.ndarray, truth: np.ndarray) -> float:
    """Wang and Bovik's formula (1), block by block, with variances over N - 1 as in the paper."""
    indices = []
    for row in range(image.shape[0] - 7):
        for column in range(image.shape[1] - 7):
            a = image[row : row + 8, column : column + 8].ravel()
            b = truth[row : row + 8, column : column + 8].ravel()
            covariance = ((a - a.mean()) * (b - b.mean())).sum() / 63
            numerator = 4 * covariance * a.mean() * b.mean()
            indices.append(numerator / ((a.var(ddof=1) + b.var(ddof=1)) * (a.mean() ** 2 + b.mean() ** 2)))
    return float(np.mean(indices))


@pytest.mark.parametrize("name", ["noisy", "brighter", "dimmer"])
def test_uqi_is_the_formula_of_the_paper_in_every_block(name: str) -> None:
    truth, others = variants(40, 33)
    assert uqi(others[name], truth) == pytest.approx(brute_force(others[name], truth), abs=1e-10)


def test_uqi_of_a_scaled_image_is_known() -> None:
    # covariance 0.7 v, variances v and 0.49 v, and the same of the means: (2 * 0.7 / 1.49)^2
    _, truth = images(64, 64)
    assert uqi(0.7 * truth, truth) == pytest.approx((1.4 / 1.49) ** 2, abs=1e-10)
    # torchmetrics 1.9.0, universal_image_quality_index, has another window, which does not matter here
    assert uqi(0.7 * truth, truth) == pytest.approx(0.8828431151742774, abs=1e-10)


def test_uqi_of_pure_noise_is_nothing() -> None:
    # a known fault of a package is to give 0.6 here
    random = np.random.default_rng(0)
    assert abs(uqi(random.random((128, 128)), random.random((128, 128)))) < 0.02


def test_uqi_of_constant_blocks() -> None:
    ones = np.ones((16, 16))
    assert uqi(ones, ones) == 1
    assert uqi(0 * ones, 0 * ones) == 1
    # luminance alone: 2 * 2 * 1 / (4 + 1)
    assert uqi(2 * ones, ones) == pytest.approx(0.8)
    assert uqi(1e6 + 0 * ones, 1e6 + 0 * ones) == 1
    # a value that has no exact mean in floating point
    assert uqi(0.1 * ones, 0.3 * ones) == pytest.approx(0.6)


def test_uqi_of_constant_blocks_beside_others_is_not_made_of_rounding_errors() -> None:
    random = np.random.default_rng(1)
    for left, right in ((0.1, 0.3), (1e3 + 0.1, 1e3 + 0.7), (0.7, -0.1)):
        image, truth = random.random((2, 24, 64)) * 0.3 + left
        image[:, :40], truth[:, :40] = left, right
        mask = np.zeros((24, 64), bool)
        mask[:, :40] = True
        assert uqi(image, truth, mask) == pytest.approx(2 * left * right / (left**2 + right**2), abs=1e-12)


@pytest.mark.parametrize("metric", [ms_ssim, uqi])
def test_equal_images_are_1_and_stacks_are_means(metric) -> None:
    noisy, truth = images(181, 176)
    assert metric(truth, truth) == pytest.approx(1, abs=1e-9)
    stack = metric(np.stack([noisy, truth]), np.stack([truth, truth]))
    assert stack == pytest.approx((metric(noisy, truth) + 1) / 2)
    assert metric(noisy.astype(np.float32), truth.astype(np.float32)) == pytest.approx(
        metric(noisy, truth), abs=1e-5
    )


@pytest.mark.parametrize("metric", [ms_ssim, uqi])
def test_what_lies_outside_the_mask_does_not_count(metric) -> None:
    noisy, truth = images(192, 192)
    mask = circle_mask(192)
    far = np.add.outer(np.arange(192), np.arange(192)) < 20
    spoiled = np.where(far, 0.5 - noisy, noisy)
    assert metric(spoiled, truth, mask) == pytest.approx(metric(noisy, truth, mask), abs=2e-3)
    assert metric(spoiled, truth) < metric(noisy, truth)


def test_opposite_images_have_no_negative_ms_ssim() -> None:
    _, truth = images(192, 192)
    assert ms_ssim(1 - truth, truth) == 0
    assert uqi(1 - truth, truth) < 0


def test_images_that_are_too_small_say_what_is_needed() -> None:
    noisy, truth = images(175, 200)
    with pytest.raises(ValueError, match=r"\(175, 200\).*at least 176"):
        ms_ssim(noisy, truth)
    with pytest.raises(ValueError, match=r"\(7, 200\).*8 by 8"):
        uqi(noisy[:7], truth[:7])
    mask = np.zeros((200, 200), bool)
    mask[100, 100] = True
    noisy, truth = images(200, 200)
    with pytest.raises(ValueError, match="mask"):
        ms_ssim(noisy, truth, mask)
    with pytest.raises(ValueError, match="mask"):
        uqi(noisy, truth, mask)


@pytest.mark.parametrize("metric", [ms_ssim, uqi])
def test_values_that_are_not_finite_and_shapes_that_do_not_fit_are_refused(metric) -> None:
    noisy, truth = images(192, 192)
    with pytest.raises(ValueError, match=r"\(192, 191\)"):
        metric(noisy[:, :-1], truth)
    noisy[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 of 36864 values are not finite"):
        metric(noisy, truth)
    with pytest.raises(ValueError, match="not finite"):
        metric(truth, noisy)


def test_a_constant_reference_has_no_range() -> None:
    noisy, truth = images(192, 192)
    with pytest.raises(ValueError, match="one value everywhere"):
        ms_ssim(noisy, np.ones_like(truth))
