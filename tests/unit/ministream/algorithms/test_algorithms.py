"""What all algorithms have in common, on discs whose projections are known by formula."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from ministream.algorithms import ALGORITHMS, DEFAULT_ALGORITHM, Settings, algorithm_named
from ministream.cli import scan_options
from ministream.errors import InputError
from ministream.kernels.metrics import circle_mask, ssim
from ministream.stages.reconstruction import Reconstruction

COLUMNS, VIEWS, SLICES = 64, 96, 3
NOISE = 0.02
DISCS = ((2.0, 1.0, 24.0, 0.02), (-8.0, 5.0, 6.0, 0.03), (10.0, -6.0, 4.0, -0.015))
"""x, y upwards, radius in pixels, attenuation per pixel; the third is a hole."""

# after the last of the views in the order of a scan, and after three passes more
REACHED = {
    "sirt": (0.70, 0.94),
    "window-replay": (0.94, 0.97),
    "os-sirt": (0.93, 0.97),
    "fista": (0.95, 0.98),
    "fbp": (0.85, 0.95),
}


def truth() -> npt.NDArray[np.float32]:
    at = (np.arange(4 * COLUMNS) + 0.5) / 4 - COLUMNS / 2
    image = np.zeros((4 * COLUMNS, 4 * COLUMNS))
    for x, y, radius, value in DISCS:
        image[(at - x) ** 2 + (-at[:, np.newaxis] - y) ** 2 <= radius**2] += value
    return image.reshape(COLUMNS, 4, COLUMNS, 4).mean((1, 3)).astype(np.float32)


def scan(noise: float = NOISE) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """Yield angle and rows of each view; the slices differ by their noise, and by a factor."""
    rng = np.random.default_rng(1)
    fine = (np.arange(8 * COLUMNS) + 0.5) / 8 - COLUMNS / 2
    for view in range(VIEWS):
        angle = np.pi * view / VIEWS
        row = np.zeros(8 * COLUMNS)
        for x, y, radius, value in DISCS:
            t = fine - x * np.cos(angle) - y * np.sin(angle)
            row += 2 * value * np.sqrt(np.maximum(0, radius**2 - t**2))
        factors = np.array([1.0, 1.5, 0.7])[:, np.newaxis]
        rows = row.reshape(COLUMNS, 8).mean(1) * factors + noise * rng.standard_normal((SLICES, COLUMNS))
        yield angle, rows.astype(np.float32)


def reconstruction(algorithm: str, slices: int = SLICES, **options: object) -> Reconstruction:
    values = {"columns": COLUMNS, "projections": VIEWS, "rotation_center": 31.5, "threads": 1}
    return Reconstruction(algorithm=algorithm, slices=slices, **(values | options))  # type: ignore[arg-type]


def quality(subject: Reconstruction) -> float:
    return ssim(subject.volume[0], truth(), circle_mask(COLUMNS))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_slices_become_like_the_object(algorithm: str) -> None:
    subject = reconstruction(algorithm)
    for angle, rows in scan():
        subject.add(angle, rows)
    subject.finish()
    arrived = quality(subject)
    for _ in range(3):
        subject.refine()
    assert arrived >= REACHED[algorithm][0]
    assert quality(subject) >= REACHED[algorithm][1]
    assert subject.projections_reconstructed == VIEWS
    # what is left is the noise
    assert 0.5 * NOISE < subject.residual < 2 * NOISE


@pytest.mark.parametrize("algorithm", [DEFAULT_ALGORITHM, "os-sirt", "fista"])
def test_more_passes_do_not_follow_the_noise_unless_it_is_not_taken_out(algorithm: str) -> None:
    qualities = {}
    for strength in (1.0, 0.0):
        subject = reconstruction(algorithm, total_variation=strength)
        for angle, rows in scan(3 * NOISE):
            subject.add(angle, rows)
        subject.finish()
        qualities[strength] = []
        for _ in range(12):
            subject.refine()
            qualities[strength].append(quality(subject))
    assert qualities[1.0][-1] > qualities[1.0][1] - 0.01
    assert qualities[0.0][-1] < qualities[0.0][1] - 0.03
    assert qualities[1.0][-1] > qualities[0.0][-1] + 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_slice_comes_out_the_same_alone_and_with_others_that_leave(algorithm: str) -> None:
    together, alone, leaving = (reconstruction(algorithm, slices) for slices in (SLICES, 1, SLICES))
    for view, (angle, rows) in enumerate(scan()):
        together.add(angle, rows)
        alone.add(angle, rows[1:2])
        if view == 50:
            leaving.keep(1, 2)
        leaving.add(angle, rows if view < 50 else rows[1:2])
    for subject in (together, alone, leaving):
        subject.finish()
        for _ in range(2):
            subject.refine()
    assert together.volume[1].any()
    np.testing.assert_array_equal(alone.volume[0], together.volume[1])
    np.testing.assert_array_equal(leaving.volume[0], together.volume[1])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("moment", [2, 41])
def test_a_state_goes_on_elsewhere_bit_for_bit(algorithm: str, moment: int) -> None:
    subject = reconstruction(algorithm)
    views = list(scan())
    for angle, rows in views[:moment]:
        subject.add(angle, rows)
    subject.calibrate(31.9, np.full((SLICES, COLUMNS), 0.001, np.float32))
    state = {name: array.copy() for name, array in subject.state().items()}
    other = reconstruction(algorithm, rotation_center=None)
    other.restore(state)
    for each in (subject, other):
        for angle, rows in views[moment:]:
            each.add(angle, rows)
        each.finish()
        each.refine()
        each.refine()
    np.testing.assert_array_equal(other.volume, subject.volume)
    assert (other.updates, other.residual) == (subject.updates, subject.residual)
    assert other.projections_reconstructed == VIEWS


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_state_of_something_else_is_refused(algorithm: str) -> None:
    subject = reconstruction(algorithm)
    for angle, rows in scan():
        subject.add(angle, rows)
    state = subject.state()
    for name in state:
        with pytest.raises(InputError, match=name):
            reconstruction(algorithm).restore({key: state[key] for key in state if key != name})
    with pytest.raises(InputError):
        reconstruction(algorithm, slices=1).restore(state)
    with pytest.raises(InputError):
        reconstruction(algorithm, projections=10).restore(state)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("nonnegative", [True, False])
def test_slices_are_negative_only_where_that_is_allowed(algorithm: str, nonnegative: bool) -> None:
    subject = reconstruction(algorithm, nonnegative=nonnegative)
    smallest = []
    for angle, rows in scan():
        if subject.add(angle, rows - np.float32(0.3)):
            smallest.append(subject.volume.min())
    subject.refine()
    smallest.append(subject.volume.min())
    assert (min(smallest) >= 0) == nonnegative


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_view_costs_no_more_than_in_a_window(algorithm: str) -> None:
    subject = reconstruction(algorithm, window=16, step=4, total_variation=0.0)
    updates = [subject.updates]
    for angle, rows in scan():
        subject.add(angle, rows)
        updates.append(subject.updates)
    gaps = [view for view, (before, after) in enumerate(pairwise(updates)) if after > before]
    # a first image at the first step, and the next ones before a third more have come
    assert gaps[0] == 3
    assert all(later + 1 <= max(earlier + 5, 4 * (earlier + 5) / 3) for earlier, later in pairwise(gaps))
    if algorithm != "fbp":
        views_per_update = {"sirt": 16, "window-replay": 16, "os-sirt": 12, "fista": 8}[algorithm]
        assert updates[-1] * views_per_update <= 1.4 * VIEWS * 16 / 4


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "fbp"])
def test_a_filtered_first_image_is_a_start(algorithm: str) -> None:
    zero, filtered = (
        reconstruction(algorithm, first_image=image, window=VIEWS, step=VIEWS) for image in ("zero", "fbp")
    )
    for angle, rows in scan(noise=0.002):
        zero.add(angle, rows)
        filtered.add(angle, rows)
    assert quality(filtered) > quality(zero) if algorithm == "sirt" else quality(filtered) > 0.9


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_memory_grows_with_what_there_is(algorithm: str) -> None:
    sizes = {"slices": 4, "columns": 640, "projections": 180, "threads": 2}
    needed = Reconstruction.memory_bytes(algorithm=algorithm, **sizes)
    # volume and measurements at least, and no more than twice the volume besides
    least = 4 * 4 * 640 * (640 + 180)
    assert least < needed < least + 2 * 4 * 4 * 640**2 + 8_000_000
    for name, size in sizes.items():
        more = Reconstruction.memory_bytes(algorithm=algorithm, **(sizes | {name: 2 * size}))
        assert more > needed


def test_the_command_line_offers_the_algorithms_that_there_are() -> None:
    assert tuple(ALGORITHMS) == scan_options.ALGORITHMS
    assert all(algorithm.summary for algorithm in ALGORITHMS.values())


def test_unknown_names_and_impossible_numbers_say_what_there_is() -> None:
    with pytest.raises(InputError, match="'art' is not one of sirt, window-replay, os-sirt, fista, fbp"):
        algorithm_named("art")
    with pytest.raises(InputError, match="'one' is not one of zero, fbp"):
        Settings(first_image="one")
    with pytest.raises(InputError, match="iterations is 0"):
        Settings(iterations=0)
    with pytest.raises(InputError, match=r"total variation is -1\.0"):
        Settings(total_variation=-1.0)
    with pytest.raises(InputError, match="total variation is nan"):
        Settings(total_variation=float("nan"))
    with pytest.raises(InputError, match="step is 9"):
        Settings(window=8, step=9)
