"""The main job, end to end: real gateways, real TLS, real stages, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from PIL import Image

from support.processes import MarkedProcesses, verdict_of

SMALL = "phantom:columns=96,rows=4,projections=64"


def test_every_projection_is_sent_received_and_reconstructed_once(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    finished = processes.run("run", SMALL, "--rate", "0", "--out", tmp_path / "out", "--json")
    verdict = verdict_of(finished)
    assert processes.alive() == []
    assert verdict["complete"] is True
    assert (
        verdict["projections_sent"]
        == verdict["projections_received"]
        == verdict["projections_reconstructed"]
        == 64
    )
    assert verdict["encrypted"] is True
    # at least the projections' pixels went through the session
    assert verdict["bytes"] > 64 * 96 * 4 * 2
    assert verdict["setup_seconds"] > 0
    assert 0.5 < verdict["ssim"] <= 1
    assert (
        finished.stderr.strip()
        .splitlines()[-1]
        .startswith("64 projections sent = 64 received = 64 reconstructed")
    )

    with h5py.File(verdict["volume"]) as file:
        volume = file["/exchange/data"]
        assert volume.shape == (4, 96, 96)
        assert volume.dtype == np.float32
        assert np.isfinite(volume[()]).all()
        assert volume[()].max() > 0
        provenance = {**file.attrs, **volume.attrs}
        assert provenance["source"] == SMALL
        assert provenance["rotation_center_estimated"]
        assert provenance["rotation_center"] == pytest.approx(verdict["rotation_center"])
    with Image.open(verdict["picture"]) as picture:
        assert min(picture.size) >= 96
    assert json.loads(Path(verdict["quality_file"]).read_text())["ssim"] == verdict["ssim"]


def test_workers_and_channels_share_the_work_and_give_the_same_volume(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    volumes = []
    for workers, channels in ((1, 1), (3, 4)):
        verdict = verdict_of(
            processes.run(
                *("run", SMALL, "--rate", "0", "--center", "52.3", "--stripes", "none", "--json"),
                *("--workers", str(workers), "--channels", str(channels)),
                *("--out", tmp_path / str(workers)),
            )
        )
        assert verdict["complete"]
        with h5py.File(verdict["volume"]) as file:
            volumes.append(file["/exchange/data"][()])
    assert volumes[0].shape == volumes[1].shape
    np.testing.assert_allclose(volumes[0], volumes[1], atol=1e-3 * float(volumes[0].max()))


def test_a_rate_is_kept_and_a_given_centre_is_taken(processes: MarkedProcesses, tmp_path: Path) -> None:
    verdict = verdict_of(
        processes.run("run", SMALL, "--rate", "40", "--center", "50.5", "--out", tmp_path / "out", "--json")
    )
    assert verdict["rotation_center"] == 50.5
    assert verdict["stream_seconds"] >= 63 / 40


def test_a_real_scan_finds_its_centre_and_gives_a_tooth(
    processes: MarkedProcesses, tmp_path: Path, shared_data: Path
) -> None:
    verdict = verdict_of(
        processes.run("run", shared_data / "tooth.h5", "--rate", "0", "--out", tmp_path / "out", "--json")
    )
    assert verdict["complete"]
    assert verdict["projections_sent"] == 181
    assert verdict["rotation_center"] == pytest.approx(295, abs=1.5)
    assert verdict["ssim"] is None
    with h5py.File(verdict["volume"]) as file:
        tooth = file["/exchange/data"][0]
    # a tooth is dense within, and nothing is around it
    y, x = np.indices(tooth.shape) - (tooth.shape[0] - 1) / 2
    radius = np.hypot(x, y)
    assert tooth[radius < 150].mean() > 5 * abs(tooth[(radius > 280) & (radius < 315)].mean())


# ---------------------------------------------------------------------- bad input


def write_scan(path: Path, **changes: Any) -> Path:
    """A small APS Data Exchange file; None leaves a dataset out."""
    random = np.random.default_rng(1)
    datasets: dict[str, Any] = {
        "data": random.uniform(100, 200, (12, 3, 32)).astype("f4"),
        "data_white": np.full((2, 3, 32), 250, "f4"),
        "data_dark": np.full((2, 3, 32), 10, "f4"),
        "theta": np.linspace(0, 165, 12),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            if values is not None:
                file[f"exchange/{name}"] = values
        if datasets["theta"] is not None:
            file["exchange/theta"].attrs["units"] = "degrees"
    return path


def _with_nan() -> np.ndarray:
    data = np.full((12, 3, 32), 150, "f4")
    data[7, 1, 5] = np.nan
    return data


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": None}, "/exchange/data"),
        ({"data": np.zeros((12, 32), "f4")}, "(12, 32)"),
        ({"theta": np.zeros(5)}, "5"),
        ({"data_white": np.full((2, 4, 32), 250, "f4")}, "data_white"),
        ({"data": _with_nan()}, "7"),
        ({"theta": np.full(12, np.nan)}, "theta"),
    ],
    ids=["no-data", "two-dimensional", "theta-count", "flat-shape", "nan-pixel", "nan-angle"],
)
def test_a_bad_scan_is_one_clear_line_and_nothing_is_left(
    processes: MarkedProcesses, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    scan = write_scan(tmp_path / "scan.h5", **changes)
    finished = processes.run("run", scan, "--rate", "0", "--quiet", "--out", tmp_path / "out")
    assert finished.returncode == 3
    assert_one_line(finished, words)


def assert_one_line(finished: subprocess.CompletedProcess[str], words: str) -> None:
    lines = [line for line in finished.stderr.splitlines() if "error" in line]
    assert len(lines) == 1, finished.stderr
    assert lines[0].startswith("ministream: error: ")
    assert words in lines[0]
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""


def test_options_that_cannot_be_are_refused(processes: MarkedProcesses, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases: list[tuple[list[str], int, str]] = [
        ([str(tmp_path / "missing.h5")], 3, "missing.h5"),
        ([SMALL, "--workers", "5"], 3, "5 workers"),
        ([SMALL, "--data-server", "teleporter"], 3, "native"),
        (["phantom:columns=many"], 3, "columns"),
        ([SMALL, "--center", "1000"], 3, "not on the detector"),
        ([SMALL, "--center", "nan"], 2, "neither a column index nor auto"),
        ([SMALL, "--order", "backwards"], 2, "backwards"),
    ]
    for arguments, code, words in cases:
        finished = processes.run("run", *arguments, "--quiet", "--out", out)
        assert finished.returncode == code, finished.stderr
        assert_one_line(finished, words)


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    finished = processes.run("run", SMALL, "--quiet", "--out", tmp_path / "file" / "out")
    assert finished.returncode == 5
    assert_one_line(finished, "--out")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_clear_line(processes: MarkedProcesses, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "none", small], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        finished = processes.run("run", SMALL, "--rate", "0", "--quiet", "--out", small / "out")
    finally:
        subprocess.run(["umount", small], check=True)
    assert finished.returncode == 5
    assert_one_line(finished, "No space left")


# ---------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    "victim",
    ["daq", "scistream.cli.s2cs"],
    ids=["daq", "s2cs"],
)
def test_a_killed_program_is_named_and_everything_else_is_ended(
    processes: MarkedProcesses, tmp_path: Path, victim: str
) -> None:
    run = processes.start("run", SMALL, "--rate", "4", "--quiet", "--out", tmp_path / "out")
    processes.wait_until(lambda: processes.named("quality"))
    processes.named(victim)[0].kill()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 8, errors
    assert victim.rpartition(".")[2] in errors
    assert "SIGKILL" in errors
    assert processes.alive() == []


@pytest.mark.parametrize("victim", ["distribute", "reconstruct"])
def test_a_killed_distributor_or_worker_is_started_again_and_the_scan_goes_on(
    processes: MarkedProcesses, tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "out"
    run = processes.start("run", SMALL, "--rate", "20", "--workers", "2", "--json", "--out", out)
    # the picture of a moment in mid-scan: the quality stage has figures
    processes.wait_until(lambda: any(carries(one) for one in native_processes(processes)[1]))
    processes.named(victim)[0].kill()
    printed, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors
    verdict = json.loads(printed)
    assert verdict["complete"] is True
    assert (
        verdict["projections_sent"]
        == verdict["projections_received"]
        == verdict["projections_reconstructed"]
        == 64
    )
    assert verdict["programs_restarted"] == 1
    assert any(
        victim in warning and "is started again (1 of 3)" in warning for warning in verdict["warnings"]
    )
    assert "1 programs started again" in errors
    assert processes.alive() == []
    with h5py.File(verdict["volume"]) as file:
        assert file["exchange/data"].shape == (4, 96, 96)


def test_a_worker_that_is_killed_again_and_again_ends_the_run(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    run = processes.start("run", SMALL, "--rate", "2", "--quiet", "--out", tmp_path / "out")
    processes.wait_until(lambda: processes.named("quality"))
    for _ in range(4):
        for worker in processes.wait_until(lambda: processes.named("reconstruct")):
            worker.kill()
            processes.wait_until(lambda gone=worker: not gone.is_running() or gone.status() == "zombie")
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 8, errors
    assert "reconstruct 0" in errors
    assert "had been started again 3 times" in errors
    assert processes.alive() == []


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(
    processes: MarkedProcesses, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    run = processes.start("run", SMALL, "--rate", "4", "--quiet", "--out", tmp_path / "out")
    processes.wait_until(lambda: processes.named("quality"))
    run.send_signal(signum)
    out, errors = run.communicate(timeout=60)
    assert run.returncode == code, errors
    assert "Traceback" not in errors
    assert "does not end" not in errors
    assert out == ""
    assert processes.alive() == []


def test_everything_ends_when_the_run_itself_is_killed(processes: MarkedProcesses, tmp_path: Path) -> None:
    run = processes.start("run", SMALL, "--rate", "4", "--quiet", "--out", tmp_path / "out")
    processes.wait_until(lambda: processes.named("quality"))
    run.kill()
    run.communicate()
    processes.wait_until(lambda: not processes.alive(), timeout_s=30)


def native_processes(processes: MarkedProcesses) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The gateways' data servers: their supervisors, and their workers."""
    found = processes.named("scistream.dataserver.native")
    pids = {one.pid for one in found}
    workers = []
    for one in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.ppid() in pids:
                workers.append(one)
    return [one for one in found if one not in workers], workers


