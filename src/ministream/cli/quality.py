"""``ministream quality``: figures of a reconstruction in a file, or of one that is being made."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ministream.cli.options import (
    config_option,
    error_events,
    json_option,
    run_stage,
    verbose_option,
    version_option,
)

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(name="quality", short_help="Judge a volume, or one that is being reconstructed.")
@click.argument("volume", required=False, type=_FILE, metavar="[VOLUME.h5]")
@click.argument("truth", required=False, type=_FILE, metavar="[REFERENCE.h5]")
@click.option(
    "--connect",
    multiple=True,
    metavar="tcp://HOST:PORT",
    help="Publisher of a worker; one for each. Judges live.",
)
@click.option("--reference", type=_FILE, metavar="FILE", help="Judge live against this volume.")
@click.option(
    "--connect-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the workers.",
)
@json_option()
@config_option()
@verbose_option()
@version_option()
@click.pass_context
def command(
    context: click.Context,
    volume: Path | None,
    truth: Path | None,
    connect: tuple[str, ...],
    reference: Path | None,
    connect_timeout: float,
    as_json: bool,
) -> None:
    """Judge a reconstruction.

    VOLUME alone is judged by itself; with REFERENCE, by SSIM, PSNR and MSE over the reconstruction circle.
    With --connect, the volumes that workers publish are judged while they are made.

    \b
    Examples:
      ministream quality result/volume.h5
      ministream quality result/volume.h5 truth.h5 --json
      ministream quality --connect tcp://127.0.0.1:5003 --reference truth.h5
    """
    from ministream.stages import quality

    if bool(volume) == bool(connect):
        raise click.UsageError("give either a VOLUME or --connect", context)
    if volume is not None:
        if reference is not None:
            raise click.UsageError(
                "--reference is for --connect; give the second file as an argument", context
            )
        with error_events(enabled=as_json):
            figures = quality.judge_files(volume, truth)
        _show(figures, as_json=as_json)
        return
    options = quality.QualityOptions(connect=connect, reference=reference, connect_timeout_s=connect_timeout)
    run_stage(lambda report, stop: quality.run(options, report, stop), as_json=as_json)


def _show(figures: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        # JSON knows no infinity, which the PSNR of equal volumes is
        finite = {name: value if abs(value) != float("inf") else None for name, value in figures.items()}
        click.echo(json.dumps(finite))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
