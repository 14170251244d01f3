"""NeXus files: what each frame is, where the angles are, links to other files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ministream.errors import InputError
from ministream.frames import FrameKind
from ministream.sources import ViewOrder, open_source

KEYS = np.array([2, 2, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1])
ANGLES = np.where(KEYS == 0, np.arange(len(KEYS)) * 10.0, 0.0)
DATA = np.arange(len(KEYS) * 3 * 32, dtype="u2").reshape(-1, 3, 32)
PROJECTIONS = np.flatnonzero(KEYS == 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.nxs"


def write(path: Path, *, angles: Any = ANGLES, keys: Any = KEYS, units: str | None = "degree") -> h5py.File:
    """The layout of NXtomo, with its links."""
    file = h5py.File(path, "w")
    entry = file.create_group("entry0000")
    entry.attrs["NX_class"] = "NXentry"
    for name, kind in (("instrument", "NXinstrument"), ("sample", "NXsample"), ("data", "NXdata")):
        entry.create_group(name).attrs["NX_class"] = kind
    detector = entry.create_group("instrument/detector")
    detector.attrs["NX_class"] = "NXdetector"
    detector["data"] = DATA
    if keys is not None:
        detector["image_key"] = keys
    if angles is not None:
        entry["sample/rotation_angle"] = angles
        if units:
            entry["sample/rotation_angle"].attrs["units"] = units
    for name in ("data", "image_key"):
        if name in detector:
            entry[f"data/{name}"] = h5py.SoftLink(f"/entry0000/instrument/detector/{name}")
    # a circle
    entry["data/self"] = h5py.SoftLink("/entry0000")
    return file


def test_a_tomo_file_plays_fields_where_they_were_measured(path: Path) -> None:
    write(path).close()
    with open_source(str(path)) as source:
        description = source.describe()
        frames = list(source.frames())
    assert (description.projections, description.flat_fields, description.dark_fields) == (7, 4, 3)
    played = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    np.testing.assert_array_equal([frame.pixels for frame in frames], DATA[played])
    assert [frame.sequence for frame in frames if frame.resets] == [0, 2, 8, 12, 13]
    angles = [frame.angle_rad for frame in frames if frame.kind is FrameKind.PROJECTION]
    np.testing.assert_allclose(angles, np.radians(ANGLES[PROJECTIONS]))


def test_another_order_keeps_angle_and_pixels_together(path: Path) -> None:
    write(path).close()
    with open_source(str(path)) as source:
        for frame in source.frames(ViewOrder.BIT_REVERSED):
            if frame.kind is FrameKind.PROJECTION:
                index = round(np.degrees(frame.angle_rad) / 10)
                np.testing.assert_array_equal(frame.pixels, DATA[index])


def test_angles_may_be_those_of_the_projections_alone_and_in_radians(path: Path) -> None:
    write(path, angles=np.radians(ANGLES[PROJECTIONS]), units="rad").close()
    with open_source(str(path)) as source:
        np.testing.assert_allclose(source.angles_rad, np.radians(ANGLES[PROJECTIONS]))


def test_angles_of_fields_need_not_be_numbers(path: Path) -> None:
    write(path, angles=np.where(KEYS == 0, ANGLES, np.nan)).close()
    with open_source(str(path)) as source:
        assert np.isfinite(source.angles_rad).all()
    write(path, angles=np.where(KEYS == 1, ANGLES, np.nan)).close()
    with pytest.raises(InputError, match=r"rotation_angle, projections\[0\] is nan"):
        open_source(str(path))


def test_invalid_frames_and_those_for_alignment_are_left_out(path: Path) -> None:
    keys = KEYS.copy()
    keys[5] = 3
    with write(path, keys=keys) as file:
        control = keys.copy()
        control[[10, 11]] = -1
        file["entry0000/instrument/detector/image_key_control"] = control
    with open_source(str(path)) as source:
        kept = [index for index in PROJECTIONS if index not in (5, 10, 11)]
        np.testing.assert_allclose(source.angles_rad, np.radians(ANGLES[kept]))
        got = [frame.pixels for frame in source.frames() if frame.kind is FrameKind.PROJECTION]
        np.testing.assert_array_equal(got, DATA[kept])


def test_stack_and_angles_may_be_links_into_other_files(path: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    with h5py.File(tmp_path / "parts" / "detector.h5", "w") as part:
        part["entry/frames"] = DATA
    with h5py.File(tmp_path / "parts" / "stage.h5", "w") as part:
        part["theta"] = ANGLES
    with write(path, angles=None) as file:
        del file["entry0000/instrument/detector/data"]
        file["entry0000/instrument/detector/data"] = h5py.ExternalLink("parts/detector.h5", "/entry/frames")
        file["entry0000/sample/rotation_angle"] = h5py.ExternalLink("parts/stage.h5", "/theta")
        # what the beamline recorded and nobody kept
        file["entry0000/sample/temperature"] = h5py.ExternalLink("parts/none.h5", "/t")
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(path, moved)
    shutil.move(tmp_path / "parts", moved)
    with open_source(str(moved / path.name)) as source:
        assert source.describe().projections == 7
        np.testing.assert_array_equal(next(iter(source.frames())).pixels, DATA[0])
    (moved / "parts" / "detector.h5").unlink()
    with pytest.raises(
        InputError, match=r"/data is a link to /entry/frames in parts/detector.h5, which"
    ) as caught:
        open_source(str(moved / path.name))
    assert "where it belongs" in str(caught.value)


def test_without_a_rotation_angle_the_axis_of_the_data_is_taken(path: Path) -> None:
    with write(path, angles=None) as file:
        data = file["entry0000/data"]
        data.attrs["axes"] = [b"stage_value_set", b".", b"."]
        data["stage_value"] = ANGLES
        data["stage_value"].attrs["units"] = "deg"
        data["stage_value_set"] = h5py.ExternalLink("none.h5", "/x")
        data["pressure"] = np.zeros(len(KEYS))
    with open_source(str(path)) as source:
        np.testing.assert_allclose(source.angles_rad, np.radians(ANGLES[PROJECTIONS]))


def test_fields_that_the_stack_lacks_come_from_where_the_user_says(path: Path) -> None:
    keys = np.where(KEYS == 2, 3, KEYS)
    with write(path, keys=keys) as file:
        file["calibration/dark"] = np.full((5, 3, 32), 7, "u2")
    with pytest.raises(InputError, match=r"no dark fields, and none are named.*--dark-value"):
        open_source(str(path))
    with open_source(str(path), darks="/calibration/dark") as source:
        assert source.describe().dark_fields == 5
        assert (next(iter(source.frames())).pixels == 7).all()
    with open_source(str(path), dark_value=4.0) as source:
        assert (next(iter(source.frames())).pixels == 4).all()


def test_any_stack_is_a_scan_when_its_parts_are_named(path: Path, tmp_path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["raw/images"] = DATA
        file["raw/open"] = DATA[:2]
        file["raw/shut"] = DATA[0]
        file["raw/phi"] = np.radians(np.arange(14) * 5.0)
        file["raw/what"] = KEYS
    named = {"dataset": "raw/images", "flats": "raw/open", "darks": "raw/shut"}
    with open_source(str(path), **named, angles="raw/phi", angle_units="radians") as source:
        np.testing.assert_allclose(np.degrees(source.angles_rad), np.arange(14) * 5.0)
        assert (source.describe().flat_fields, source.describe().dark_fields) == (2, 1)
    with open_source(str(path), **named, angles="0:140") as source:
        np.testing.assert_allclose(np.degrees(source.angles_rad), np.arange(14) * 10.0)
    with open_source(str(path), **named, angles="10:-130") as source:
        np.testing.assert_allclose(np.degrees(source.angles_rad), 10 - np.arange(14) * 10.0)
    text = tmp_path / "angles.txt"
    text.write_text("# degrees\n" + "\n".join(f"{angle}  # view" for angle in range(14)))
    with open_source(str(path), **named, angles=str(text)) as source:
        np.testing.assert_allclose(np.degrees(source.angles_rad), np.arange(14))
    with open_source(str(path), dataset="raw/images", image_key="raw/what", angles="0:70") as source:
        np.testing.assert_allclose(np.degrees(source.angles_rad), np.arange(7) * 10.0)
        assert source.describe().flat_fields == 4


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"dataset": "raw/none"}, ["there is no raw/none", "with 3 axes there are", "raw/images (14, "]),
        ({"dataset": "raw"}, ["raw is a group"]),
        ({"dataset": "raw/phi"}, ["raw/phi has the shape (14,)"]),
        ({"dataset": "raw/images"}, ["no flat fields, and none are named", "--flat-value"]),
        ({"dataset": "raw/images", "flat_value": 9.0, "dark_value": 0.0}, ["angles", "--angles 0:180"]),
        ({"dataset": "raw/images", "flats": "raw/none"}, ["there is no raw/none"]),
        ({"dataset": "raw/images", "flats": "raw/phi", "dark_value": 0.0}, ["raw/phi has the shape (14,)"]),
        ({"angles": "raw/short"}, ["raw/short has the shape (13,)", "14 angles"]),
        ({"angles": "raw/bad"}, ["raw/bad[3] is inf"]),
        ({"angles": "none.txt"}, ["'none.txt'", "START:STOP"]),
        ({"angles": "0:nan"}, ["finite"]),
        ({"angles": "5:5"}, ["different"]),
        ({"image_key": "raw/phi"}, ["raw/phi has the shape (14,) of float64"]),
        ({"image_key": "raw/none"}, ["there is no raw/none", "with 1 axes there are", "raw/phi (14,)"]),
        ({"angle_units": "turns"}, ["degrees, radians"]),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(
    path: Path, named: dict[str, Any], words: list[str]
) -> None:
    with h5py.File(path, "w") as file:
        file["raw/images"] = DATA
        file["raw/phi"] = np.arange(14.0)
        file["raw/short"] = np.arange(13.0)
        file["raw/bad"] = np.where(np.arange(14) == 3, np.inf, np.arange(14.0))
    if "dataset" not in named:
        named = {"dataset": "raw/images", "flat_value": 9.0, "dark_value": 0.0, **named}
    with pytest.raises(InputError) as caught:
        open_source(str(path), **named)
    for word in words:
        assert word in str(caught.value)


def test_two_detectors_are_a_question(path: Path) -> None:
    with write(path) as file:
        other = file.create_group("entry0000/instrument/diode")
        other["data"] = DATA[:, :2]
        other["image_key"] = KEYS
    with pytest.raises(InputError, match=r"more than one stack.*--dataset chooses one"):
        open_source(str(path))
    with open_source(str(path), dataset="entry0000/instrument/diode/data") as source:
        assert source.describe().rows == 2


def test_a_key_that_fits_no_frame_is_refused(path: Path) -> None:
    write(path, keys=KEYS[:-1]).close()
    with pytest.raises(InputError, match=r"image_key has the shape \(13,\).*14 frames"):
        open_source(str(path))
    write(path, keys=np.ones_like(KEYS)).close()
    with pytest.raises(InputError, match="none of the 14 frames as a projection"):
        open_source(str(path))


def test_a_file_of_neither_kind_says_what_is_looked_for(path: Path) -> None:
    write(path, keys=None).close()
    with pytest.raises(InputError, match=r"no /exchange/data.*entry0000"):
        open_source(str(path))


def test_a_real_scan_is_read(shared_data: Path) -> None:
    """Fields, 50 of each, before and after; angles by an axis; most of its linked files were not kept."""
    with open_source(str(shared_data / "k11_diad" / "k11-18014.nxs")) as source:
        description = source.describe()
        assert (description.projections, description.rows, description.columns) == (3001, 22, 26)
        assert (description.flat_fields, description.dark_fields) == (100, 100)
        assert np.degrees(np.ptp(source.angles_rad)) == pytest.approx(180, abs=0.01)
        frames = list(source.frames())
    assert len(frames) == 3201
    assert [frame.sequence for frame in frames if frame.resets] == [0, 50, 3101, 3151]
    bright = {kind: np.mean([frame.pixels for frame in frames if frame.kind is kind]) for kind in FrameKind}
    assert bright[FrameKind.DARK_FIELD] < 200 < bright[FrameKind.PROJECTION] < bright[FrameKind.FLAT_FIELD]
