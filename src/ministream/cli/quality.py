"""``ministream quality``: figures of a reconstruction in a file, or of one that is being made."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from ministream.cli.link_options import link_key_option
from ministream.cli.options import (
    config_option,
    error_events,
    json_option,
    run_stage,
    verbose_option,
    version_option,
)
from ministream.cli.scan_options import VIEW_ORDERS

_LIVE = (
    "reference",
    "connect_timeout",
    "projections",
    "order",
    "scan_range",
    "tolerance",
    "stop_daq",
    "key_file",
)


@click.command(name="quality", short_help="Judge a volume, or one that is being reconstructed.")
@click.argument("volume", required=False, metavar="[VOLUME]")
@click.argument("truth", required=False, metavar="[REFERENCE]")
@click.option(
    "--connect",
    multiple=True,
    metavar="tcp://HOST:PORT",
    help="Publisher of a worker; one for each. Judges live.",
)
@click.option("--reference", metavar="FILE", help="Judge live against this volume.")
@click.option(
    "--connect-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the workers.",
)
@click.option("--whole", is_flag=True, help="Judge square slices with their corners, not the circle alone.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the figures over the slices, or live over the projections (.png, .svg, .pdf).",
)
@click.option(
    "--projections",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Projections of the whole scan: tell live when there have been enough.",
)
@click.option(
    "--order",
    type=click.Choice(VIEW_ORDERS),
    default="as-measured",
    show_default=True,
    help="Order of views of the scan. As measured, less than a half turn is never enough.",
)
@click.option(
    "--scan-range",
    type=click.FloatRange(min=0, min_open=True),
    default=180.0,
    show_default=True,
    metavar="DEGREES",
    help="Angles of the whole scan.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.02,
    show_default=True,
    metavar="CHANGE",
    help="Relative change from one twentieth of the scan to the next below which it is enough.",
)
@click.option(
    "--stop-daq",
    metavar="tcp://HOST:PORT",
    help="When there have been enough, ask the DAQ there (daq --steer) to end the scan.",
)
@link_key_option()
@json_option()
@config_option()
@verbose_option()
@version_option()
@click.pass_context
def command(
    context: click.Context,
    volume: str | None,
    truth: str | None,
    connect: tuple[str, ...],
    reference: str | None,
    connect_timeout: float,
    whole: bool,
    plot: Path | None,
    projections: int | None,
    order: str,
    scan_range: float,
    tolerance: float,
    stop_daq: str | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Judge a reconstruction.

    VOLUME alone is judged by itself (sharpness, noise, contrast to noise); with REFERENCE, also by SSIM,
    MS-SSIM (from 176 pixels on), UQI, PSNR and MSE. With --connect, the volumes that workers publish are
    judged while they are made. Of square slices the reconstruction circle counts.

    VOLUME and REFERENCE are HDF5 (FILE or FILE:/DATASET), TIFF (FILE or FOLDER) or NumPy files (.npy), with
    one image or a stack.

    \b
    Examples:
      ministream quality result/volume.h5
      ministream quality result/volume.h5 truth.h5 --json --plot slices.png
      ministream quality 000012-recon.h5:/data reference.tif
      ministream quality --connect tcp://127.0.0.1:5003 --reference truth.h5
      ministream quality --connect tcp://127.0.0.1:5003 --projections 1500 \\
          --order golden-angle --stop-daq tcp://127.0.0.1:5009
    """
    from ministream.sources import ViewOrder
    from ministream.stages import quality
    from ministream.transport import LinkKey

    if bool(volume) == bool(connect):
        raise click.UsageError("give either a VOLUME or --connect", context)
    if volume is not None:
        _refuse_live_options(context)
        with error_events(enabled=as_json):
            _judge_files(volume, truth, whole=whole, plot=plot, as_json=as_json)
        return
    if stop_daq is not None and projections is None:
        raise click.UsageError("--stop-daq needs --projections: how many the whole scan has", context)
    with error_events(enabled=as_json):
        link_key = None if key_file is None else LinkKey.read(key_file)
    options = quality.QualityOptions(
        connect=connect,
        reference=reference,
        connect_timeout_s=connect_timeout,
        whole=whole,
        projections=projections,
        order=ViewOrder(order),
        range_deg=scan_range,
        tolerance=tolerance,
        stop_daq=stop_daq,
        plot=plot,
        link_key=link_key,
    )
    run_stage(lambda report, stop: quality.run(options, report, stop), as_json=as_json)


def _refuse_live_options(context: click.Context) -> None:
    sources = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)
    for name in _LIVE:
        if context.get_parameter_source(name) in sources:
            option = "--link-key" if name == "key_file" else "--" + name.replace("_", "-")
            hint = "; give the second file as an argument" if name == "reference" else ""
            raise click.UsageError(f"{option} is for --connect{hint}", context)


def _judge_files(volume: str, truth: str | None, *, whole: bool, plot: Path | None, as_json: bool) -> None:
    from ministream.sinks.chart import check_chart
    from ministream.sinks.curves import write_curves
    from ministream.stages.judging import judge_files, means

    if plot is not None:
        check_chart(plot)
    slices = judge_files(volume, truth, whole=whole)
    figures = means(slices)
    if truth is not None and "ms_ssim" not in figures:
        click.echo("MS-SSIM is left out: it needs slices of at least 176 by 176 pixels", err=True)
    if plot is not None:
        write_curves(
            plot,
            list(range(len(slices))),
            {name: [one[name] for one in slices] for name in figures},
            x_label="slice",
            title=volume if truth is None else f"{volume} against {truth}",
        )
    _show(figures, as_json=as_json)


def _show(figures: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        # JSON knows no infinity, which the PSNR of equal volumes is
        click.echo(
            json.dumps({name: value if math.isfinite(value) else None for name, value in figures.items()})
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
