"""Images that are to be judged: what is read, and what is refused with words that help."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from ministream.errors import InputError
from ministream.sources.images import read_images

STACK = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def test_one_image_is_one_slice_and_counts_stay_counts(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "one.tiff", STACK[1].astype(np.uint16))
    np.testing.assert_array_equal(read_images(str(tmp_path / "one.tiff")), STACK[1:])
    np.save(tmp_path / "one.npy", STACK[1].astype(np.int64))
    assert read_images(str(tmp_path / "one.npy")).dtype == np.float32


def test_a_link_into_another_file_is_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "there.h5", "w") as file:
        file["images"] = STACK
    with h5py.File(tmp_path / "here.nxs", "w") as file:
        file["entry/data/data"] = h5py.ExternalLink("there.h5", "/images")
    np.testing.assert_array_equal(read_images(str(tmp_path / "here.nxs")), STACK)


def test_a_name_with_a_colon_is_a_name_first(tmp_path: Path) -> None:
    folder = tmp_path / "odd:"
    folder.mkdir()
    np.save(folder / "one.npy", STACK)
    np.testing.assert_array_equal(read_images(f"{folder}/one.npy"), STACK)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.h5", "no such file"),
        ("missing.h5:/data", "cannot be read"),
        ("text.h5", "not an HDF5 file"),
        ("text.tif", "cannot be read as TIFF"),
        ("text.npy", "cannot be read as a NumPy array"),
        ("two.h5", r"two.h5:/NAME does. There are: /a \(2, 3, 4\), /b \(3, 4\)"),
        ("two.h5:/c", r"no image or volume at /c; there are: /a"),
        ("two.h5:/d", "no image or volume at /d"),
        ("objects.npy", "cannot be read as a NumPy array"),
        ("line.npy", r"shape \(4,\); numbers"),
        ("complex.npy", "complex"),
        ("empty", "no TIFF files"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, message: str) -> None:
    for suffix in ("h5", "tif", "npy"):
        (tmp_path / f"text.{suffix}").write_text("text")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"], file["d"] = STACK, STACK[0], "text"
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "line.npy", STACK[0, 0])
    np.save(tmp_path / "complex.npy", STACK.astype(np.complex64))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        read_images(str(tmp_path / name))
