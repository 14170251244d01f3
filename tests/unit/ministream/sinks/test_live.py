"""A volume that another process reads while it is written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.errors import InputError, OutputError
from ministream.sinks import LiveVolume, read_volume, write_volume
from support.small_disk import fill, small_disk

READER = """
import json, sys, h5py, numpy as np
with h5py.File(sys.argv[1], "r", swmr=True) as file:
    data, made_from, serial = file["exchange/data"], file["live/projections"], file["live/serial"]
    for _ in sys.stdin:
        while True:
            for one in (data, made_from, serial):
                one.refresh()
            before = int(serial[0])
            values = data[()]
            serial.refresh()
            if before % 2 == 0 and int(serial[0]) == before:
                break
        means = values.mean(axis=(1, 2)).tolist()
        print(json.dumps([means, made_from[()].tolist(), bool(data.attrs["complete"])]), flush=True)
"""


def volume(*values: float) -> np.ndarray:
    return np.stack([np.full((16, 16), value, np.float32) for value in values])


class Reader:
    """Another process that has the file open."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def look(self) -> tuple[list[float], list[int], bool]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        means, made_from, complete = json.loads(self.process.stdout.readline())
        return means, made_from, complete

    def close(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


def test_another_process_sees_each_state_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "part.h5"
    live = LiveVolume(path, (3, 16, 16), attributes={"slice_begin": 4, "rotation_center": None})
    size = path.stat().st_size
    reader = Reader(path)
    try:
        assert reader.look() == ([0, 0, 0], [0, 0, 0], False)
        live.write([volume(1, 2, 3)], [10])
        assert reader.look() == ([1, 2, 3], [10, 10, 10], False)
        live.write([volume(4), volume(5, 6)], [20, 15])
        assert reader.look() == ([4, 5, 6], [20, 15, 15], False)
        for count in range(100):
            live.write([volume(count, count, count)], [count])
        assert path.stat().st_size == size
        live.close()
        # who has it open keeps what there was
        write_volume(path, volume(7, 8, 9), attributes={"slice_begin": 4})
        assert reader.look()[0] == [99, 99, 99]
    finally:
        reader.close()
    result, attributes = read_volume(path)
    np.testing.assert_array_equal(result, volume(7, 8, 9))
    assert attributes["complete"]


def test_it_is_not_taken_for_a_result(tmp_path: Path) -> None:
    path = tmp_path / "part.h5"
    live = LiveVolume(path, (1, 16, 16))
    live.write([volume(1)], [1])
    with pytest.raises(InputError, match="not complete"):
        subprocess_read(path)
    live.close()
    with pytest.raises(InputError, match="not complete"):
        read_volume(path)


def subprocess_read(path: Path) -> None:
    """Read it where it is not open for writing."""
    code = f"from ministream.sinks import read_volume; read_volume({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode
    raise InputError(done.stderr.splitlines()[-1])


def test_what_a_killed_worker_has_left_can_be_looked_at_but_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "part.h5"
    code = f"""
import os, signal, numpy as np
from pathlib import Path
from ministream.sinks import LiveVolume
live = LiveVolume(Path({str(path)!r}), (2, 16, 16))
live.write([np.full((2, 16, 16), 3, np.float32)], [9])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="not complete"):
        read_volume(path)
    with h5py.File(path, "r", swmr=True) as file:
        np.testing.assert_array_equal(file["exchange/data"][()], volume(3, 3))
    LiveVolume(path, (1, 16, 16)).close()


def test_other_slices_are_refused(tmp_path: Path) -> None:
    live = LiveVolume(tmp_path / "part.h5", (2, 16, 16))
    with pytest.raises(InputError, match="for the 2 slices"):
        live.write([volume(1)], [1])
    live.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_full_disk_is_told_at_the_beginning_and_never_later(tmp_path: Path, moment: str) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if moment == "before":
            fill(disk)
            with pytest.raises(OutputError, match="No space left on device"):
                LiveVolume(disk / "part.h5", (4, 16, 16))
            assert not (disk / "part.h5").exists()
            return
        live = LiveVolume(disk / "part.h5", (4, 16, 16))
        fill(disk)
        for count in range(20):
            live.write([volume(count, 1, 2, 3)], [count])
        live.close()
        with h5py.File(disk / "part.h5", "r", swmr=True) as file:
            np.testing.assert_array_equal(file["exchange/data"][()], volume(19, 1, 2, 3))
