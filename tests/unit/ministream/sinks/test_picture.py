"""Pictures: which slices, how they lie, their greys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ministream.errors import InputError, OutputError
from ministream.sinks import write_picture


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def test_one_image_is_shown_as_it_lies(tmp_path: Path) -> None:
    image = np.zeros((20, 30))
    image[:5, 20:] = 1.0
    write_picture(tmp_path / "p.png", image)
    shown = read(tmp_path / "p.png")
    assert shown.shape == (20, 30)
    np.testing.assert_array_equal(shown, np.where(image > 0, 255, 0))


def test_slices_lie_in_rows_with_one_scale(tmp_path: Path) -> None:
    volume = np.zeros((4, 10, 10), np.float32)
    volume += np.arange(4)[:, None, None]
    write_picture(tmp_path / "p.png", volume, labels=False)
    shown = read(tmp_path / "p.png")
    assert shown.shape == (24, 24)
    corners = shown[0, 0], shown[0, -1], shown[-1, 0], shown[-1, -1]
    assert corners == (0, 85, 170, 255)


def test_many_slices_are_thinned_out_evenly(tmp_path: Path) -> None:
    volume = np.repeat(np.arange(60.0)[:, None, None], 8, axis=1).repeat(8, axis=2)
    write_picture(tmp_path / "p.png", volume, labels=False, most=6)
    shown = read(tmp_path / "p.png")
    assert shown.shape == (2 * 12 - 4, 3 * 12 - 4)
    greys = [int(shown[y, x]) for y in (0, 12) for x in (0, 12, 24)]
    assert greys == sorted(greys)
    assert len(set(greys)) == 6


def test_labels_are_drawn_on_stacks_only(tmp_path: Path) -> None:
    volume = np.zeros((2, 40, 60))
    write_picture(tmp_path / "p.png", volume)
    # smooth letters need not have a pixel of full white
    assert read(tmp_path / "p.png").max() > 200
    write_picture(tmp_path / "q.png", volume[0])
    assert read(tmp_path / "q.png").max() == 0


def test_outliers_do_not_take_the_contrast_and_nonsense_is_black(tmp_path: Path) -> None:
    image = np.tile(np.linspace(0, 1, 100), (100, 1))
    image[0, 0], image[1, 1], image[2, 2], image[3, 3] = 1e9, np.nan, np.inf, -np.inf
    write_picture(tmp_path / "p.png", image)
    shown = read(tmp_path / "p.png")
    assert 110 < shown[50, 50] < 145
    assert shown[0, 0] == shown[2, 2] == 255
    assert shown[1, 1] == shown[3, 3] == 0


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_an_image_without_contrast_is_black(tmp_path: Path, value: float) -> None:
    write_picture(tmp_path / "p.png", np.full((9, 9), value))
    assert read(tmp_path / "p.png").max() == 0


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 2, 2, 2)])
def test_what_is_no_image_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        write_picture(tmp_path / "p.png", np.zeros(shape))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="make its folder"):
        write_picture(tmp_path / "missing" / "p.png", np.zeros((4, 4)))
