"""Completion in shells: the subcommand ``completion`` that every program has, and what is offered.

The script that it prints asks the program itself, by click's own protocol (``_S2CS_COMPLETE=bash_complete``),
so it never gets out of date.
"""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from scistream.cli.config_file import config_table
from scistream.errors import ConfigurationError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

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


def complete_profiles(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the profiles that `incomplete` may become, from the user's own configuration file."""
    try:
        profiles = config_table(context, "facilities")
    except ConfigurationError:  # a complaint in the middle of a line that is being typed helps nobody
        return []
    return [name for name in profiles if name.startswith(incomplete)]


def complete_both_spellings() -> None:
    """Let words with ``_`` be completed where the program's own have ``-``, as it takes both."""
    from click import shell_completion

    for kind in (
        shell_completion.BashComplete,
        shell_completion.ZshComplete,
        shell_completion.FishComplete,
    ):

        class BothSpellings(kind):  # type: ignore[valid-type, misc]
            def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
                found: list[CompletionItem] = super().get_completions(args, incomplete)
                if found or "_" not in incomplete:
                    return found
                found = super().get_completions(args, incomplete.replace("_", "-"))
                for item in found:
                    dashes = len(item.value) - len(item.value.lstrip("-"))
                    item.value = "-" * dashes + item.value[dashes:].replace("-", "_")
                return found

        shell_completion.add_completion_class(BothSpellings)


def _own_shell() -> str:
    name = PurePath(os.environ.get("SHELL", "")).name
    if name not in _SHELLS:
        raise ConfigurationError(
            f"the shell is {name or 'not known'} ($SHELL); say which one is meant: {', '.join(_SHELLS)}"
        )
    return name
