"""Stacks in chunks: whatever the order, the frames are right and no chunk is decompressed twice."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from ministream.errors import InputError, OutputError
from ministream.sources import ViewOrder, view_order
from ministream.sources.hdf5 import DataExchangeFile
from ministream.sources.stack import Hdf5Stack

DATA = np.random.default_rng(3).integers(0, 60_000, (50, 6, 20)).astype("u2")
CHUNKS = [(1, 6, 20), (16, 6, 20), (7, 2, 20), (50, 1, 20), (8, 4, 9)]


def write(path: Path, chunks: tuple[int, ...] | None, **compression: Any) -> h5py.File:
    file = h5py.File(path, "w")
    file.create_dataset("data", data=DATA, chunks=chunks, **compression)
    return file


class CountedReads:
    """A dataset that counts how often each frame's pixels are fetched from the file."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.fetched = np.zeros(dataset.shape[0], float)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __getitem__(self, at: tuple[slice, slice]) -> Any:
        frames, rows = at
        part = self._dataset[frames, rows]
        self.fetched[frames] += part.shape[1] / self._dataset.shape[1]
        return part


@pytest.mark.parametrize("order", list(ViewOrder))
@pytest.mark.parametrize("chunks", [None, *CHUNKS])
def test_frames_are_those_of_the_file_in_every_order(
    tmp_path: Path, chunks: tuple[int, ...] | None, order: ViewOrder
) -> None:
    with write(tmp_path / "x.h5", chunks) as file:
        stack = Hdf5Stack(file["data"], "x")
        indices = [int(view) for view in view_order(len(DATA), order)]
        stack.prepare(indices)
        for index in indices:
            np.testing.assert_array_equal(stack.read(index), DATA[index])
        stack.close()


@pytest.mark.parametrize("order", list(ViewOrder))
@pytest.mark.parametrize("chunks", CHUNKS)
def test_every_chunk_is_read_once_in_every_order(
    tmp_path: Path, chunks: tuple[int, ...], order: ViewOrder
) -> None:
    with write(tmp_path / "x.h5", chunks, compression="gzip") as file:
        counted = CountedReads(file["data"])
        stack = Hdf5Stack(counted, "x")  # type: ignore[arg-type]
        indices = [int(view) for view in view_order(len(DATA), order)]
        stack.prepare(indices)
        for index in indices:
            stack.read(index)
        stack.close()
    np.testing.assert_allclose(counted.fetched, 1)


def test_the_first_frame_does_not_wait_for_the_whole_stack(tmp_path: Path) -> None:
    with write(tmp_path / "x.h5", (10, 6, 20), compression="gzip") as file:
        counted = CountedReads(file["data"])
        stack = Hdf5Stack(counted, "x")  # type: ignore[arg-type]
        stack.prepare([int(view) for view in view_order(len(DATA), ViewOrder.GOLDEN_ANGLE)])
        stack.read(0)
        assert counted.fetched.sum() == 10
        stack.close()


def test_the_temporary_file_is_gone_with_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with write(tmp_path / "x.h5", (50, 6, 20)) as file:
        stack = Hdf5Stack(file["data"], "x")
        before = set(os.listdir("/proc/self/fd"))
        stack.prepare([0, 49, 1, 48, 2])
        stack.read(0)
        stack.close()
        stack.close()
        assert set(os.listdir("/proc/self/fd")) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_room_for_the_temporary_file_is_said_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # a full disk needs root to be made; the answer of the system call is what matters
    monkeypatch.setattr("os.posix_fallocate", full)
    with write(tmp_path / "x.h5", (10, 6, 20)) as file:
        stack = Hdf5Stack(file["data"], "x")
        with pytest.raises(OutputError, match=r"No space left.*TMPDIR"):
            stack.prepare([int(view) for view in view_order(50, ViewOrder.BIT_REVERSED)])


def test_a_damaged_chunk_is_named_in_every_order(tmp_path: Path) -> None:
    with write(tmp_path / "x.h5", (10, 6, 20), **hdf5plugin.Blosc()) as file:
        file["data"].id.write_direct_chunk((20, 0, 0), b"not compressed data")
        stack = Hdf5Stack(file["data"], "x")
        for indices in (list(range(50)), [int(view) for view in view_order(50, ViewOrder.GOLDEN_ANGLE)]):
            stack.prepare(indices)
            with pytest.raises(InputError, match=r"x\[20:30\] cannot be read"):
                list(map(stack.read, indices))
        stack.close()


@pytest.mark.parametrize("order", list(ViewOrder))
def test_a_compressed_scan_plays_in_every_order(tmp_path: Path, order: ViewOrder) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        for name in ("data", "data_white", "data_dark"):
            file.create_dataset(
                f"exchange/{name}", data=DATA, chunks=(20, 3, 20), **hdf5plugin.Bitshuffle(cname="lz4")
            )
        file["exchange/theta"] = np.linspace(0, 180, 50, endpoint=False)
        file["exchange/theta"].attrs["units"] = "degrees"
    with DataExchangeFile(tmp_path / "scan.h5") as source:
        frames = list(source.frames(order))
        assert [frame.sequence for frame in frames] == list(range(150))
        for frame in frames[100:]:
            index = round(np.degrees(frame.angle_rad) / 3.6)
            np.testing.assert_array_equal(frame.pixels, DATA[index])
