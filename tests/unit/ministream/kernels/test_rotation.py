"""The rotation centre, on sinograms of ellipses that are known analytically, with and without noise."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.kernels.normalize import transmission_to_attenuation
from ministream.kernels.rotation import NotTrusted, find_common_rotation_center, find_rotation_center

COLUMNS = 200
# value, semi-axes, middle, tilt: fractions of half the width, radians
ELLIPSES = [
    (1.0, 0.60, 0.75, 0.0, 0.0, 0.0),
    (-0.8, 0.56, 0.70, 0.0, -0.02, 0.0),
    (0.5, 0.20, 0.10, 0.25, 0.10, 0.6),
    (0.7, 0.05, 0.25, -0.25, -0.20, -0.4),
    (1.0, 0.04, 0.04, 0.10, -0.45, 0.0),
]


def sinogram(angles: np.ndarray, center: float, counts: float | None = None) -> np.ndarray:
    t = np.arange(COLUMNS) - center
    half = COLUMNS / 2
    result = np.zeros((len(angles), COLUMNS))
    for value, *lengths, tilt in ELLIPSES:
        a, b, x, y = (length * half for length in lengths)
        squared = ((a * np.cos(angles - tilt)) ** 2 + (b * np.sin(angles - tilt)) ** 2)[:, np.newaxis]
        s = t - (x * np.cos(angles) + y * np.sin(angles))[:, np.newaxis]
        result += value * 2 * a * b / squared * np.sqrt(np.maximum(squared - s**2, 0))
    result *= 2 / result.max()
    if counts is not None:
        photons = np.random.default_rng(4).poisson(counts * np.exp(-result))
        result = -np.log(np.maximum(photons, 1) / counts)
    return result.astype(np.float32)


def half_turn(views: int, first: float = 0.0) -> np.ndarray:
    return first + np.linspace(0, np.pi, views, endpoint=False)


@pytest.mark.parametrize("center", [99.5, 94.3, 110.75, 80.0])
@pytest.mark.parametrize("first", [0.0, 1.0, 4.0])
def test_it_is_found_without_noise(center: float, first: float) -> None:
    angles = half_turn(60, first)
    assert find_rotation_center(sinogram(angles, center), angles) == pytest.approx(center, abs=0.1)


@pytest.mark.parametrize(("counts", "tolerance"), [(1e4, 0.12), (1e3, 0.3)])
def test_it_is_found_in_noise(counts: float, tolerance: float) -> None:
    angles = half_turn(90)
    found = find_rotation_center(sinogram(angles, 104.6, counts), angles)
    assert found == pytest.approx(104.6, abs=tolerance)


@pytest.mark.parametrize("views", [48, 64, 90])
def test_views_in_bit_reversed_order_give_it_before_the_scan_has_ended(views: int) -> None:
    angles = half_turn(180)
    order = sorted(range(180), key=lambda index: f"{index:08b}"[::-1])[:views]
    found = find_rotation_center(sinogram(angles[order], 92.2, 1e4), angles[order])
    assert found == pytest.approx(92.2, abs=0.3)


def test_a_full_turn_is_as_good_as_a_half() -> None:
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    assert find_rotation_center(sinogram(angles, 103.3), angles) == pytest.approx(103.3, abs=0.1)


@pytest.mark.parametrize("direction", [1, -1])
def test_the_sense_of_rotation_and_the_order_do_not_matter(direction: int) -> None:
    angles = direction * np.random.default_rng(5).permutation(half_turn(64))
    assert find_rotation_center(sinogram(angles, 95.0), angles) == pytest.approx(95.0, abs=0.1)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_scan_that_has_not_gone_round_is_not_trusted(share: float) -> None:
    angles = half_turn(180)[: int(180 * share)]
    with pytest.raises(NotTrusted, match="gap"):
        find_rotation_center(sinogram(angles, 95.0), angles)


def test_views_too_far_apart_are_not_trusted() -> None:
    angles = half_turn(20)
    with pytest.raises(NotTrusted, match="gap"):
        find_rotation_center(sinogram(angles, 95.0), angles)


def test_noise_alone_is_not_trusted() -> None:
    noise = np.random.default_rng(6).standard_normal((90, COLUMNS)).astype(np.float32)
    with pytest.raises(NotTrusted, match="stands out"):
        find_rotation_center(noise, half_turn(90))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_sinogram_is_not_trusted(value: float) -> None:
    with pytest.raises(NotTrusted):
        find_rotation_center(np.full((90, COLUMNS), value, np.float32), half_turn(90))


def test_a_centre_far_from_the_middle_is_not_trusted() -> None:
    angles = half_turn(90)
    with pytest.raises(NotTrusted):
        find_rotation_center(sinogram(angles, 30.0), angles)


def test_the_rows_with_the_object_decide_for_all() -> None:
    angles = half_turn(90)
    empty = np.random.default_rng(7).normal(0, 0.01, (90, COLUMNS)).astype(np.float32)
    rows = np.stack([empty, sinogram(angles, 97.0), empty, sinogram(angles, 97.2)], axis=1)
    assert find_common_rotation_center(rows, angles) == pytest.approx(97.1, abs=0.2)


def test_no_row_to_be_trusted_is_an_error() -> None:
    noise = np.random.default_rng(8).standard_normal((40, 2, COLUMNS)).astype(np.float32)
    with pytest.raises(NotTrusted, match="stands out"):
        find_common_rotation_center(noise, half_turn(40))


def test_angles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(90, 200\).*\(89,\)"):
        find_rotation_center(np.zeros((90, COLUMNS), np.float32), half_turn(89))


def test_the_tooth_has_one_centre_however_many_of_its_views_are_there(shared_data: Path) -> None:
    with h5py.File(shared_data / "tooth.h5") as file:
        group = file["exchange"]
        dark, flat = group["data_dark"][:].mean(0), group["data_white"][:].mean(0)
        angles = np.deg2rad(group["theta"][:])
        data = np.array([transmission_to_attenuation(frame, dark, flat)[0] for frame in group["data"][:]])
    order = sorted(range(len(angles)), key=lambda index: f"{index:08b}"[::-1])
    for views in (46, 91, 181):
        found = find_common_rotation_center(data[order[:views]], angles[order[:views]])
        # where the centre of mass of the projections and the sharpness of the reconstruction put it
        assert found == pytest.approx(295.8, abs=0.5)
