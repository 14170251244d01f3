"""Opens a Dask cluster: one on this host, one of jobs, or one that runs already; and closes it.

What we start speaks TLS with a key pair made for the run, on loopback too: a Dask scheduler runs whatever it
is sent. Its web pages are on loopback only.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ministream.cluster import preload
from ministream.cluster.dask_cluster import DASK_ERRORS, Jobs
from ministream.cluster.options import ClusterOptions, Kind
from ministream.errors import ConnectionFailed, InputError

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_LOST_AFTER = "5s"
"""How long a nanny may take to start its Dask worker again before the nanny, or the job, is replaced."""
_LOOPBACK_ANY = "127.0.0.1:0"
_SUBMIT = {Kind.SLURM: ("sbatch", "Slurm"), Kind.PBS: ("qsub", "PBS")}
_LOG_LINES = 3


@contextlib.asynccontextmanager
async def opened(
    options: ClusterOptions, *, folder: Path, scratch: Path, mark: tuple[str, str]
) -> AsyncIterator[tuple[Any, Jobs, str]]:
    """Yield an asynchronous client, who starts Dask workers, and this host's address for them; close all.

    Parameters
    ----------
    folder : Path
        Private, and seen by the workers' hosts too: for jobs' logs and certificates.
    scratch : Path
        Private, on this host.
    mark : (str, str)
        An environment variable for Dask workers on this host.

    Raises
    ------
    InputError
        Dask is not installed, or cannot take the options.
    ConnectionFailed
        The scheduler cannot be reached, or started.
    """
    _need_dask(options.kind)
    import dask

    make_client = _untyped("distributed").Client
    _quieten()
    if options.where.startswith("tls:"):
        _need_certificate(options.where)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": _LOST_AFTER}):
        async with contextlib.AsyncExitStack() as stack:
            try:
                if options.kind is Kind.RUNNING:
                    client = await stack.enter_async_context(
                        make_client(options.where, asynchronous=True, timeout=_CONNECT_TIMEOUT_S)
                    )
                    jobs, host = Jobs(), _address_towards(options.where)
                else:
                    make = _local if options.kind is Kind.LOCAL else _jobs
                    cluster, jobs = make(options, folder=folder, scratch=scratch, mark=mark)
                    await stack.enter_async_context(cluster)
                    client = await stack.enter_async_context(make_client(cluster, asynchronous=True))
                    host = urlsplit(cluster.scheduler_address).hostname or ""
            except (*DASK_ERRORS, RuntimeError) as error:
                where = options.where if options.kind is Kind.RUNNING else "one on this host"
                raise ConnectionFailed(
                    f"no Dask scheduler ({where}): {' '.join(str(error).split())}"
                ) from error
            host = options.host or host
            yield client, jobs, f"[{host}]" if ":" in host else host


def _need_dask(kind: Kind) -> None:
    try:
        import distributed  # noqa: F401 - whether it is there

        if kind in _SUBMIT:
            with _own_signal_handlers():
                import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"workers on a cluster need Dask ({error.name} is missing): pip install 'ministream[cluster]'"
        ) from error
    if kind in _SUBMIT:
        program, system = _SUBMIT[kind]
        if shutil.which(program) is None:
            raise InputError(f"there is no {program} here: run this where jobs are submitted to {system}")


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put back what handles SIGINT and SIGTERM: dask_jobqueue 0.9.0 takes both when it is imported."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is not handler:
                signal.signal(signum, handler)


def _need_certificate(address: str) -> None:
    security = _untyped("distributed.security").Security()
    if security.get_connection_args("client").get("ssl_context") is None:
        raise InputError(
            f"for {address} Dask needs to know certificates: set distributed.comm.tls.ca-file, and cert and "
            "key of distributed.comm.tls.client, in its configuration (a file in ~/.config/dask, or "
            "variables such as DASK_DISTRIBUTED__COMM__TLS__CA_FILE)"
        )


def _quieten() -> None:
    """Let Dask's log go where ours goes; what it tells of lost workers we tell ourselves."""
    dask_logger = logging.getLogger("distributed")
    for handler in list(dask_logger.handlers):
        dask_logger.removeHandler(handler)
    dask_logger.propagate = True
    for name in ("distributed", "distributed.client", "distributed.scheduler", "distributed.nanny"):
        logging.getLogger(name).setLevel(_log_level())


def _log_level() -> int:
    return logging.INFO if logging.getLogger().isEnabledFor(logging.INFO) else logging.CRITICAL


def _security(folder: Path) -> Any:
    """Return TLS for one run; its certificate and key are in files, for jobs, in the private `folder`."""
    security = _untyped("distributed.security").Security
    made = security.temporary()
    files = {"ca_file": made.tls_ca_file, "cert": made.tls_scheduler_cert, "key": made.tls_scheduler_key}
    for name, content in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(content)
    of_roles = {
        f"tls_{role}_{name}": str(folder / name)
        for role in ("client", "scheduler", "worker")
        for name in ("cert", "key")
    }
    return security(require_encryption=True, tls_ca_file=str(folder / "ca_file"), **of_roles)


def _untyped(module: str) -> Any:
    """Return a module whose functions have no types."""
    return importlib.import_module(module)


