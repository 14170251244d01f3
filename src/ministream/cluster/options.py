"""Which cluster, and what is asked of it. Values and their checks; no Dask."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from urllib.parse import urlsplit

from ministream.errors import InputError


class Kind(StrEnum):
    """Who starts the Dask workers."""

    LOCAL = "local"
    SLURM = "slurm"
    PBS = "pbs"
    RUNNING = "running"
    """Somebody else has: there is a scheduler at an address."""


_OF_JOBS = {
    "queue": "--partition",
    "account": "--account",
    "walltime": "--walltime",
    "cores": "--cores",
    "memory": "--memory",
    "job_extra": "--job-extra",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What to ask for.

    Parameters
    ----------
    where : str
        ``local``, ``slurm``, ``pbs``, or the address of a Dask scheduler that runs.
    workers : int
        Reconstruction workers, each in a Dask worker (and so in a job) of its own.
    queue, account, walltime, memory : str or None
        Of each job; None for what dask-jobqueue's configuration says.
    cores : int or None
        Of each job, and threads of its worker.
    job_extra : tuple of str
        More lines for the head of each job's script.
    host : str or None
        Address of this host as the workers reach it; None for the one that leads to the scheduler.
    start_timeout_s : float
        How long to wait for a Dask worker, also for one in the place of one that was lost.
    insecure : bool
        Talk to a scheduler beyond this host without TLS.
    """

    where: str
    workers: int
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    cores: int | None = None
    memory: str | None = None
    job_extra: tuple[str, ...] = ()
    host: str | None = None
    start_timeout_s: float = 600.0
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.kind in (Kind.SLURM, Kind.PBS):
            return
        given = [
            _OF_JOBS[entry.name] for entry in fields(self) if entry.name in _OF_JOBS and self._has(entry.name)
        ]
        if given:
            raise InputError(f"{given[0]} is for jobs: it goes with slurm or pbs, not with {self.where}")
        if self.kind is Kind.RUNNING:
            _check_scheduler(self.where, insecure=self.insecure)

    def _has(self, name: str) -> bool:
        return getattr(self, name) not in (None, ())

    @property
    def kind(self) -> Kind:
        """Who starts the Dask workers."""
        return Kind(self.where) if self.where in (Kind.LOCAL, Kind.SLURM, Kind.PBS) else Kind.RUNNING


def _check_scheduler(address: str, *, insecure: bool) -> None:
    from ministream.transport import is_loopback

    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("tcp", "tls") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        valid = False
    if not valid:
        raise InputError(
            f"{address!r} is no cluster: give slurm, pbs, local, or the address of a Dask scheduler, "
            "tls://HOST:PORT or tcp://HOST:PORT"
        )
    if parts.scheme == "tcp" and not insecure and not is_loopback(address):
        raise InputError(
            f"whoever reaches the Dask scheduler at {address} can run programs as you on its workers, and "
            "reads the run's key: start it with TLS and give tls://HOST:PORT, or --insecure if nobody else "
            "is on that network"
        )
