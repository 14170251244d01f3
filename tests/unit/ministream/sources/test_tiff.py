"""TIFF scans: which file is what, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ministream.errors import InputError
from ministream.frames import FrameKind
from ministream.sources import ViewOrder, open_source

DATA = np.random.default_rng(5).integers(0, 60_000, (12, 4, 32)).astype("u2")


def write(folder: Path, frames: np.ndarray, name: str = "view_{}.tif", **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        tifffile.imwrite(folder / name.format(index), frame, **options)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Files without leading zeros, fields in folders."""
    folder = tmp_path / "scan"
    write(folder, DATA)
    write(folder / "flats", DATA[:3] // 2 + 1000)
    write(folder / "darks", DATA[:2] // 100)
    return folder


def test_files_follow_each_other_as_they_are_numbered(scan: Path) -> None:
    with open_source(str(scan), angles="0:180") as source:
        description = source.describe()
        frames = list(source.frames())
    assert (description.name, description.pixel_type) == ("scan", "uint16")
    assert (description.dark_fields, description.flat_fields, description.projections) == (2, 3, 12)
    np.testing.assert_array_equal([frame.pixels for frame in frames[5:]], DATA)
    np.testing.assert_array_equal(frames[2].pixels, DATA[0] // 2 + 1000)
    np.testing.assert_allclose([frame.angle_rad for frame in frames[5:]], np.pi / 12 * np.arange(12))


def test_another_order_keeps_angle_and_pixels_together(scan: Path) -> None:
    with open_source(str(scan), angles="0:180") as source:
        for frame in source.frames(ViewOrder.GOLDEN_ANGLE):
            if frame.kind is FrameKind.PROJECTION:
                np.testing.assert_array_equal(frame.pixels, DATA[round(frame.angle_rad / np.pi * 12)])


def test_names_of_files_may_say_what_they_are(tmp_path: Path) -> None:
    write(tmp_path, DATA, "tomo_{:04d}.TIFF")
    write(tmp_path, DATA[:2], "flat_{}.tif")
    write(tmp_path, DATA[:1], "Dark{}.tif")
    (tmp_path / "flatter.txt").write_text("not an image")
    with open_source(str(tmp_path), angles="0:360") as source:
        description = source.describe()
    assert (description.dark_fields, description.flat_fields, description.projections) == (1, 2, 12)


def test_fields_may_lie_anywhere_or_be_one_value(scan: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", DATA[:5])
    with open_source(
        str(scan), angles="0:180", flats=str(tmp_path / "elsewhere"), darks="darks/view_1.tif"
    ) as one:
        assert (one.describe().flat_fields, one.describe().dark_fields) == (5, 1)
    (scan / "darks" / "view_0.tif").unlink()
    (scan / "darks" / "view_1.tif").unlink()
    with pytest.raises(InputError, match=r"no dark fields; --darks names.*--dark-value"):
        open_source(str(scan), angles="0:180")
    with open_source(str(scan), angles="0:180", dark_value=12.0) as other:
        assert (next(iter(other.frames())).pixels == 12).all()


def test_one_file_may_have_all_pages(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "all.tif", DATA, photometric="minisblack")
    with open_source(str(tmp_path / "all.tif"), angles="0:180", flat_value=60_000, dark_value=0) as source:
        frames = list(source.frames())
        assert source.describe().name == "all.tif"
    np.testing.assert_array_equal([frame.pixels for frame in frames[2:]], DATA)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_pages_may_be_compressed(tmp_path: Path, compression: str, dtype: str) -> None:
    data = (DATA // 300).astype(dtype)
    write(tmp_path, data, compression=compression)
    with open_source(str(tmp_path), angles="0:180", flat_value=250, dark_value=0) as source:
        got = [frame.pixels for frame in source.frames() if frame.kind is FrameKind.PROJECTION]
    np.testing.assert_array_equal(got, data)


def test_an_unusual_compression_without_its_codecs_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, DATA, compression="zstd")

    def without(*_: object, **__: object) -> None:
        # what tifffile raises where imagecodecs is not installed
        raise ValueError("<COMPRESSION.ZSTD: 50000> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", without)
    with (
        open_source(str(tmp_path), angles="0:180", flat_value=250, dark_value=0) as source,
        pytest.raises(InputError, match=r"view_0.tif is compressed.*pip install 'ministream\[tiff\]'"),
    ):
        list(source.frames())


def test_what_is_no_scan_is_refused(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (scan, {}, "--angles 0:180"),
        (scan, {"angles": str(tmp_path / "none.txt")}, "neither START:STOP"),
        (scan, {"angles": "0:180", "dataset": "x"}, "a TIFF scan has no use for --dataset"),
        (scan, {"angles": "0:180", "flats": "empty"}, "cannot be read as TIFF: No such file"),
        (tmp_path / "empty", {"angles": "0:180"}, "no TIFF files"),
        (tmp_path / "none.tif", {"angles": "0:180"}, "No such file"),
    ]
    for path, options, words in cases:
        with pytest.raises(InputError) as caught:
            open_source(str(path), **options)
        assert words in str(caught.value)
    text = tmp_path / "angles.txt"
    for content, words in (
        ("1\n2\nthree", "line 3: 'three'"),
        ("1\n2\n", "2 angles; 12"),
        ("nan\n" * 12, "[0] is nan"),
    ):
        text.write_text(content)
        with pytest.raises(InputError) as caught:
            open_source(str(scan), angles=str(text))
        assert words in str(caught.value)


def test_frames_that_differ_are_named(scan: Path) -> None:
    tifffile.imwrite(scan / "view_12.tif", DATA[0, :3])
    with pytest.raises(
        InputError, match=r"view_12.tif has \(3, 32\) pixels of uint16.*view_0.tif has \(4, 32\)"
    ):
        open_source(str(scan), angles="0:180")
    tifffile.imwrite(scan / "view_12.tif", np.zeros((4, 32, 3), "u1"), photometric="rgb")
    with pytest.raises(InputError, match="alike"):
        open_source(str(scan), angles="0:180")
    (scan / "view_12.tif").unlink()
    write(scan / "darks", DATA[:2, :, :30])
    with pytest.raises(InputError, match=r"\(4, 30\) rows and columns.*\(4, 32\)"):
        open_source(str(scan), angles="0:180")


def test_colours_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "view.tif", np.zeros((4, 32, 3), "u1"), photometric="rgb")
    with pytest.raises(InputError, match="without colours"):
        open_source(str(tmp_path), angles="0:180", flat_value=9, dark_value=0)


def test_a_damaged_file_is_named(scan: Path) -> None:
    whole = (scan / "view_7.tif").read_bytes()
    (scan / "view_7.tif").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"view_7.tif cannot be read as TIFF"):
        open_source(str(scan), angles="0:180")
    (scan / "view_7.tif").write_bytes(b"")
    with pytest.raises(InputError, match=r"view_7.tif cannot be read as TIFF"):
        open_source(str(scan), angles="0:180")
    # the pixels come last: the head is whole
    (scan / "view_7.tif").write_bytes(whole[: len(whole) - 40])
    with open_source(str(scan), angles="0:180") as source, pytest.raises(InputError, match=r"view_7\.tif"):
        list(source.frames())
