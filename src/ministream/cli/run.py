"""``ministream run``: the main job in one command."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ministream.cli.cluster_options import cluster_options, taken_cluster_options
from ministream.cli.exit_codes import ExitCode
from ministream.cli.options import config_option, run_until_done, verbose_option, version_option
from ministream.cli.scan_options import (
    correction_options,
    detector_options,
    order_option,
    reading_options,
    substitute_options,
    update_options,
)

if TYPE_CHECKING:
    from ministream.pipeline import Verdict


@click.command(name="run", short_help="Stream a scan through two gateways and reconstruct it.")
@click.argument("source", default="phantom", metavar="[SCAN.h5 | FOLDER | pva:PV | phantom[:KEY=VALUE,...]]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ministream-out"),
    show_default=True,
    help="Folder for volume, picture and quality figures.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Reconstruction workers; each takes a share of the slices.",
)
@click.option(
    "--channels", type=click.IntRange(1, 64), default=2, show_default=True, help="Channels of the session."
)
@click.option(
    "--data-server",
    default="native",
    show_default=True,
    metavar="TYPE",
    help="Data server of both gateways; a wrong name lists the installed ones.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Projections per second; 0 is as fast as possible. A detector has its own.",
)
@order_option("bit-reversed")
@click.option(
    "--steer",
    is_flag=True,
    help="End the scan when more projections would change the image no more.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    metavar="CHANGE",
    help="For --steer: relative change from one twentieth of the scan to the next below which it is enough.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the quality figures over the projections (.png, .svg, .pdf).",
)
@update_options
@correction_options
@substitute_options
@reading_options
@detector_options
@cluster_options("--cluster")
@click.option(
    "--insecure",
    is_flag=True,
    help="Talk to the Dask scheduler at ADDRESS without TLS: whoever is on that network can run programs "
    "there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON on standard output.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only the verdict.")
@config_option()
@verbose_option()
@version_option()
@click.pass_context
def command(context: click.Context, /, as_json: bool, quiet: bool, insecure: bool, **options: Any) -> int:
    """Stream a scan from one facility to another through two gateways, and reconstruct it as it arrives.

    Everything runs on this host, each part as a process of its own: two control servers with their data
    servers, the DAQ that plays the scan, the distributor that corrects it, the reconstruction workers. The
    gateways speak mutually authenticated TLS 1.3 with keys made for this run.

    With --cluster the reconstruction workers run elsewhere: Dask places them, watches them, and starts those
    that are lost again. Projections go to them directly, encrypted with a key made for this run. The folder
    of --out must be one that their hosts see.

    SOURCE is what `ministream daq` plays: an APS Data Exchange or NeXus NXtomo file, another HDF5 file with
    --dataset, a folder of TIFF files, a detector (pva:PV) at its own rate and in its own order, or a
    synthetic scan with noise, rings and known truth.

    \b
    Examples:
      ministream run
      ministream run scan.h5 --out result --rate 0
      ministream run phantom:columns=320,rows=8 --workers 2 --json
      ministream run tiffs/ --angles 0:180 --dark-value 100
      ministream run pva:2bm:Pva1:Image --projections 1500 --angles 0:180 --steer
      ministream run scan.h5 --workers 8 --cluster slurm --partition short --cores 16 --memory 32GB
    """
    from ministream.cli.progress import display
    from ministream.pipeline import RunOptions, run
    from ministream.sources import SourceOptions

    # what the user has given is for the DAQ to refuse
    if options["source"].startswith("pva:"):
        options |= {
            name: own
            for name, own in (("rate", 0.0), ("order", "as-measured"))
            if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT
        }
    cluster = taken_cluster_options(context, options, workers=options["workers"], insecure=insecure)
    place = None
    if cluster is not None:
        from ministream.cluster import placing

        place = placing(cluster)
    reading = SourceOptions(**{entry.name: options.pop(entry.name) for entry in fields(SourceOptions)})
    chosen = RunOptions(reading=reading, **options)
    observer, shown = display(quiet=quiet)
    with shown:
        verdict = run_until_done(lambda: run(chosen, observer, place))
    if as_json:
        click.echo(json.dumps(verdict.as_dict()))
    else:
        _print_table(verdict)
    click.echo(str(verdict), err=as_json)
    return ExitCode.OK if verdict.complete else ExitCode.STAGE


def _print_table(verdict: Verdict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("quality figure", "value")
    for name, value in verdict.quality.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console = Console()
    console.print(table)
    for name in ("volume", "picture", "quality_file"):
        console.print(f"{name.replace('_', ' ')}: {getattr(verdict, name)}", highlight=False, soft_wrap=True)
