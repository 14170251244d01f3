"""``ministream key``: make the key that the programs of one run share."""

from __future__ import annotations

from pathlib import Path

import click

from ministream.cli.options import version_option


@click.command(name="key", short_help="Make a link key for the programs of a run.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@version_option()
def command(file: Path) -> None:
    """Make a link key for the programs of a run, in the new FILE, which only you may read.

    Distributor, workers and quality stage that are given it (--link-key FILE) encrypt what they send each
    other and talk to nobody else. Hosts that do not share a file system each need a copy, made in secret
    (scp), with mode 0600.

    \b
    Example:
      ministream key run.key
      ministream distribute --connect tcp://127.0.0.1:5001 --listen tcp://10.0.3.1:5002 --link-key run.key
      ministream reconstruct --connect tcp://10.0.3.1:5002 --output part.h5 --link-key run.key
    """
    from ministream.transport import LinkKey

    LinkKey.new().write(file)
    click.echo(f"wrote {file}")
