"""Judgements of arrays and files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from ministream.errors import InputError
from ministream.sinks import write_volume
from ministream.stages.judging import judge, judge_files, judge_slices, means

ALONE = {"sharpness", "noise", "contrast_to_noise"}
COMPARED = {"ssim", "uqi", "psnr", "mse"}


def truth(slices: int = 2, size: int = 32) -> np.ndarray:
    at = np.arange(size) - (size - 1) / 2
    disc = (at**2 + (at[:, np.newaxis] - 3) ** 2 <= 64).astype(np.float32)
    return np.stack([disc * (1 + index) for index in range(slices)])


def noisy(sigma: float, slices: int = 2, size: int = 32) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, sigma, truth(slices, size).shape)
    return (truth(slices, size) + noise).astype(np.float32)


def test_less_noise_is_better_by_every_figure() -> None:
    good, bad = judge(noisy(0.02), truth()), judge(noisy(0.2), truth())
    assert set(good) == ALONE | COMPARED
    for larger_is_better in ("ssim", "uqi", "psnr", "contrast_to_noise"):
        assert good[larger_is_better] > bad[larger_is_better]
    for smaller_is_better in ("mse", "noise"):
        assert good[smaller_is_better] < bad[smaller_is_better]
    assert good["mse"] == pytest.approx(0.02**2, rel=0.1)
    assert good["noise"] == pytest.approx(0.02, rel=0.2)


def test_large_slices_have_ms_ssim_too() -> None:
    assert "ms_ssim" not in judge(noisy(0.1, size=175), truth(size=175))
    assert 0 < judge(noisy(0.1, size=176), truth(size=176))["ms_ssim"] < 1


def test_without_a_reference_it_is_judged_by_itself() -> None:
    assert set(judge(noisy(0.1))) == ALONE
    # no noise, no ratio to it
    assert set(judge(truth())) == {"sharpness", "noise"}


def test_the_figures_are_means_of_those_of_the_slices() -> None:
    slices = judge_slices(noisy(0.1), truth())
    assert len(slices) == 2
    assert slices[0]["ssim"] != slices[1]["ssim"]
    assert judge(noisy(0.1), truth()) == means(slices)
    assert means(slices)["mse"] == pytest.approx((slices[0]["mse"] + slices[1]["mse"]) / 2)


def test_the_corners_of_squares_count_only_if_they_are_asked_for() -> None:
    spoiled = truth()
    spoiled[:, 0, 0] = 50
    assert judge(spoiled, truth())["mse"] == 0
    assert judge(spoiled, truth(), whole=True)["mse"] > 0
    # an image that is no square is no slice with a circle
    assert judge(spoiled[:, :, :-1], truth()[:, :, :-1])["mse"] > 0


@pytest.mark.parametrize(
    ("volume", "reference", "message"),
    [
        (truth()[0], None, r"\(32, 32\)"),
        (truth(size=8), None, "at least 11"),
        (truth(2), truth(3), r"\(2, 32, 32\).*\(3, 32, 32\)"),
        (truth(), 0 * truth(), "one value everywhere"),
        (np.full((1, 16, 16), np.nan, np.float32), None, "256 of 256 values are not finite"),
    ],
)
def test_what_cannot_be_judged_is_an_input_error(
    volume: np.ndarray, reference: np.ndarray | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        judge(volume, reference)


def test_files_of_several_formats_are_judged_alike(tmp_path: Path) -> None:
    volume = noisy(0.1)
    write_volume(tmp_path / "volume.h5", volume)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["deep/volume"] = volume
        file["deep/other"] = volume[:, :4]
    with h5py.File(tmp_path / "000001-recon.h5", "w") as file:
        file["data"] = volume.astype(np.float64)
        file["more"] = volume
    np.save(tmp_path / "volume.npy", volume)
    tifffile.imwrite(tmp_path / "volume.tif", volume)
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(volume):
        tifffile.imwrite(tmp_path / "folder" / f"slice_{index}.tif", image)
    write_volume(tmp_path / "truth.h5", truth())
    wanted = judge_slices(volume, truth())
    names = ("volume.h5", "other.h5:/deep/volume", "000001-recon.h5", "volume.npy", "volume.tif", "folder")
    for name in names:
        assert judge_files(str(tmp_path / name), str(tmp_path / "truth.h5")) == wanted, name
    assert judge_files(str(tmp_path / "volume.tif")) == judge_slices(volume)


def test_marks_in_the_corners_are_no_harm_and_inside_they_are(tmp_path: Path) -> None:
    volume = noisy(0.1)
    volume[:, 0, 0] = np.nan
    np.save(tmp_path / "corner.npy", volume)
    np.save(tmp_path / "truth.npy", truth())
    figures = judge_files(str(tmp_path / "corner.npy"), str(tmp_path / "truth.npy"))
    assert figures[0]["mse"] == pytest.approx(judge_slices(noisy(0.1), truth())[0]["mse"])
    with pytest.raises(InputError, match=r"not finite.*slice 0, row 0, column 0"):
        judge_files(str(tmp_path / "corner.npy"), whole=True)
    volume[1, 16, 15] = np.inf
    np.save(tmp_path / "inside.npy", volume)
    with pytest.raises(InputError, match=r"1 values .* not finite.*slice 1, row 16, column 15"):
        judge_files(str(tmp_path / "inside.npy"))
