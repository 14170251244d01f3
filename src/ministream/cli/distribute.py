"""``ministream distribute``: correct projections and share them among workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
from ministream.cli.scan_options import ByteSize, correction_options
from ministream.errors import InputError


@click.command(name="distribute", short_help="Correct projections and share them among workers.")
@click.option(
    "--connect",
    required=True,
    multiple=True,
    metavar="tcp://HOST:PORT",
    help="The DAQ, or a session's listener that leads to it; once for each channel.",
)
@click.option(
    "--listen",
    default="tcp://127.0.0.1:0",
    show_default=True,
    metavar="tcp://HOST:PORT",
    help="Where the workers connect; port 0 takes a free one.",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 1024),
    help="Begin when so many are there; others may come and go. [default: 1; 0 with --tmq]",
)
@click.option(
    "--tmq",
    metavar="tcp://HOST:PORT",
    help="Serve workers of the APS streaming mini-app (ZeroMQ REQ): rank 0 asks here, rank r at PORT + r. "
    "The mini-app's port is 5560.",
)
@correction_options
@click.option(
    "--credits",
    type=click.IntRange(1, 65536),
    show_default="what 128 MiB hold, 16 to 1024",
    help="Frames that may be on their way or in work; more for longer paths, and more memory.",
)
@click.option(
    "--connect-timeout",
    "connect_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the DAQ may take to answer.",
)
@reconnect_timeout_option()
@click.option(
    "--worker-timeout",
    "worker_timeout_s",
    type=click.FloatRange(min=0),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a worker that is lost keeps its slices, if there are others.",
)
@click.option(
    "--memory",
    type=ByteSize(),
    show_default="80 % of what is free",
    help="What this process may use, such as 4GiB, beside the scan's files, which the kernel can do without.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Keep the scan here until its end, so that a distributor that was killed, or whose host lost power, "
    "can be started again; otherwise in a temporary file.",
)
@link_key_option()
@insecure_option()
@json_option()
@config_option()
@verbose_option()
@version_option()
def command(as_json: bool, key_file: Path | None, insecure: bool, **options: Any) -> None:
    """Correct projections and share their rows among reconstruction workers.

    Waits for the workers, then connects to the DAQ. Averages dark and flat fields, turns projections into
    attenuation, finds rotation centre and stripes while the sinograms fill, and tells the workers. Takes from
    the DAQ only as fast as the slowest worker reconstructs: no projection is ever left out.

    Workers may come and go: the slices are shared out again, and whoever gets some gets their history first.
    Lost connections are made again. With --state-dir it can be started again after a crash, with the same
    options, and goes on where it was.

    With --tmq the mini-app's workers get the whole scan too, shared out by their ranks. They cannot be told
    what is found while the scan comes in: each projection comes with the rotation centre, and without the
    stripes, that are known by then.

    \b
    Examples:
      ministream distribute --connect tcp://127.0.0.1:5001 --listen tcp://127.0.0.1:5002
      ministream distribute --connect tcp://gw:5600 --connect tcp://gw:5601 --workers 4 --center 1023.5 \\
          --listen tcp://10.0.3.1:5002 --link-key run.key
      ministream distribute --connect tcp://127.0.0.1:5001 --tmq tcp://0.0.0.0:5560 --insecure
    """
    from ministream.stages import distribute
    from ministream.transport import is_loopback, link_key_for

    if options["workers"] is None:
        options["workers"] = 1 if options["tmq"] is None else 0
    with error_events(enabled=as_json):
        link_key = link_key_for([options["listen"]], key_file, insecure=insecure)
        if options["tmq"] is not None and not insecure and not is_loopback(options["tmq"]):
            raise InputError(
                f"{options['tmq']} can be reached from other hosts, and the mini-app's protocol has no "
                "encryption: give --insecure if nobody else is on that network, or a loopback address, and "
                "lead to it by channels of a session"
            )
    settings = distribute.DistributeOptions(**options, link_key=link_key)
    run_stage(lambda report, stop: distribute.run(settings, report, stop), as_json=as_json)
