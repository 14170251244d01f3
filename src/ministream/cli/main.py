"""The command ``ministream``: a group whose subcommands are loaded when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

from ministream.cli.options import CONTEXT_SETTINGS, run_program, version_option

#: name -> one line; the command itself is ``ministream.cli.<name>:command``
_COMMANDS = {
    "run": "Stream a scan through two gateways and reconstruct it.",
    "daq": "Play a scan as a detector would: the first stage.",
    "distribute": "Correct projections and share them among workers.",
    "reconstruct": "Reconstruct slices while projections arrive.",
    "sirt": "The same, with the defaults of the mini-app's worker.",
    "quality": "Judge a volume, or one that is being reconstructed.",
    "key": "Make a link key for the programs of a run.",
    "bench": "Measure a gateway: its data server, or a path through it.",
}


class _LazyGroup(click.Group):
    """Imports a subcommand's module only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"ministream.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings=CONTEXT_SETTINGS)
@version_option()
def ministream() -> None:
    """Stream a running experiment to a computer at another facility, and reconstruct it there as it arrives.

    `run` does everything on this host. Its stages are commands too, for hosts of their own: each one
    connects to the one before it, directly or through a SciStream session. `bench` measures gateways.

    \b
    Example, four terminals:
      ministream daq phantom --listen tcp://127.0.0.1:5001 --rate 20
      ministream distribute --connect tcp://127.0.0.1:5001 --listen tcp://127.0.0.1:5002 --workers 1
      ministream reconstruct --connect tcp://127.0.0.1:5002 --output part.h5
      ministream quality part.h5

    Options also come from the environment (MINISTREAM_DAQ_RATE=20) and from a TOML file (--config FILE).
    """


def main() -> NoReturn:
    """Run the command line."""
    run_program(ministream, "ministream")
