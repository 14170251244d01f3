"""Reconstruction workers that Dask places: real schedulers, nannies, workers, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from ministream.transport import LinkKey
from support.cluster import ClusterScan
from support.processes import MarkedProcesses, verdict_of
from support.stage_process import Stage
from support.undisturbed import ROWS, undisturbed_volume

pytestmark = pytest.mark.timeout(240)

SMALL = "phantom:columns=96,rows=4,projections=64"


@pytest.fixture(scope="module")
def undisturbed() -> np.ndarray:
    return undisturbed_volume()


# ---------------------------------------------------------------------- run --cluster local


def test_a_run_has_its_workers_in_dask_workers_of_this_host(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    finished = processes.run(
        *("run", SMALL, "--rate", "0", "--workers", "2", "--cluster", "local"),
        *("--out", tmp_path / "out", "--json"),
        timeout_s=200,
    )
    verdict = verdict_of(finished)
    assert verdict["complete"]
    assert verdict["encrypted"]
    assert verdict["programs_restarted"] == 0
    assert verdict["ssim"] > 0.5
    assert verdict["warnings"] == []
    assert "distributed" not in finished.stderr, "Dask's own log is not for users"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "quality.json",
        "slices.png",
        "volume.h5",
    ]
    assert processes.alive() == []


@pytest.mark.parametrize("sent_to", ["the program", "the terminal's processes"])
def test_ctrl_c_ends_a_run_on_a_cluster_and_leaves_nothing(
    processes: MarkedProcesses, tmp_path: Path, sent_to: str
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=10)
    scan.launch("local")
    scan.until_received(5)
    launcher = psutil.Process(scan.launcher.process.pid)
    if sent_to == "the program":
        targets = [launcher]
    else:
        group = os.getpgid(launcher.pid)
        family = [launcher, *launcher.children(recursive=True)]
        targets = [process for process in family if os.getpgid(process.pid) == group]
        assert len(targets) > 2, "Dask workers are in the launcher's group"
    for target in targets:
        target.send_signal(signal.SIGINT)
    assert scan.launcher.end() == 130
    assert "Traceback" not in scan.launcher.log
    assert scan.workers() == []
    assert scan.left(["run.key"]) == []
    # what is not the launcher's goes on, until somebody ends it
    assert scan.distributor.process.poll() is None
    for stage in (scan.distributor, scan.daq):
        stage.process.terminate()
        stage.end()
    assert processes.alive() == []


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("killed", ["the worker", "its Dask worker"])
def test_a_killed_worker_is_started_again_and_every_projection_counts_once(
    processes: MarkedProcesses, tmp_path: Path, undisturbed: np.ndarray, killed: str
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=8)
    scan.launch("local")
    scan.until_received(20)
    first, second = scan.workers()
    dask_worker = first.parent()
    assert dask_worker is not None
    (first if killed == "the worker" else dask_worker).kill()
    summary = scan.done(undisturbed)
    assert summary["restarts"] == 1
    # it had slices again
    assert [part["slice_count"] for part in scan.received["parts"]] == [ROWS // 2] * 2
    assert "is started again (1 of 3)" in scan.launcher.log
    assert ("was ended by SIGKILL" if killed == "the worker" else "was lost with its Dask worker") in (
        scan.launcher.log
    )
    assert not first.is_running()
    assert not second.is_running()
    assert processes.alive() == []


def test_a_worker_that_is_killed_again_and_again_ends_the_run_with_a_clear_message(
    processes: MarkedProcesses, tmp_path: Path
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=5)
    scan.launch("local")
    scan.until_received(5)
    victim, other = scan.workers()
    seen = {victim.pid, other.pid}

    def new_one() -> psutil.Process | None:
        return next((one for one in scan.workers() if one.pid not in seen), None)

    for _ in range(3):
        victim.kill()
        victim = processes.wait_until(new_one)
        seen.add(victim.pid)
    victim.kill()
    assert scan.launcher.end() == 8
    assert "it had been started again 3 times" in scan.launcher.log
    for stage in (scan.distributor, scan.daq):
        stage.process.terminate()
        stage.end()
    assert processes.alive() == []


# ---------------------------------------------------------------------- a scheduler that runs already


class DaskProcesses:
    """A Dask scheduler and workers that somebody else has started, with TLS."""

    def __init__(self, processes: MarkedProcesses, folder: Path) -> None:
        from distributed.security import Security

        made = Security.temporary()
        self._processes = processes
        self.environment = {
            "DASK_LOGGING__DISTRIBUTED": "warning",
            "DASK_TEMPORARY_DIRECTORY": str(folder),
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": self._write(folder / "ca", made.tls_ca_file),
        }
        for role in ("CLIENT", "SCHEDULER", "WORKER"):
            for part, content in (("CERT", made.tls_client_cert), ("KEY", made.tls_client_key)):
                path = self._write(folder / f"{role}-{part}", content)
                self.environment[f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part}"] = path
        self._file = folder / "scheduler.json"
        self.scheduler = self._start(
            *("scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0"),
            *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self._file)),
        )
        processes.wait_until(lambda: self._file.exists() and self._file.read_text().strip().endswith("}"))
        self.address = str(json.loads(self._file.read_text())["address"])
        assert self.address.startswith("tls://")

    @staticmethod
    def _write(path: Path, content: str) -> str:
        path.write_text(content)
        path.chmod(0o600)
        return str(path)

    def _start(self, *arguments: str) -> psutil.Popen:
        return self._processes.start(*arguments, environment=self.environment, module="dask")

    def add_worker(self, *options: str) -> psutil.Popen:
        return self._start(
            *("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1", *options),
            *("--dashboard-address", "127.0.0.1:0"),
        )


@pytest.fixture
def dask(processes: MarkedProcesses, tmp_path: Path) -> DaskProcesses:
    folder = tmp_path.parent / f"{tmp_path.name}-dask"
    folder.mkdir()
    return DaskProcesses(processes, folder)


def test_at_a_running_scheduler_a_spare_dask_worker_takes_a_lost_ones_place(
    processes: MarkedProcesses, dask: DaskProcesses, tmp_path: Path, undisturbed: np.ndarray
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=30)
    for _ in range(3):
        dask.add_worker("--no-nanny")
    scan.launch(dask.address, environment=dask.environment)
    scan.until_received(30)
    victim = scan.workers()[0].parent()
    assert victim is not None
    victim.kill()
    assert scan.done(undisturbed)["restarts"] == 1
    assert scan.workers() == []
    assert dask.scheduler.poll() is None, "it is somebody else's"


def test_workers_of_a_launcher_that_was_killed_end_by_themselves(
    processes: MarkedProcesses, dask: DaskProcesses, tmp_path: Path
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=5)
    for _ in range(2):
        dask.add_worker("--no-nanny")
    scan.launch(dask.address, environment=dask.environment)
    scan.until_received(5)
    assert len(scan.workers()) == 2
    scan.launcher.process.kill()
    scan.launcher.end()
    processes.wait_until(lambda: scan.workers() == [])


def test_a_scheduler_that_goes_is_the_end_with_a_clear_message(
    processes: MarkedProcesses, dask: DaskProcesses, tmp_path: Path
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=5)
    for _ in range(2):
        dask.add_worker("--no-nanny")
    scan.launch(dask.address, environment=dask.environment)
    scan.until_received(5)
    dask.scheduler.kill()
    assert scan.launcher.end() == 4, scan.launcher.log
    assert "the Dask scheduler has gone" in scan.launcher.log
    processes.wait_until(lambda: scan.workers() == [])


def test_too_few_dask_workers_are_told(
    processes: MarkedProcesses, dask: DaskProcesses, tmp_path: Path
) -> None:
    scan = ClusterScan(processes, tmp_path, rate=5)
    dask.add_worker("--no-nanny")
    finished = processes.run(
        *("reconstruct", "--connect", scan.address, "--link-key", scan.key, "--dask", dask.address),
        *("--workers", "2", "--start-timeout", "4"),
        environment=dask.environment,
    )
    assert finished.returncode == 4
    assert "of 2 Dask workers 1 are there, and no other has come for 4 s" in finished.stderr


# ---------------------------------------------------------------------- keys


@pytest.mark.parametrize("key", ["another", "none"])
def test_a_worker_without_the_distributors_key_is_told_so(
    processes: MarkedProcesses, tmp_path: Path, key: str
) -> None:
    scan = ClusterScan(processes, tmp_path)
    other = tmp_path / "other.key"
    LinkKey.new().write(other)
    options = () if key == "none" else ("--link-key", other)
    worker = Stage(processes, "reconstruct", "--connect", scan.address, "--connect-timeout", "3", *options)
    assert worker.end() == 4
    assert "another link key, or one of the two has none" in worker.log
    for stage in (scan.distributor, scan.daq):
        stage.process.terminate()
        stage.end()
    assert not any(event.get("workers") for event in scan.distributor.events)


# ---------------------------------------------------------------------- what is refused


def test_what_cannot_be_is_refused_in_one_line(processes: MarkedProcesses, tmp_path: Path) -> None:
    run = ("run", SMALL, "--quiet", "--out", str(tmp_path / "out"))
    worker = ("reconstruct", "--connect", "tcp://127.0.0.1:9")
    open_key = tmp_path / "open.key"
    LinkKey.new().write(open_key)
    open_key.chmod(0o644)
    cases: list[tuple[tuple[str, ...], int, str]] = [
        ((*run, "--cluster", "moon"), 3, "give slurm, pbs, local"),
        ((*run, "--cluster", "tcp://10.0.0.1:8786"), 3, "--insecure if nobody else"),
        ((*run, "--cluster", "local", "--partition", "short"), 3, "--partition is for jobs"),
        ((*run, "--memory", "1GB"), 2, "--memory is for workers on a cluster"),
        ((*run, "--cluster", "pbs", "--cores", "1", "--memory", "1GB"), 3, "there is no qsub here"),
        ((*run, "--cluster", "tls://127.0.0.1:9"), 3, "distributed.comm.tls.ca-file"),
        ((*run, "--cluster", "tcp://127.0.0.1:9"), 4, "no Dask scheduler"),
        ((*worker, "--workers", "2"), 2, "--workers is for --dask"),
        ((*worker, "--dask", "local", "--threads", "2"), 2, "--threads does not go with --dask"),
        ((*worker, "--publish", "tcp://0.0.0.0:0"), 3, "give --link-key FILE"),
        ((*worker, "--link-key", str(open_key)), 3, "chmod 600"),
        ((*worker, "--link-key", "/dev/null"), 3, "no link key"),
        (("distribute", "--connect", "tcp://127.0.0.1:9", "--listen", "tcp://*:0"), 3, "--insecure"),
        (("key", str(open_key)), 3, "exists already"),
    ]
    for arguments, code, words in cases:
        finished = processes.run(*arguments)
        assert finished.returncode == code, finished.stderr
        assert words in finished.stderr
        assert finished.stderr.count("\n") == 1 + finished.stderr.count("WARNING"), finished.stderr


def test_without_dask_it_says_what_to_install(processes: MarkedProcesses, tmp_path: Path) -> None:
    # a module of that name that cannot be imported, as if there were none
    (tmp_path / "distributed.py").write_text("raise ImportError('none', name='distributed')")
    finished = processes.run(
        *("run", SMALL, "--quiet", "--cluster", "local", "--out", str(tmp_path / "out")),
        environment={"PYTHONPATH": str(tmp_path)},
    )
    assert finished.returncode == 3
    assert "(distributed is missing): pip install 'ministream[cluster]'" in finished.stderr
