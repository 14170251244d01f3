"""``ministream daq``: the first stage."""

from __future__ import annotations

from pathlib import Path

import click

from ministream.cli.options import (
    config_option,
    json_option,
    reconnect_timeout_option,
    run_stage,
    verbose_option,
    version_option,
)
from ministream.cli.scan_options import substitute_options


@click.command(name="daq", short_help="Play a scan as a detector would: the first stage.")
@click.argument("source", default="phantom", metavar="[SCAN.h5 | phantom[:KEY=VALUE,...]]")
@click.option(
    "--listen",
    default="tcp://127.0.0.1:0",
    show_default=True,
    metavar="tcp://HOST:PORT",
    help="Where consumers connect; port 0 takes a free one.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Projections per second; 0 is as fast as possible.",
)
@click.option(
    "--order",
    type=click.Choice(["as-measured", "bit-reversed"]),
    default="as-measured",
    show_default=True,
    help="Order in which the views are played; bit-reversed order shows the whole object early.",
)
@click.option(
    "--consumers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Consumers to wait for; each gets every frame.",
)
@click.option(
    "--truth",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a phantom's ground truth to this HDF5 file first.",
)
@substitute_options
@reconnect_timeout_option()
@json_option()
@config_option()
@verbose_option()
@version_option()
def command(as_json: bool, order: str, **options: object) -> None:
    """Play a scan to its consumers: dark fields, flat fields, then the projections at a given rate.

    Waits for the consumers, and for whoever is slow: no frame is ever dropped. Ends when every consumer has
    acknowledged every frame.

    SOURCE is an APS Data Exchange file (HDF5), or a synthetic scan with noise, rings and known truth; its
    keys are columns, rows, projections, flats, darks, photons, absorption, center_offset, rings, pixel_type
    and seed.

    \b
    Examples:
      ministream daq scan.h5 --listen tcp://0.0.0.0:5001 --rate 100
      ministream daq phantom:columns=320,rows=16 --order bit-reversed --truth truth.h5 --json
    """
    from ministream.sources import ViewOrder
    from ministream.stages.daq import DaqOptions, run

    chosen = DaqOptions(order=ViewOrder(order), **options)  # type: ignore[arg-type]
    run_stage(lambda report, stop: run(chosen, report, stop), as_json=as_json)
