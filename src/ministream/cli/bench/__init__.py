"""``ministream bench``: measure what this installation does; the machinery is `ministream.bench`."""

import click

from ministream.cli.bench.relay import relay


@click.group(name="bench", short_help="Measure a gateway: its data server, or a path through it.")
def command() -> None:
    """Measure a gateway: its data server beside others, or the path through a session.

    \b
    Example:
      ministream bench relay --quick
    """


command.add_command(relay)

__all__ = ["command"]
