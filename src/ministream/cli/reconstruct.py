"""``ministream reconstruct``: reconstruct slices while their projections arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ministream.cli.options import (
    config_option,
    json_option,
    reconnect_timeout_option,
    run_stage,
    verbose_option,
    version_option,
)
from ministream.cli.scan_options import update_options


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
@json_option()
@config_option()
@verbose_option()
@version_option()
def command(as_json: bool, **options: Any) -> None:
    """Reconstruct slices while their projections arrive.

    Takes from the distributor the rows of this worker's share of the slices; keeps every view; updates the
    slices as views come in; refines them over all views at the end.

    It may come and go at any time: the distributor shares the slices out again, and sends their earlier
    projections first.

    \b
    Examples:
      ministream reconstruct --connect tcp://127.0.0.1:5002 --output part.h5
      ministream reconstruct --connect tcp://host:5002 --publish tcp://0.0.0.0:5003 --output part.h5
    """
    from ministream.stages import reconstruct

    settings = reconstruct.ReconstructOptions(**options)
    run_stage(lambda report, stop: reconstruct.run(settings, report, stop), as_json=as_json)