class _Deployed(Jobs):
    """Nannies or jobs of a cluster of ours.

    Parameters
    ----------
    failures : list of str
        Filled by whoever starts them.
    folder : Path or None
        Where jobs' logs are.
    """

    def __init__(self, cluster: Any, failures: list[str], folder: Path | None = None) -> None:
        self._cluster = cluster
        self._failures = failures
        self._folder = folder

    @property
    def failure(self) -> str | None:  # type: ignore[override]
        """What the queueing system says against it."""
        return self._failures[0] if self._failures else None

    def ask(self, count: int) -> None:
        """Start those that are missing; one that is in the queue is not missing."""
        self._cluster.scale(count)

    def describe(self) -> str:
        """Return the jobs' ids, and the last words of their logs."""
        ids = [job.job_id for job in self._cluster.workers.values() if getattr(job, "job_id", None)]
        text = f"jobs {', '.join(ids)}; wait longer with --start-timeout" if ids else "none could be started"
        words = [] if self._folder is None else _last_words(self._folder)
        return text + (f"; their logs end with: {' / '.join(words)}" if words else "")


def _last_words(folder: Path) -> list[str]:
    logs = [path for path in folder.iterdir() if path.suffix in (".err", ".out")]
    newest = sorted((path for path in logs if path.stat().st_size), key=lambda path: path.stat().st_mtime)
    return newest[-1].read_text(errors="replace").splitlines()[-_LOG_LINES:] if newest else []


def _local(
    options: ClusterOptions, *, folder: Path, scratch: Path, mark: tuple[str, str]
) -> tuple[Any, Jobs]:
    del folder
    cluster = _untyped("distributed").LocalCluster(
        n_workers=options.workers,
        threads_per_worker=max(1, len(os.sched_getaffinity(0)) // options.workers),
        processes=True,
        memory_limit=0,
        host=options.host or "127.0.0.1",
        protocol="tls://",
        security=_security(scratch),
        dashboard_address=_LOOPBACK_ANY,
        worker_dashboard_address=_LOOPBACK_ANY,
        local_directory=str(scratch),
        silence_logs=_log_level(),
        asynchronous=True,
        env=dict([mark]),
        preload=[preload.__name__],
    )
    return cluster, _Deployed(cluster, [])


def _jobs(options: ClusterOptions, *, folder: Path, scratch: Path, mark: tuple[str, str]) -> tuple[Any, Jobs]:
    del scratch
    import dask

    dask_jobqueue = _untyped("dask_jobqueue")
    name = options.kind.value
    cluster_class, job_class = {
        Kind.SLURM: (dask_jobqueue.SLURMCluster, dask_jobqueue.slurm.SLURMJob),
        Kind.PBS: (dask_jobqueue.PBSCluster, dask_jobqueue.pbs.PBSJob),
    }[options.kind]
    process_interface = _untyped("distributed.deploy.spec").ProcessInterface
    failures: list[str] = []

    class Job(job_class):  # type: ignore[misc,valid-type]
        """A job that tells us why it could not be submitted; Dask would log it, and wait."""

        async def start(self) -> None:
            """Submit it; if that fails, the run fails, and it is a job that needs no cancelling."""
            try:
                await super().start()
            except RuntimeError as error:
                failures.append(_submission_failure(str(error), _SUBMIT[options.kind][0]))
                await process_interface.start(self)

    def configured(entry: str) -> list[str]:
        return list(dask.config.get(f"jobqueue.{name}.{entry}", None) or [])

    scheduler_options = {
        **(dask.config.get(f"jobqueue.{name}.scheduler-options", None) or {}),
        "dashboard": False,
        "dashboard_address": _LOOPBACK_ANY,
        **({} if options.host is None else {"host": options.host}),
    }
    try:
        cluster = cluster_class(
            job_cls=Job,
            queue=options.queue,
            account=options.account,
            walltime=options.walltime,
            cores=options.cores,
            memory=options.memory,
            processes=1,
            job_name=f"ministream-{mark[1][:8]}",
            job_extra_directives=[*configured("job-extra-directives"), *options.job_extra],
            log_directory=str(folder),
            shared_temp_directory=str(folder),
            scheduler_options=scheduler_options,
            worker_extra_args=[*configured("worker-extra-args"), "--dashboard-address", _LOOPBACK_ANY],
            security=_security(folder),
            protocol="tls://",
            silence_logs=False,
            asynchronous=True,
        )
    except ValueError as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"jobs cannot be described: {text}. Give --cores and --memory, or set them in dask-jobqueue's "
            f"own configuration (jobqueue.{name} in ~/.config/dask/jobqueue.yaml)"
        ) from error
    return cluster, _Deployed(cluster, failures, folder)


def _submission_failure(error: str, program: str) -> str:
    """Return what `program` has said, out of dask-jobqueue's message about it."""
    _, _, said = error.partition("stderr:")
    return f"{program} refuses the job: {' '.join((said or error).split())}"


def _address_towards(scheduler: str) -> str:
    """Return the address of this host from which it talks to `scheduler`."""
    parts = urlsplit(scheduler)
    family, kind, protocol, _, target = socket.getaddrinfo(
        parts.hostname, parts.port, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # of a datagram socket this sends nothing, it only chooses the way
        probe.connect(target)
        return str(probe.getsockname()[0])
