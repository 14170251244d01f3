"""``ministream reconstruct`` and ``ministream sirt``: a worker, also with the mini-app's options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ministream.cli.cluster_options import (
    cluster_options,
    is_given,
    repeated,
    spelling,
    taken_cluster_options,
)
from ministream.cli.link_options import insecure_option, link_key_option
from ministream.cli.options import (
    config_option,
    error_events,
    json_option,
    reconnect_timeout_option,
    run_stage,
    verbose_option,
    version_option,
)
from ministream.cli.scan_options import ByteSize, update_options, with_options

if TYPE_CHECKING:
    from ministream.cluster import ClusterOptions

F = TypeVar("F", bound=Callable[..., Any])

_OF_ONE_HOST = ("publish", "threads", "checkpoint", "publish_pva", "write_every", "dest_host", "rank")
"""What a worker on a cluster is told by its host, or cannot share with others."""
COMPRESSIONS = ("gzip", "zstd", "lz4", "none")
"""Those of `ministream.sinks`, which is not imported so that help is quick; a test compares."""
MINI_APP_PORT = 5560
_SERIES_EVERY = 10_000
"""The mini-app's."""


def worker_options(*, center: str) -> Callable[[F], F]:
    """Return a decorator that adds the options of a worker; `center` says what ``--center`` counts."""
    own = click.option(
        "-c",
        "--center",
        type=float,
        metavar="COLUMN",
        help=f"Rotation axis, {center}, whatever the distributor says; 0 for what it says.",
    )
    return lambda command: with_options(command, *_OPTIONS, own, *_COMMON_OPTIONS)


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--connect",
        multiple=True,
        metavar="tcp://HOST:PORT",
        help="The distributor, or a session's listener that leads to it; once for each channel.",
    ),
    click.option(
        "--dest-host",
        metavar="HOST",
        help="The mini-app's distributor, or ours with --tmq, in place of --connect.",
    ),
    click.option(
        "--dest-port",
        type=click.IntRange(1, 65535),
        default=MINI_APP_PORT,
        show_default=True,
        help="Its port for rank 0.",
    ),
    click.option(
        "--rank",
        type=click.IntRange(min=0),
        default=0,
        show_default="that of mpiexec, or 0",
        envvar=["OMPI_COMM_WORLD_RANK", "PMI_RANK"],
        help="With --dest-host: which of --ranks workers this is, from 0.",
    ),
    click.option(
        "--ranks",
        type=click.IntRange(min=1),
        default=1,
        show_default="that of mpiexec, or 1",
        envvar=["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"],
        help="With --dest-host: how many workers there are.",
    ),
    click.option(
        "--most-projections",
        type=click.IntRange(min=1),
        default=4096,
        show_default=True,
        help="With --dest-host: how many projections may come; its protocol does not say.",
    ),
    update_options,
    click.option(
        "-t",
        "--threads",
        "--thread",
        "threads",
        type=click.IntRange(min=1),
        show_default="one for each core",
        help="Threads of the kernels.",
    ),
    click.option(
        "--memory",
        type=ByteSize(),
        show_default="80 % of what is free",
        help="What this process may use, such as 8GiB; slices that do not fit are refused. With --dask slurm "
        "or pbs: memory of a job.",
    ),
    click.option(
        "--checkpoint",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Keep here what is needed to go on after a kill: start the worker again with the same folder.",
    ),
    click.option(
        "--checkpoint-every",
        "checkpoint_every_s",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Time between checkpoints; longer if they take more than a tenth of it. 0: each projection.",
    ),
    click.option(
        "--publish",
        "--pub-addr",
        "publish",
        default="tcp://127.0.0.1:0",
        show_default=True,
        metavar="tcp://HOST:PORT",
        help="Where viewers of the growing volume connect (ZeroMQ, TImage).",
    ),
    click.option(
        "--pub-freq",
        "publish_every",
        type=click.IntRange(min=1),
        show_default="half a second",
        metavar="UPDATES",
        help="Updates from one published volume to the next.",
    ),
    click.option(
        "--publish-pva",
        metavar="PV",
        help="Serve a slice as EPICS NTNDArray under this name (PV:Slice chooses which); needs "
        "pip install 'ministream[epics]'.",
    ),
    click.option(
        "-o",
        "--output",
        "--reconOutputPath",
        "output",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE.h5",
        help="Write this worker's slices here.",
    ),
    click.option(
        "--compression",
        type=click.Choice(COMPRESSIONS),
        default="gzip",
        show_default=True,
        help="Of the files, lossless. zstd and lz4 are faster; their readers need hdf5plugin.",
    ),
    click.option(
        "--write-every",
        type=click.IntRange(min=1),
        metavar="PROJECTIONS",
        help="Write the newest state into --output each time so many more have come; others read it with "
        "h5py, swmr=True. Its attribute complete is false until it is the result.",
    ),
    click.option(
        "--write-freq",
        "series_every",
        type=click.IntRange(min=1),
        show_default=f"{_SERIES_EVERY} with --recon-output-dir",
        metavar="UPDATES",
        help="Write a file NNNNNN-recon.h5 at the first update, and after each so many.",
    ),
    click.option(
        "--recon-output-dir",
        "series",
        type=click.Path(file_okay=False, path_type=Path),
        show_default="the working directory with --write-freq",
        metavar="FOLDER",
        help="Where these files go; NNNNNN-recon-SSSSS.h5, from slice SSSSS on, if others have the rest.",
    ),
    click.option(
        "-r",
        "--reconDatasetPath",
        "series_dataset",
        default="/data",
        show_default=True,
        metavar="NAME",
        help="The volume in these files.",
    ),
    click.option(
        "--credits",
        type=click.IntRange(1, 65536),
        show_default="what 128 MiB hold, 16 to 1024",
        help="Projections that may be on their way; more for longer paths, and more memory.",
    ),
    click.option(
        "--connect-timeout",
        "connect_timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the distributor may take to answer.",
    ),
)
_COMMON_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    reconnect_timeout_option(),
    link_key_option(),
    insecure_option(),
    cluster_options("--dask", own=("memory",)),
    click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="With --dask: how many. The distributor should wait for as many (distribute --workers).",
    ),
    json_option(),
    config_option(),
    verbose_option(),
    version_option(),
)


