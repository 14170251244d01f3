"""HDF5 on a file that stops taking bytes: the error is told, the process lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.sinks.steady_file import SteadyFile

# a limit of the process stands for a full disk; in a process of its own, because a crash at exit is the point
PROGRAM = """
import resource, signal, sys
import numpy as np
from ministream.errors import OutputError
from ministream.sinks import write_volume
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
volume = np.random.default_rng(1).random((20, 50, 50), dtype=np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_volume(sys.argv[1], volume)
except OutputError as error:
    print(error)
    sys.exit(5)
"""


@pytest.mark.parametrize("limit", [0, 100, 3_000, 50_000, 150_000])
def test_a_volume_that_does_not_fit_is_an_error_and_no_crash(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "volume.h5"
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(limit)], check=False, capture_output=True, text=True
    )
    assert finished.returncode == 5, finished.stderr
    assert "File too large" in finished.stdout
    assert finished.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    values = np.arange(1000.0)
    with SteadyFile(tmp_path / "file.h5") as file:
        with h5py.File(file, "w") as hdf5:
            hdf5.create_dataset("values", data=values, chunks=(100,), compression="gzip")
            np.testing.assert_array_equal(hdf5["values"][()], values)
        file.check()
    with h5py.File(tmp_path / "file.h5") as hdf5:
        np.testing.assert_array_equal(hdf5["values"][()], values)


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError):
        SteadyFile(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
