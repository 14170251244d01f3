"""``ministream reconstruct``: reconstruct slices while their projections arrive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from ministream.cli.scan_options import update_options

if TYPE_CHECKING:
    from ministream.cluster import ClusterOptions

_OF_ONE_HOST = ("publish", "threads")
"""What a worker on a cluster is told by its host."""


@click.command(name="reconstruct", short_help="Reconstruct slices while projections arrive.")
@click.option(
    "--connect",
    required=True,
    multiple=True,
    metavar="tcp://HOST:PORT",
    help="The distributor, or a session's listener that leads to it; once for each channel.",
)
@update_options
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="one for each core", help="Threads of the kernels."
)
@click.option(
    "--publish",
    default="tcp://127.0.0.1:0",
    show_default=True,
    metavar="tcp://HOST:PORT",
    help="Where viewers of the growing volume connect.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.h5",
    help="Write this worker's slices here.",
)
@click.option(
    "--credits",
    type=click.IntRange(1, 65536),
    show_default="what 128 MiB hold, 16 to 1024",
    help="Projections that may be on their way; more for longer paths, and more memory.",
)
@click.option(
    "--connect-timeout",
    "connect_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the distributor may take to answer.",
)
@reconnect_timeout_option()
@link_key_option()
@insecure_option()
@cluster_options("--dask")
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="With --dask: how many. The distributor should wait for as many (distribute --workers).",
)
@json_option()
@config_option()
@verbose_option()
@version_option()
@click.pass_context
def command(
    context: click.Context,
    /,
    as_json: bool,
    key_file: Path | None,
    insecure: bool,
    workers: int,
    **options: Any,
) -> None:
    """Reconstruct slices while their projections arrive.

    Takes from the distributor the rows of this worker's share of the slices; keeps every view; updates the
    slices as views come in; refines them over all views at the end. Slices are never negative.

    It may come and go at any time: the distributor shares the slices out again, and sends their earlier
    projections first.

    With --dask several workers run on a cluster: Dask places them, watches them, and starts those that are
    lost again. --output is then the whole volume, in a folder that their hosts see; each worker uses the
    cores of its Dask worker, and publishes where it runs.

    \b
    Examples:
      ministream reconstruct --connect tcp://127.0.0.1:5002 --output part.h5
      ministream reconstruct --connect tcp://host:5002 --output part.h5 --link-key run.key \\
          --publish tcp://0.0.0.0:5003
      ministream reconstruct --connect tcp://host:5002 --output volume.h5 --link-key run.key \\
          --dask slurm --workers 8 --partition short --cores 16 --memory 32GB
    """
    with error_events(enabled=as_json):
        cluster = taken_cluster_options(context, options, workers=workers, insecure=insecure)
    if cluster is not None:
        _on_cluster(context, cluster, key_file, as_json=as_json, insecure=insecure, **options)
        return
    if is_given(context, "workers"):
        raise click.UsageError("--workers is for --dask: without it this is one worker", context)
    from ministream.stages import reconstruct
    from ministream.transport import link_key_for

    with error_events(enabled=as_json):
        link_key = link_key_for([options["publish"]], key_file, insecure=insecure)
    settings = reconstruct.ReconstructOptions(**options, link_key=link_key)
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
