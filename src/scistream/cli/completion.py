"""The subcommand ``completion`` that every program has: prints what lets a shell complete its words.

The script asks the program itself, by click's own protocol (``_S2CS_COMPLETE=bash_complete``), so it never
gets out of date.
"""

from __future__ import annotations

import os
from pathlib import PurePath

import click

from scistream.errors import ConfigurationError

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print a script that makes SHELL complete this program's words.

    SHELL is bash, zsh or fish; without it, the one that $SHELL names. PROGRAM is this program:

    \b
      bash, in ~/.bashrc:   source <(PROGRAM completion bash)
      zsh, in ~/.zshrc:     source <(PROGRAM completion zsh)      (after compinit)
      fish, once:           PROGRAM completion fish > ~/.config/fish/completions/PROGRAM.fish
    """
    from click.shell_completion import get_completion_class

    root = context.find_root()
    program = str(root.info_name)
    kind = get_completion_class(shell or _own_shell())
    if kind is None:
        raise ConfigurationError(f"click knows nothing of {shell}; choose one of {', '.join(_SHELLS)}")
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    click.echo(kind(root.command, {}, program, variable).source())


def _own_shell() -> str:
    name = PurePath(os.environ.get("SHELL", "")).name
    if name not in _SHELLS:
        raise ConfigurationError(
            f"the shell is {name or 'not known'} ($SHELL); say which one is meant: {', '.join(_SHELLS)}"
        )
    return name
