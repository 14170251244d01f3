"""APS Data Exchange files: what is read, what is refused and how it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from ministream.errors import InputError
from ministream.frames import FrameKind
from ministream.sources import ViewOrder, open_source
from ministream.sources.hdf5 import DataExchangeFile
from ministream.sources.options import SourceOptions

DEGREES = np.linspace(0, 165, 12)


def write_scan(path: Path, *, units: Any = "degrees", **changes: Any) -> Path:
    """A small scan; None leaves a dataset out."""
    random = np.random.default_rng(1)
    datasets: dict[str, Any] = {
        "exchange/data": random.integers(100, 200, (12, 3, 32)).astype("u2"),
        "exchange/data_white": random.integers(200, 250, (2, 3, 32)).astype("u2"),
        "exchange/data_dark": random.integers(0, 9, (3, 3, 32)).astype("u2"),
        "exchange/theta": DEGREES,
        **{name.replace("__", "/"): values for name, values in changes.items()},
    }
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            if values is not None:
                file[name] = values
        if units is not None and datasets["exchange/theta"] is not None:
            file["exchange/theta"].attrs["units"] = units
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.h5"


def test_frames_come_in_order_and_are_the_files(path: Path) -> None:
    with h5py.File(write_scan(path)) as file:
        stacks = [file[f"exchange/{name}"][()] for name in ("data_dark", "data_white", "data")]
    with open_source(str(path)) as source:
        frames = list(source.frames())
        description = source.describe()
    assert (description.name, description.pixel_type) == ("scan.h5", "uint16")
    assert (description.projections, description.rows, description.columns) == (12, 3, 32)
    assert (description.dark_fields, description.flat_fields) == (3, 2)
    assert [frame.sequence for frame in frames] == list(range(17))
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), np.concatenate(stacks))
    assert [frame.kind for frame in frames[2:6:3]] == [FrameKind.DARK_FIELD, FrameKind.PROJECTION]
    np.testing.assert_allclose([frame.angle_rad for frame in frames[5:]], np.radians(DEGREES))
    assert not source.has_truth
    with pytest.raises(InputError, match="no ground truth"):
        source.truth()


def test_another_order_keeps_angle_and_pixels_together(path: Path) -> None:
    write_scan(path)
    with DataExchangeFile(path) as source:
        measured = {frame.angle_rad: frame.pixels for frame in source.frames()}
        for frame in source.frames(ViewOrder.BIT_REVERSED):
            if frame.kind is FrameKind.PROJECTION:
                np.testing.assert_array_equal(frame.pixels, measured[frame.angle_rad])


@pytest.mark.parametrize(
    ("units", "theta", "in_radians"),
    [
        ("degrees", DEGREES, np.radians(DEGREES)),
        (b"deg.", DEGREES, np.radians(DEGREES)),
        ("degrees", DEGREES / 100, np.radians(DEGREES / 100)),
        ("radians", np.radians(DEGREES), np.radians(DEGREES)),
        ("rad", DEGREES, DEGREES),
        (None, DEGREES, np.radians(DEGREES)),
        (None, np.radians(DEGREES), np.radians(DEGREES)),
    ],
)
def test_the_units_of_theta_are_honoured_or_its_range(
    path: Path, units: Any, theta: np.ndarray, in_radians: np.ndarray
) -> None:
    write_scan(path, units=units, exchange__theta=theta)
    with DataExchangeFile(path) as source:
        np.testing.assert_allclose(source.angles_rad, in_radians)


def test_angles_may_stand_with_the_rotation(path: Path) -> None:
    rotation = "process__acquisition__rotation__"
    steps = {
        f"{rotation}rotation_start": 10.0,
        f"{rotation}rotation_step": [0.5],
        f"{rotation}num_angles": 12,
    }
    with DataExchangeFile(write_scan(path, exchange__theta=None, **steps)) as source:
        np.testing.assert_allclose(source.angles_rad, np.radians(10 + 0.5 * np.arange(12)))
    steps[f"{rotation}num_angles"] = 13
    with pytest.raises(InputError, match="num_angles is 13"):
        DataExchangeFile(write_scan(path, exchange__theta=None, **steps))


def test_fields_may_be_one_value_of_the_file_or_of_the_user(path: Path) -> None:
    write_scan(path, exchange__data_white=None, process__acquisition__flat_fields__flat_field_value=240)
    with DataExchangeFile(path) as source:
        flats = [frame for frame in source.frames() if frame.kind is FrameKind.FLAT_FIELD]
        assert len(flats) == 1
        assert (flats[0].pixels == 240).all()
    write_scan(path, exchange__data_dark=None)
    with pytest.raises(InputError, match=r"no /exchange/data_dark: .*--dark-value"):
        DataExchangeFile(path)
    with DataExchangeFile(path, SourceOptions(dark_value=2.5)) as source:
        assert source.describe().pixel_type == "float32"
        assert (next(iter(source.frames())).pixels == 2.5).all()


def test_one_flat_field_may_have_two_axes(path: Path) -> None:
    with DataExchangeFile(write_scan(path, exchange__data_white=np.full((3, 32), 250, "u2"))) as source:
        assert source.describe().flat_fields == 1


@pytest.mark.parametrize(
    ("dtype", "pixel_type"),
    [
        ("u1", "uint8"),
        ("u2", "uint16"),
        (">u2", "uint16"),
        ("i2", "uint16"),
        ("u4", "uint16"),
        ("i8", "uint16"),
        ("f2", "float32"),
        ("f4", "float32"),
        (">f4", "float32"),
        ("f8", "float32"),
    ],
)
def test_pixels_of_other_types_are_converted_exactly(path: Path, dtype: str, pixel_type: str) -> None:
    data = np.arange(12 * 3 * 32).reshape(12, 3, 32) % 200
    fields = np.full((1, 3, 32), 220)
    write_scan(
        path,
        exchange__data=data.astype(dtype),
        exchange__data_white=fields.astype(dtype),
        exchange__data_dark=(fields * 0).astype(dtype),
    )
    with DataExchangeFile(path) as source:
        assert source.describe().pixel_type == pixel_type
        frames = [frame.pixels for frame in source.frames()]
    assert {frame.dtype.name for frame in frames} == {pixel_type}
    assert all(frame.dtype.isnative for frame in frames)
    np.testing.assert_array_equal(np.stack(frames[2:]), data)


def test_mixed_types_are_sent_as_the_one_that_holds_both(path: Path) -> None:
    write_scan(path, exchange__data_white=np.full((2, 3, 32), 240.5, "f4"))
    with DataExchangeFile(path) as source:
        assert source.describe().pixel_type == "float32"
        assert {frame.pixels.dtype.name for frame in source.frames()} == {"float32"}


def test_compressed_files_are_read(path: Path) -> None:
    data = np.arange(12 * 3 * 32, dtype="u2").reshape(12, 3, 32)
    write_scan(path, exchange__data=None)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "exchange/data", data=data, chunks=(4, 3, 32), **hdf5plugin.Bitshuffle(cname="lz4")
        )
    with DataExchangeFile(path) as source:
        np.testing.assert_array_equal(np.stack([frame.pixels for frame in source.frames()][5:]), data)


def changed(
    place: tuple[int, int, int], value: float, dtype: str = "f4", shape: Any = (12, 3, 32)
) -> np.ndarray:
    stack = np.full(shape, 150, dtype)
    stack[place] = value
    return stack


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exchange__data": None}, ["there is no /exchange/data"]),
        ({"exchange__data": np.zeros((12, 32), "u2")}, ["/exchange/data", "(12, 32)"]),
        ({"exchange__data": np.zeros((0, 3, 32), "u2")}, ["/exchange/data", "(0, 3, 32)"]),
        ({"exchange__data": np.zeros((12, 3, 32), "c8")}, ["/exchange/data", "complex64"]),
        ({"exchange__data": np.zeros((12, 3, 32), "S3")}, ["/exchange/data", "|S3"]),
        ({"exchange__data": None, "exchange__data__group": 1}, ["/exchange/data is a group"]),
        ({"exchange__theta": None}, ["/exchange/theta", "rotation_start"]),
        ({"exchange__theta": np.zeros(11)}, ["(11,)", "12 angles"]),
        ({"exchange__theta": changed((4,), np.nan, shape=12)}, ["/exchange/theta[4]", "nan"]),
        ({"exchange__theta": np.full(12, b"x")}, ["/exchange/theta"]),
        ({"exchange__data_white": np.zeros((2, 4, 32), "u2")}, ["data_white", "(2, 4, 32)", "(12, 3, 32)"]),
        ({"exchange__data_dark": np.zeros((2, 3, 31), "u2")}, ["data_dark", "(2, 3, 31)", "(12, 3, 32)"]),
        ({"exchange__data_white": None}, ["there is no /exchange/data_white", "--flat-value"]),
    ],
)
def test_a_file_that_is_no_scan_is_refused_at_once(
    path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    write_scan(path, **changes)
    with pytest.raises(InputError) as caught:
        DataExchangeFile(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exchange__data": changed((7, 1, 5), np.nan)}, ["/exchange/data[7]", "nan", "row 1, column 5"]),
        ({"exchange__data": changed((7, 1, 5), np.inf)}, ["/exchange/data[7]", "inf"]),
        (
            {"exchange__data_white": changed((1, 2, 3), np.nan, shape=(2, 3, 32))},
            ["/exchange/data_white[1]", "nan"],
        ),
        ({"exchange__data": changed((3, 0, 0), -1, "i4")}, ["/exchange/data[3]", "-1", "0 to 65535"]),
        ({"exchange__data": changed((3, 0, 0), 65536, "i4")}, ["/exchange/data[3]", "65536"]),
        ({"exchange__data": changed((3, 0, 0), 1e300, "f8")}, ["/exchange/data[3]", "float32"]),
    ],
)
def test_a_frame_that_no_detector_gives_is_named(
    path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    write_scan(path, **changes)
    with DataExchangeFile(path) as source, pytest.raises(InputError) as caught:
        list(source.frames())
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scan\.h5 cannot be read: No such file"):
        DataExchangeFile(path)
    with pytest.raises(InputError, match="Is a directory"):
        DataExchangeFile(tmp_path)
    with pytest.raises(InputError, match="not a path"):
        DataExchangeFile("a\0b")
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(InputError, match="not an HDF5 file"):
        DataExchangeFile(path)
    content = write_scan(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not an HDF5 file, or damaged"):
        DataExchangeFile(path)


def test_a_damaged_chunk_is_named_when_it_is_read(path: Path) -> None:
    write_scan(path, exchange__data=None)
    with h5py.File(path, "a") as file:
        made = file.create_dataset(
            "exchange/data", shape=(12, 3, 32), dtype="u2", chunks=(1, 3, 32), compression="gzip"
        )
        made[:] = 100
        made.id.write_direct_chunk((5, 0, 0), b"not compressed data")
    with (
        DataExchangeFile(path) as source,
        pytest.raises(InputError, match=r"/exchange/data\[5\] cannot be read"),
    ):
        list(source.frames())


def test_a_real_scan_is_read(shared_data: Path) -> None:
    with DataExchangeFile(shared_data / "tooth.h5") as source:
        description = source.describe()
        assert (description.projections, description.rows, description.columns) == (181, 2, 640)
        assert (description.flat_fields, description.dark_fields) == (10, 10)
        assert source.angles_rad.max() == pytest.approx(np.pi, abs=0.02)
        assert sum(1 for _ in source.frames()) == 201
