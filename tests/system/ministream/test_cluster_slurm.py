"""Reconstruction workers in jobs of a real Slurm: one node, on loopback."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from ministream.transport import LinkKey
from support.cluster import ClusterScan
from support.processes import MarkedProcesses, verdict_of
from support.slurm import PROGRAMS, Slurm, slurm
from support.undisturbed import ROWS, undisturbed_volume

__all__ = ["slurm"]

pytestmark = [pytest.mark.peer(*PROGRAMS), pytest.mark.timeout(240)]

JOBS = ("--cluster-host", "127.0.0.1", "--cores", "1", "--memory", "500MB", "--walltime", "10:00")


@pytest.fixture(scope="module")
def undisturbed() -> np.ndarray:
    return undisturbed_volume()


def test_a_run_has_its_workers_in_jobs(processes: MarkedProcesses, slurm: Slurm, tmp_path: Path) -> None:
    finished = processes.run(
        *("run", "phantom:columns=96,rows=4,projections=64", "--rate", "0", "--workers", "2"),
        *("--cluster", "slurm", *JOBS, "--partition", "short", "--out", tmp_path / "out", "--json"),
        environment=slurm.environment,
        timeout_s=200,
    )
    verdict = verdict_of(finished)
    assert verdict["complete"]
    assert verdict["workers"] == 2
    assert verdict["programs_restarted"] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "quality.json",
        "slices.png",
        "volume.h5",
    ]
    assert slurm.jobs() == []


def test_a_job_that_is_cancelled_is_replaced_and_every_projection_counts_once(
    processes: MarkedProcesses, slurm: Slurm, tmp_path: Path, undisturbed: np.ndarray
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=6)
    scan.launch("slurm", *JOBS, environment=slurm.environment)
    scan.until_received(10)
    before = slurm.jobs("R")
    assert len(before) == 2
    slurm.command("scancel", before[0])
    processes.wait_until(lambda: len(set(slurm.jobs("R")) - set(before)) == 1)
    summary = scan.done(undisturbed)
    assert summary["restarts"] == 1
    assert [part["slice_count"] for part in scan.received["parts"]] == [ROWS // 2] * 2
    assert "was lost with its Dask worker" in scan.launcher.log
    processes.wait_until(lambda: slurm.jobs() == [])


def test_ctrl_c_cancels_the_jobs(processes: MarkedProcesses, slurm: Slurm, tmp_path: Path) -> None:
    scan = ClusterScan(processes, tmp_path, rate=5)
    scan.launch("slurm", *JOBS, environment=slurm.environment)
    scan.until_received(5)
    assert len(slurm.jobs("R")) == 2
    scan.launcher.process.send_signal(signal.SIGINT)
    assert scan.launcher.end() == 130, (scan.launcher.log, scan.launcher.events)
    assert "Traceback" not in scan.launcher.log
    assert scan.left(["run.key"]) == []
    processes.wait_until(lambda: slurm.jobs() == [])
    for stage in (scan.distributor, scan.daq):
        stage.process.terminate()
        stage.end()
    processes.wait_until(lambda: processes.alive() == [])


def test_ctrl_c_ends_a_run_and_its_jobs(processes: MarkedProcesses, slurm: Slurm, tmp_path: Path) -> None:
    run = processes.start(
        *("run", "phantom:columns=96,rows=4,projections=400", "--rate", "5", "--workers", "2", "--quiet"),
        *("--cluster", "slurm", *JOBS, "--out", tmp_path / "out"),
        environment=slurm.environment,
    )
    # it has begun when there are distributor, two workers in jobs, and the stage that watches them
    processes.wait_until(lambda: processes.named("quality"))
    assert len(slurm.jobs("R")) == 2
    run.send_signal(signal.SIGINT)
    _, log = run.communicate(timeout=60)
    assert (run.returncode, log) == (130, "")
    processes.wait_until(lambda: slurm.jobs() == [])
    processes.wait_until(lambda: processes.alive() == [])
    assert list((tmp_path / "out").iterdir()) == []


def test_jobs_of_a_launcher_that_was_killed_end_by_themselves(
    processes: MarkedProcesses, slurm: Slurm, tmp_path: Path
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=5)
    scan.launch("slurm", *JOBS, environment=slurm.environment)
    scan.launcher.process.kill()
    scan.launcher.end()
    processes.wait_until(lambda: slurm.jobs() == [])
    assert scan.workers() == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--partition", "nowhere", *JOBS), 8, "sbatch refuses the job"),
        ((), 3, "Give --cores and --memory"),
        ((*JOBS, "--memory", "64GB"), 8, "sbatch refuses the job"),
        # the only node has less than what both jobs want at once
        ((*JOBS, "--cores", "2", "--start-timeout", "10"), 4, "of 2 Dask workers 1 are there"),
    ],
    ids=["no-such-partition", "no-size", "no-such-node", "no-room"],
)
def test_what_slurm_cannot_give_is_told_in_one_line(
    processes: MarkedProcesses, slurm: Slurm, tmp_path: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    key = tmp_path / "run.key"
    LinkKey.new().write(key)
    finished = processes.run(
        *("reconstruct", "--connect", "tcp://127.0.0.1:9", "--connect-timeout", "60", "--link-key", key),
        *("--dask", "slurm", "--workers", "2", "--output", tmp_path / "volume.h5", *options),
        environment=slurm.environment,
    )
    assert finished.returncode == code, finished.stderr
    assert words in finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert list(tmp_path.iterdir()) == [key]
    processes.wait_until(lambda: slurm.jobs() == [])


def test_dask_jobqueues_own_configuration_counts(
    processes: MarkedProcesses, slurm: Slurm, tmp_path: Path
) -> None:
    configuration = tmp_path / "dask"
    configuration.mkdir()
    (configuration / "jobqueue.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 1\n    memory: 400MB\n    queue: short\n"
        "    job-extra-directives: ['--comment=from-the-file']\n"
    )
    scan = ClusterScan(processes, tmp_path, rate=0)
    scan.launch(
        *("slurm", "--cluster-host", "127.0.0.1", "--job-extra=--nice=7"),
        environment={**slurm.environment, "DASK_CONFIG": str(configuration)},
    )
    job = slurm.command("scontrol", "show", "job", slurm.jobs("R")[0])
    assert "Comment=from-the-file" in job
    assert "Nice=7" in job
    assert "Partition=short" in job
    scan.launcher.done()
    processes.wait_until(lambda: slurm.jobs() == [])
