"""Names the environment variables of a program's options: ``PROGRAM_SUBCOMMAND_OPTION``.

They are named as the option is written, by its first spelling: ``s2uc request --target`` is
``S2UC_REQUEST_TARGET``. Click by itself would take the name of the parameter in the code.
"""

from __future__ import annotations

import click

#: Options of which no environment variable makes sense.
_WITHOUT = {"--version", "--help"}


def name_variables(command: click.Command, prefix: str) -> None:
    """Give every option of `command` and of its subcommands its variable.

    A command that a group has under two names has a variable for each. Doing it again changes nothing.

    Parameters
    ----------
    prefix : str
        The program's name in capitals.
    """
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or _WITHOUT & {*parameter.opts}:
            continue
        name = f"{prefix}_{option_name(parameter).upper()}"
        known = parameter.envvar or []
        names = [known] if isinstance(known, str) else list(known)
        if name not in names:
            parameter.envvar = [*names, name]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            name_variables(child, f"{prefix}_{name.upper().replace('-', '_')}")


def option_name(parameter: click.Parameter) -> str:
    """Return how `parameter` is written, with underscores and without dashes: ``num_conn``."""
    long = next((spelling for spelling in parameter.opts if spelling.startswith("--")), parameter.opts[0])
    return long.lstrip("-").replace("-", "_")
