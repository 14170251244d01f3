"""The proximal step of total variation: a float64 reference, scikit-image, its constraints, its tiles."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from skimage.data import shepp_logan_phantom
from skimage.restoration import denoise_tv_chambolle
from skimage.transform import resize

from ministream.kernels import total_variation
from ministream.kernels.support import support_limits
from ministream.kernels.total_variation import total_variation_prox

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


def inside(columns: int, support: str) -> npt.NDArray[np.bool_]:
    limits = support_limits(columns, support)
    x = np.arange(columns)
    return (x >= limits[:, :1]) & (x < limits[:, 1:])


def gradient(image: Float64Array, mask: npt.NDArray[np.bool_]) -> tuple[Float64Array, Float64Array]:
    """Forward differences, none across the border of the mask."""
    down, across = np.zeros_like(image), np.zeros_like(image)
    down[:-1] = (image[:-1] - image[1:]) * (mask[:-1] & mask[1:])
    across[:, :-1] = (image[:, :-1] - image[:, 1:]) * (mask[:, :-1] & mask[:, 1:])
    return down, across


def objective(image: Float64Array, noisy: Float64Array, weight: float, support: str = "square") -> float:
    """Return what the proximal step minimizes."""
    mask = inside(len(image), support)
    down, across = gradient(image, mask)
    variation = np.sqrt(down**2 + across**2)[mask].sum()
    return float(((image - noisy)[mask] ** 2).sum() / 2 + weight * variation)


def reference(
    noisy: Float64Array, weight: float, steps: int, *, nonnegative: bool, support: str
) -> Float64Array:
    """Beck and Teboulle's algorithm as it is printed, on the whole image, in float64."""
    mask = inside(len(noisy), support)

    def primal(down: Float64Array, across: Float64Array) -> Float64Array:
        spread = down + across
        spread[1:] -= down[:-1]
        spread[:, 1:] -= across[:, :-1]
        image = (noisy - weight * spread) * mask
        return np.maximum(image, 0) if nonnegative else image

    down = across = down_before = across_before = np.zeros_like(noisy)
    t = 1.0
    for _ in range(steps):
        g, h = gradient(primal(down, across), mask)
        g, h = down + g / (8 * weight), across + h / (8 * weight)
        length = np.maximum(1, np.hypot(g, h))
        g, h = g / length, h / length
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        momentum = (t - 1) / following
        down, across = g + momentum * (g - down_before), h + momentum * (h - across_before)
        down_before, across_before, t = g, h, following
    return primal(down_before, across_before)


def noisy_head(columns: int, sigma: float = 0.15) -> tuple[Float64Array, Float64Array]:
    head = resize(shepp_logan_phantom(), (columns, columns), order=1, anti_aliasing=True)
    return head, head + np.random.default_rng(columns).normal(0, sigma, head.shape)


@pytest.mark.parametrize("support", ["circle", "square"])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize(("columns", "steps"), [(300, 7), (97, 1), (40, 60)])
def test_tiles_give_what_the_printed_algorithm_gives_on_the_whole_image(
    columns: int, steps: int, nonnegative: bool, support: str
) -> None:
    # 300 columns are more than a tile in both directions, 60 steps reach beyond an image of 40
    _, noisy = noisy_head(columns)
    noisy *= inside(columns, support)
    volume = noisy[None].astype(np.float32)
    total_variation_prox(volume, 0.1, steps=steps, nonnegative=nonnegative, support=support)
    expected = reference(noisy, 0.1, steps, nonnegative=nonnegative, support=support)
    np.testing.assert_allclose(volume[0], expected, atol=2e-5)


@pytest.mark.parametrize("weight", [0.02, 0.1, 0.5])
def test_objective_is_not_worse_than_scikit_images(weight: float) -> None:
    _, noisy = noisy_head(128)
    theirs = denoise_tv_chambolle(noisy, weight)  # up to 200 steps
    volume = noisy[None].astype(np.float32)
    total_variation_prox(volume, weight, steps=60, nonnegative=False, support="square")
    ours = objective(volume[0].astype(np.float64), noisy, weight)
    assert ours < 1.001 * objective(theirs, noisy, weight)


