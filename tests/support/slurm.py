"""A real Slurm of one node on loopback: munge, controller and node daemon, in a folder of its own.

It needs root, as the daemons do. Nothing of a Slurm or munge that this machine may have is touched: sockets,
ports, spool folders and configuration are all its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
START_LIMIT_S = 30.0
CORES, MEMORY_MB = 2, 2000


@dataclass
class Slurm:
    """What a test needs to talk to it."""

    folder: Path
    node: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables for programs that submit jobs."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *arguments: str) -> str:
        """Run one of Slurm's commands; return what it prints."""
        return subprocess.run(
            arguments,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=START_LIMIT_S,
        ).stdout

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs that are not over, or only of those in these states."""
        wanted = ["-t", ",".join(states)] if states else []
        return self.command("squeue", "-h", "-o", "%i", *wanted).split()


def _free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configuration(folder: Path, node: str) -> str:
    return f"""
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
KillWait=5
MailProg=/bin/true
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
NodeName={node} NodeAddr=127.0.0.1 CPUs={CORES} RealMemory={MEMORY_MB} State=UNKNOWN
PartitionName=short Nodes={node} Default=YES MaxTime=1:00:00 State=UP OverSubscribe=NO
"""


def _wait(condition: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + START_LIMIT_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(what)
        time.sleep(0.05)  # the interval of a poll


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Start Slurm in `folder`; end it, and every job that it still has."""
    node = socket.gethostname().partition(".")[0]
    slurm = Slurm(folder, node)
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(_configuration(folder, node))
    environment = {**os.environ, **slurm.environment}
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (folder / f"{arguments[0].rpartition('/')[2]}.out").open("wb") as output:
            process = subprocess.Popen(
                arguments, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        started.append(process)
        return process

    def find(program: str) -> str:
        return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") or program

    try:
        munge_socket = folder / "munge" / "socket"
        start(
            *(find("munged"), "--foreground", "--force", f"--socket={munge_socket}", f"--key-file={key}"),
            *(f"--pid-file={folder}/munge/pid", f"--log-file={folder}/munge/log"),
            *(f"--seed-file={folder}/munge/seed", "--num-threads=2"),
        )
        _wait(munge_socket.exists, "munged does not start")
        start(find("slurmctld"), "-D", "-i")
        start(find("slurmd"), "-D", "-N", node)
        _wait(lambda: _is_idle(slurm), f"slurm does not start; see the logs in {folder}")
        yield slurm
        assert slurm.jobs() == [], "jobs were left behind"
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            for job in slurm.jobs():
                slurm.command("scancel", "--signal=KILL", "--full", job)
                slurm.command("scancel", job)
            slurm.command("scontrol", "shutdown")
        for process in reversed(started):
            if process is started[0]:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_idle(slurm: Slurm) -> bool:
    try:
        return slurm.command("sinfo", "-h", "-o", "%t").strip() == "idle"
    except subprocess.CalledProcessError:
        return False


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm for the tests of a module, which are marked ``peer`` with its programs."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    with running_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running
