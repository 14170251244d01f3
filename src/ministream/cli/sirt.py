"""``ministream sirt``: ``reconstruct`` with the defaults of the APS streaming mini-app's worker."""

from __future__ import annotations

from typing import Any

import click

from ministream.cli.reconstruct import start, worker_options

_EDGE_TO_MIDDLE = 0.5
"""Columns: ours count from the middle of the first."""
_DEFAULTS = {
    "algorithm": "sirt",
    "step": 1,
    "refine": 0,
    "total_variation": 0.0,
    "allow_negative": True,
    "publish": "tcp://*:52000",
    "insecure": True,
    "publish_every": 10_000,
    "series": ".",
    "series_every": 10_000,
}


@click.command(
    name="sirt",
    short_help="The same, with the defaults of the mini-app's worker.",
    context_settings={"default_map": _DEFAULTS},
)
@worker_options(
    center="counted from the edge of the first column, as the mini-app does: half the columns is the middle"
)
@click.pass_context
def command(context: click.Context, /, as_json: bool, **options: Any) -> None:
    """Reconstruct as the worker of the APS streaming mini-app does: its options, its defaults.

    After each projection one iteration over the newest 32, without constraint; no passes in the end. It is
    `ministream reconstruct` with other defaults, so everything that one can do it can, too. Without --connect
    it asks the mini-app's distributor at --dest-host. The mini-app's viewers know no key: without --link-key
    whoever reaches --pub-addr sees the slices.

    \b
    Examples:
      ministream sirt --dest-host 10.0.1.5 --dest-port 5560 --window-length 32 --window-step 4 -c 1427.5
      ministream sirt --dest-host 10.0.1.5 --write-freq 4 --recon-output-dir recon --pub-addr tcp://*:52000
    """
    if not options["connect"] and options["dest_host"] is None:
        options["dest_host"] = "localhost"
    if options["center"]:
        options["center"] -= _EDGE_TO_MIDDLE
    start(context, as_json=as_json, **options)