@pytest.mark.parametrize("killed", ["supervisors", "workers"])
def test_killed_data_servers_are_replaced_and_the_stream_goes_on(
    processes: MarkedProcesses, tmp_path: Path, killed: str
) -> None:
    run = processes.start("run", SMALL, "--rate", "20", "--json", "--out", tmp_path / "out")
    processes.wait_until(lambda: any(carries(worker) for worker in native_processes(processes)[1]))
    supervisors, workers = native_processes(processes)
    assert len(supervisors) == 2  # one for each gateway
    assert len(workers) >= 2
    for victim in supervisors if killed == "supervisors" else workers:
        victim.kill()
    out, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors
    verdict = json.loads(out)
    assert verdict["complete"] is True
    assert verdict["projections_sent"] == verdict["projections_reconstructed"] == 64
    for gateway in ("producer", "consumer"):
        assert any(
            f"s2cs {gateway}: " in line and "data server" in line and "killed by SIGKILL" in line
            for line in errors.splitlines()
        ), errors
    assert processes.alive() == []


def carries(worker: psutil.Process) -> bool:
    """Whether it has a connection."""
    try:
        return any(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections("tcp"))
    except psutil.NoSuchProcess:
        return False


def test_a_data_server_that_dies_again_and_again_is_what_the_run_complains_of(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    run = processes.start("run", SMALL, "--rate", "4", "--quiet", "--out", tmp_path / "out")
    processes.wait_until(lambda: processes.named("quality"))
    while run.poll() is None:
        for supervisor in native_processes(processes)[0]:
            with contextlib.suppress(psutil.NoSuchProcess):
                supervisor.kill()
        time.sleep(0.05)  # the interval of a poll
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 8, errors
    assert "data server" in errors
    assert processes.alive() == []


def test_a_control_server_that_hangs_for_a_while_does_not_disturb_the_stream(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    run = processes.start("run", SMALL, "--rate", "20", "--json", "--out", tmp_path / "out")
    processes.wait_until(lambda: processes.named("quality"))
    for server in processes.named("scistream.cli.s2cs"):
        server.suspend()
    # the last thing that is written before the gateways are asked again
    processes.wait_until((tmp_path / "out" / "quality.json").exists)
    for server in processes.named("scistream.cli.s2cs"):
        server.resume()
    out, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert json.loads(out)["complete"] is True


def test_modules_and_options_of_the_users_surroundings_do_not_disturb(
    processes: MarkedProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('a module of the user')")
    monkeypatch.setenv("MINISTREAM_DAQ_CONSUMERS", "2")
    monkeypatch.setenv("S2CS_START_AUTH", "none")
    monkeypatch.chdir(tmp_path)
    finished = processes.run("run", SMALL, "--rate", "0", "--out", "out", "--json")
    assert verdict_of(finished)["complete"] is True


def test_a_scan_without_beam_is_an_error(processes: MarkedProcesses, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.h5", data_white=np.full((2, 3, 32), 5, "f4"))
    finished = processes.run("run", scan, "--rate", "0", "--quiet", "--out", tmp_path / "out")
    assert finished.returncode == 3
    assert_one_line(finished, "nowhere brighter")


def test_what_a_stage_warns_of_is_told(processes: MarkedProcesses, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.h5")
    finished = processes.run("run", scan, "--rate", "0", "--json", "--out", tmp_path / "out")
    verdict = verdict_of(finished)
    assert verdict["rotation_center_estimated"] is False
    assert any("rotation centre could not be found" in warning for warning in verdict["warnings"])
    assert "warning: distribute: the rotation centre" in finished.stderr


def test_folders_of_killed_runs_are_swept(processes: MarkedProcesses, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    dead = scratch / "ministream-run-999999999-x"
    alive = scratch / f"ministream-run-{os.getpid()}-x"
    for folder in (dead, alive):
        folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        verdict_of(processes.run("run", SMALL, "--rate", "0", "--json", "--out", tmp_path / "out"))
    assert list(scratch.iterdir()) == [alive]
