"""What a worker gives away: files as the mini-app's, slices by EPICS; options that do not fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ministream.sinks import read_volume
from support.detectors import loopback
from support.processes import MarkedProcesses
from support.stage_process import Stage

ROWS, COLUMNS, PROJECTIONS = 4, 48, 60
SCAN = f"phantom:columns={COLUMNS},rows={ROWS},projections={PROJECTIONS},photons=100000"
MIDDLE = (COLUMNS - 1) / 2

VIEWER = """
import json, sys, time, pvaccess as pva
channel = pva.Channel(sys.argv[1])
for _ in range(600):
    try:
        image = channel.get("field()").toDict()
        break
    except pva.PvaException:
        time.sleep(0.1)
value = image["value"][0]
print(json.dumps(dict(
    sizes=[one["size"] for one in image["dimension"]],
    count=len(value[next(iter(value))]),
    attributes={one["name"]: one["value"][0]["value"] for one in image["attribute"]},
)))
"""


def distribute(processes: MarkedProcesses, *options: str, rate: float = 0) -> Stage:
    daq = Stage(processes, "daq", SCAN, "--rate", f"{rate:g}")
    return Stage(
        processes,
        *("distribute", "--connect", daq.until("ready")["address"], "--stripes", "none"),
        *("--center", str(MIDDLE), *options),
    )


def test_sirt_takes_the_mini_apps_options_and_writes_its_files(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    distributor = distribute(processes, "--tmq", "tcp://127.0.0.1:0")
    host, port = distributor.until("ready")["tmq_address"].removeprefix("tcp://").split(":")
    # the mini-app counts from the edge: half the columns is the middle
    options = (
        f"--dest-host {host} --dest-port {port} --window-length 16 --window-step 4 --window-iter 1 -t 1"
        f" --write-freq 5 --pub-freq 10 --pub-addr tcp://127.0.0.1:0 -r /recon -c {COLUMNS / 2}"
    )
    worker = Stage(
        processes,
        "sirt",
        *options.split(),
        *("--recon-output-dir", tmp_path, "-o", tmp_path / "output.h5"),
    )
    done = worker.done()
    distributor.done()
    assert done["rotation_center"] == MIDDLE
    assert done["projections_reconstructed"] == PROJECTIONS
    assert sorted(path.name for path in tmp_path.glob("*-recon.h5")) == [
        f"{number:06d}-recon.h5" for number in (0, 5, 10)
    ]
    with h5py.File(tmp_path / "000010-recon.h5") as file:
        assert file["recon"].shape == (ROWS, COLUMNS, COLUMNS)
        newest = file["recon"][()]
    volume, attributes = read_volume(tmp_path / "output.h5")
    assert (attributes["algorithm"], attributes["window"], attributes["step"]) == ("sirt", 16, 4)
    assert attributes["complete"]
    assert np.abs(volume - newest).max() < np.abs(volume).max()


def test_a_slice_is_seen_by_epics_while_the_scan_goes_on(
    processes: MarkedProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in loopback().items():
        monkeypatch.setenv(name, value)
    distributor = distribute(processes, rate=6)
    address = distributor.until("ready")["address"]
    worker = Stage(
        processes, "reconstruct", "--connect", address, "--threads", "1", "--publish-pva", "T:Recon"
    )
    worker.until("progress")
    viewed = subprocess.run(
        [sys.executable, "-c", VIEWER, "T:Recon"], capture_output=True, text=True, check=True, timeout=60
    )
    image = json.loads(viewed.stdout)
    assert image["sizes"] == [COLUMNS, COLUMNS]
    assert image["count"] == COLUMNS**2
    assert image["attributes"]["SliceIndex"] == ROWS // 2
    assert 0 < image["attributes"]["Projections"] <= PROJECTIONS
    assert image["attributes"]["RotationCenter"] == MIDDLE
    worker.done()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "one of --connect and --dest-host is needed"),
        ("--connect tcp://127.0.0.1:9 --dest-host x", "one of --connect and --dest-host is needed"),
        ("--connect tcp://127.0.0.1:9 --write-every 5", "--write-every needs --output"),
        ("--dest-host x --checkpoint kept", "--checkpoint does not go with --dest-host"),
        ("--connect tcp://127.0.0.1:9 --memory 0", "is nothing"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    processes: MarkedProcesses, options: str, message: str
) -> None:
    done = processes.run("reconstruct", *options.split())
    assert done.returncode == 2
    assert message in done.stderr