def test_a_few_steps_are_most_of_the_way() -> None:
    head, noisy = noisy_head(128)
    values = []
    for steps in (1, 10, 400):
        volume = noisy[None].astype(np.float32)
        total_variation_prox(volume, 0.1, steps=steps, nonnegative=False, support="square")
        values.append(objective(volume[0].astype(np.float64), noisy, 0.1))
    assert values[1] < 1.02 * values[2]
    assert values[0] > values[1] > values[2]
    assert np.square(volume[0] - head).mean() < 0.1 * np.square(noisy - head).mean()


def test_slices_are_independent_and_threads_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.random((5, 130, 130), np.float32) * inside(130, "circle")
    together, one_thread = noisy.copy(), noisy.copy()
    total_variation_prox(together, 0.3, threads=2)
    total_variation_prox(one_thread, 0.3, threads=1)
    np.testing.assert_array_equal(together, one_thread)
    for s in range(5):
        alone = noisy[s : s + 1].copy()
        total_variation_prox(alone, 0.3)
        np.testing.assert_array_equal(alone[0], together[s])


def test_a_sample_that_fills_the_circle_is_not_pulled_to_zero_at_its_border() -> None:
    volume = (3.0 * inside(80, "circle"))[None].astype(np.float32)
    expected = volume.copy()
    total_variation_prox(volume, 0.5, steps=20)
    np.testing.assert_allclose(volume, expected, atol=1e-5)


def test_nothing_outside_the_support_is_touched_and_nothing_inside_is_negative() -> None:
    volume = np.random.default_rng(1).standard_normal((2, 70, 70)).astype(np.float32)
    before = volume.copy()
    total_variation_prox(volume, 0.2)
    mask = inside(70, "circle")
    np.testing.assert_array_equal(volume[:, ~mask], before[:, ~mask])
    assert volume[:, mask].min() == 0


def test_weight_zero_only_clips() -> None:
    volume = np.random.default_rng(1).standard_normal((1, 20, 20)).astype(np.float32)
    before = volume.copy()
    total_variation_prox(volume, 0.0, nonnegative=False)
    np.testing.assert_array_equal(volume, before)
    total_variation_prox(volume, 0.0)
    np.testing.assert_array_equal(volume, np.maximum(before, 0))


def test_mean_is_kept_and_a_great_weight_leaves_nothing_else() -> None:
    volume = np.random.default_rng(1).random((1, 32, 32), np.float32)
    mean = volume.mean()
    total_variation_prox(volume, 100.0, steps=400, support="square")
    np.testing.assert_allclose(volume, mean, atol=0.02)


def test_after_warm_up_nothing_is_left_to_compile() -> None:
    total_variation.warm_up(2)
    functions = [f for f in vars(total_variation).values() if hasattr(f, "signatures")]
    before = [len(f.signatures) for f in functions]
    total_variation_prox(np.zeros((2, 50, 50), np.float32), 0.5, steps=3, support="square", nonnegative=False)
    assert [len(f.signatures) for f in functions] == before
    assert sum(before) >= 2


def test_what_cannot_be_used_is_refused() -> None:
    good = np.zeros((1, 16, 16), np.float32)
    with pytest.raises(ValueError, match=r"\(1, 16, 15\)"):
        total_variation_prox(np.zeros((1, 16, 15), np.float32), 1.0)
    with pytest.raises(ValueError, match="float64"):
        total_variation_prox(good.astype(np.float64), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one behind the other"):
        total_variation_prox(np.zeros((2, 16, 32), np.float32)[:, :, ::2], 1.0)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight"):
            total_variation_prox(good, weight)
    with pytest.raises(ValueError, match="steps is 0"):
        total_variation_prox(good, 1.0, steps=0)
    with pytest.raises(ValueError, match="'oval'"):
        total_variation_prox(good, 1.0, support="oval")
