"""Our distributor and our workers by the mini-app's protocol, each also with the test in the other part."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from support.processes import MarkedProcesses
from support.stage_process import Stage
from support.tmq_peers import Distributor, free_ports

SCAN = "phantom:columns=64,rows=5,projections=60,rings=0"
CENTER = ("--center", "36.8", "--stripes", "none")
WORKER = ("--algorithm", "sirt", "--threads", "1")


def slices(folder: Path, count: int) -> np.ndarray:
    found = {}
    for rank in range(count):
        with h5py.File(folder / f"part-{rank}.h5") as file:
            data = file["exchange/data"]
            found[int(data.attrs["slice_begin"])] = data[()]
    return np.concatenate([found[begin] for begin in sorted(found)])


def test_two_of_our_workers_at_our_distributor_make_the_same_volume_by_either_protocol(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    volumes = []
    for protocol in ("flows", "tmq"):
        folder = tmp_path / protocol
        folder.mkdir()
        daq = Stage(processes, "daq", SCAN)
        port = free_ports(2)
        served = ("--tmq", f"tcp://127.0.0.1:{port}") if protocol == "tmq" else ("--workers", "2")
        address = daq.until("ready")["address"]
        distributor = Stage(processes, "distribute", "--connect", address, *CENTER, *served)
        listening = distributor.until("ready")["address"]
        workers = []
        for rank in range(2):
            where: tuple[str, ...] = ("--connect", listening)
            if protocol == "tmq":
                where = ("--dest-host", "127.0.0.1", "--dest-port", str(port))
                where += ("--rank", str(rank), "--ranks", "2")
            output = ("--output", str(folder / f"part-{rank}.h5"))
            workers.append(Stage(processes, "reconstruct", *where, *WORKER, *output))
        assert distributor.done()["projections_received"] == 60
        assert daq.done()["projections_sent"] == 60
        assert [worker.done()["projections_reconstructed"] for worker in workers] == [60, 60]
        volumes.append(slices(folder, 2))
    assert volumes[0].shape == (5, 64, 64)
    np.testing.assert_allclose(volumes[1], volumes[0], atol=1e-4 * float(volumes[0].max()))


def test_our_worker_at_a_distributor_of_the_mini_app(processes: MarkedProcesses, tmp_path: Path) -> None:
    angles = np.linspace(0, np.pi, 40, endpoint=False)
    t = np.arange(48) - 23.5
    row = 0.02 * 2 * np.sqrt(np.maximum(0, 15.0**2 - t**2))
    # its centre is counted from the edge of column 0
    views = [(number, theta, 24.0, np.tile(row, (2, 1))) for number, theta in enumerate(angles)]
    distributor = Distributor(free_ports(1), views)
    distributor.start()
    try:
        where = ("--dest-host", "127.0.0.1", "--dest-port", str(distributor.port))
        worker = Stage(processes, "reconstruct", *where, "--output", tmp_path / "part-0.h5", "--threads", "1")
        done = worker.done()
    finally:
        distributor.stop()
    assert distributor.failure is None
    assert (done["projections_reconstructed"], done["rotation_center"]) == (40, 23.5)
    disc = slices(tmp_path, 1)[0]
    y, x = np.indices(disc.shape) - 23.5
    assert abs(disc[np.hypot(x, y) < 12].mean() - 0.02) < 0.001
    assert disc[(np.hypot(x, y) > 18) & (np.hypot(x, y) < 23)].mean() < 0.002


def test_an_address_that_others_can_reach_needs_leave(processes: MarkedProcesses) -> None:
    finished = processes.run(
        "distribute", "--connect", "tcp://127.0.0.1:1", "--tmq", "tcp://0.0.0.0:5560", "--json"
    )
    assert finished.returncode == 3
    assert "has no encryption: give --insecure" in finished.stderr