@click.command(name="reconstruct", short_help="Reconstruct slices while projections arrive.")
@worker_options(center="as a column index from 0")
@click.pass_context
def command(context: click.Context, /, as_json: bool, **options: Any) -> None:
    """Reconstruct slices while their projections arrive.

    Takes from the distributor the rows of this worker's share of the slices; keeps every view; updates the
    slices as views come in; refines them over all views at the end.

    It may come and go at any time: the distributor shares the slices out again, and sends their earlier
    projections first. With --checkpoint it goes on with the slices that it had.

    With --dask several workers run on a cluster: Dask places them, watches them, and starts those that are
    lost again. --output is then the whole volume, in a folder that their hosts see; each worker uses the
    cores of its Dask worker, and publishes where it runs.

    \b
    Examples:
      ministream reconstruct --connect tcp://127.0.0.1:5002 --output part.h5
      ministream reconstruct --connect tcp://host:5002 --output part.h5 --link-key run.key \\
          --publish tcp://0.0.0.0:5003
      ministream reconstruct --connect tcp://host:5002 --checkpoint /scratch/worker-1 --memory 8GiB
      ministream reconstruct --connect tcp://host:5002 --output part.h5 --write-every 50 --publish-pva 2bm:Im
      ministream reconstruct --connect tcp://host:5002 --output volume.h5 --link-key run.key \\
          --dask slurm --workers 8 --partition short --cores 16 --memory 32GB
    """
    start(context, as_json=as_json, **options)


def start(
    context: click.Context,
    *,
    as_json: bool,
    key_file: Path | None,
    insecure: bool,
    workers: int,
    **options: Any,
) -> None:
    """Run a worker, or several on a cluster, with the options that were given.

    Raises
    ------
    click.UsageError
        They do not fit together.
    """
    if bool(options["connect"]) == (options["dest_host"] is not None):
        raise click.UsageError("one of --connect and --dest-host is needed, and not both", context)
    with error_events(enabled=as_json):
        cluster = taken_cluster_options(context, options, workers=workers, insecure=insecure, own=("memory",))
    if cluster is not None:
        _on_cluster(context, cluster, key_file, as_json=as_json, insecure=insecure, **options)
        return
    if is_given(context, "workers"):
        raise click.UsageError("--workers is for --dask: without it this is one worker", context)
    if options["checkpoint"] is not None and options["dest_host"] is not None:
        raise click.UsageError(
            "--checkpoint does not go with --dest-host: that distributor sends everything again", context
        )
    if options["write_every"] is not None and options["output"] is None:
        raise click.UsageError("--write-every needs --output", context)
    if options["series"] is not None or options["series_every"] is not None:
        options["series"] = options["series"] or Path()
        options["series_every"] = options["series_every"] or _SERIES_EVERY
    else:
        options["series_every"] = _SERIES_EVERY
    # what the mini-app's users give for: as the distributor says
    options["center"] = options["center"] or None

    from ministream.stages import reconstruct
    from ministream.stages.worker_results import ResultOptions
    from ministream.transport import link_key_for

    with error_events(enabled=as_json):
        link_key = link_key_for([options["publish"]], key_file, insecure=insecure)
    names = [entry.name for entry in fields(ResultOptions)]
    results = ResultOptions(**{name: options.pop(name) for name in names})
    settings = reconstruct.ReconstructOptions(results=results, link_key=link_key, **options)
    run_stage(lambda report, stop: reconstruct.run(settings, report, stop), as_json=as_json)


def _on_cluster(
    context: click.Context, cluster: ClusterOptions, key_file: Path | None, *, as_json: bool, **options: Any
) -> None:
    from ministream.cluster import PlacedOptions, reconstruct

    for name in _OF_ONE_HOST:
        if is_given(context, name):
            raise click.UsageError(f"{spelling(context, name)} does not go with --dask", context)
        del options[name]
    output = options.pop("output")
    placed = PlacedOptions(arguments=repeated(context, options), output=output, key_file=key_file)
    run_stage(lambda report, stop: reconstruct(cluster, placed, report, stop), as_json=as_json)
