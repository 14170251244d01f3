"""Volumes in HDF5: what readers find, whole or not at all, put together from parts, errors with advice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.cli.reconstruct import COMPRESSIONS as cli_compressions
from ministream.errors import InputError, OutputError
from ministream.sinks import COMPRESSIONS, VolumeWriter, merge_volumes, read_volume, write_volume

VOLUME = np.random.default_rng(1).normal(size=(5, 8, 8)).astype(np.float32)


def test_any_reader_of_data_exchange_finds_the_volume(tmp_path: Path) -> None:
    path = tmp_path / "volume.h5"
    write_volume(path, VOLUME, attributes={"source": "scan.h5", "rotation_center": 4.5, "truth": None})
    with h5py.File(path) as file:
        dataset = file["/exchange/data"]
        assert dataset.dtype == np.float32
        assert dataset.chunks == (1, 8, 8)
        assert dataset.compression == "gzip"
        np.testing.assert_array_equal(dataset[()], VOLUME)
        assert dataset.attrs["source"] == "scan.h5"
        assert dataset.attrs["rotation_center"] == 4.5
        assert dataset.attrs["created_by"].startswith("ministream ")
        assert "truth" not in dataset.attrs
        assert file["implements"].asstr()[()] == "exchange"
    volume, attributes = read_volume(path)
    np.testing.assert_array_equal(volume, VOLUME)
    assert attributes["rotation_center"] == 4.5


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_gives_back_what_was_written(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "volume.h5"
    smooth = np.cumsum(VOLUME, axis=2).round(1)
    write_volume(path, [smooth[:2], smooth[2:]], compression=compression, dataset="/data")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["data"][()], smooth)
        filters = file["data"]._filters
        assert bool(filters) == (compression != "none")
        assert file["data"].attrs["complete"]
        assert "exchange" not in file


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gzip, zstd, lz4, none"):
        write_volume(tmp_path / "v.h5", VOLUME, compression="zip")
    assert not list(tmp_path.iterdir())
    assert tuple(COMPRESSIONS) == cli_compressions


def test_an_older_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "volume.h5"
    path.write_text("older")
    write_volume(path, VOLUME)
    np.testing.assert_array_equal(read_volume(path)[0], VOLUME)
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "volume.h5"
    path.write_text("older")

    def interrupted() -> None:
        with VolumeWriter(path, (5, 8, 8)) as writer:
            writer.write(0, VOLUME[:2])
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        interrupted()
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_slabs_may_come_in_any_order(tmp_path: Path) -> None:
    with VolumeWriter(tmp_path / "v.h5", (5, 8, 8)) as writer:
        writer.write(3, VOLUME[3:])
        writer.write(0, VOLUME[:3])
        for begin, slices in ((3, VOLUME[:3]), (-1, VOLUME[:1]), (0, VOLUME[:, :4]), (0, VOLUME[0])):
            with pytest.raises(InputError, match="do not fit"):
                writer.write(begin, slices)
    np.testing.assert_array_equal(read_volume(tmp_path / "v.h5")[0], VOLUME)


@pytest.mark.parametrize("slab_bytes", [1, 600, 64 << 20])
def test_parts_make_one_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slab_bytes: int) -> None:
    monkeypatch.setattr("ministream.sinks.volume._SLAB_BYTES", slab_bytes)
    parts = []
    for begin, end in ((3, 5), (0, 2), (2, 3)):
        parts.append(tmp_path / f"part-{begin}.h5")
        write_volume(parts[-1], VOLUME[begin:end], attributes={"slice_begin": begin})
    merge_volumes(tmp_path / "whole.h5", parts, attributes={"source": "x"})
    volume, attributes = read_volume(tmp_path / "whole.h5")
    np.testing.assert_array_equal(volume, VOLUME)
    assert attributes["source"] == "x"
    assert "slice_begin" not in attributes


@pytest.mark.parametrize("begins", [(0, 3), (0, 1), (1, 3), (0, 0)])
def test_parts_with_gaps_or_overlaps_are_refused(tmp_path: Path, begins: tuple[int, int]) -> None:
    parts = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for part, begin in zip(parts, begins, strict=True):
        write_volume(part, VOLUME[:2], attributes={"slice_begin": begin})
    with pytest.raises(InputError, match=r"\.h5 holds slices from"):
        merge_volumes(tmp_path / "whole.h5", parts)
    assert not (tmp_path / "whole.h5").exists()


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not of shape"):
        write_volume(tmp_path / "v.h5", VOLUME[0])
    with pytest.raises(InputError, match="no parts"):
        merge_volumes(tmp_path / "v.h5", [])
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(tmp_path / "v.h5")
    (tmp_path / "v.h5").write_text("text")
    with pytest.raises(InputError, match="not an HDF5 file"):
        read_volume(tmp_path / "v.h5")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["exchange/data"] = VOLUME[0]
    with pytest.raises(InputError, match="no volume"):
        read_volume(tmp_path / "w.h5")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "v.h5"
    with pytest.raises(OutputError, match=r"missing/v\.h5: No such file or directory; make its folder"):
        write_volume(path, VOLUME)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied; choose a folder"):
        write_volume(tmp_path / "v.h5", VOLUME)


@pytest.mark.parametrize("older", [True, False])
def test_a_full_disk_is_our_error_and_leaves_no_half_file(tmp_path: Path, older: bool) -> None:
    """A limit of the file's size stands for the disk's: the same calls fail, in a process of their own."""
    path = tmp_path / "volume.h5"
    if older:
        path.write_text("older")
    code = f"""
import resource, numpy as np
from ministream.errors import OutputError
from ministream.sinks import write_volume
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
volume = np.random.default_rng(1).normal(size=(16, 128, 128)).astype(np.float32)
try:
    write_volume({str(path)!r}, volume)
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"cannot write {path}: File too large; raise the limit" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == (["volume.h5"] if older else [])
    if older:
        assert path.read_text() == "older"
