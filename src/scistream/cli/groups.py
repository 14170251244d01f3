"""A group of commands, one of which is meant where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class DefaultCommandGroup(click.Group):
    """A group that takes ``PROGRAM --option …`` for ``PROGRAM DEFAULT --option …``.

    Parameters
    ----------
    default_command : str
        The subcommand that is meant where none is named.
    """

    def __init__(self, *args: Any, default_command: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.default_command = default_command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the group's own options and the subcommand's name, which may be missing."""
        begin = self._begin_of_default(ctx, args)
        if begin is not None:
            args = [*args[:begin], self.default_command, *args[begin:]]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the default command's options besides the group's own."""
        found = super().shell_complete(ctx, incomplete)
        command = self.get_command(ctx, self.default_command)
        if command is None or not incomplete.startswith("-"):
            return found
        known = {item.value for item in found}
        with command.make_context(self.default_command, [], parent=ctx, resilient_parsing=True) as below:
            return found + [
                item for item in command.shell_complete(below, incomplete) if item.value not in known
            ]

    def _begin_of_default(self, ctx: click.Context, args: Sequence[str]) -> int | None:
        """Return where the options of the default command begin; None if it is not meant."""
        own = {
            name: parameter
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            for name in parameter.opts
        }
        index = 0
        while index < len(args):
            word = args[index]
            if not word.startswith("-"):
                return None
            option = own.get(word.partition("=")[0])
            if option is None:
                return index
            index += 1 if option.is_flag or "=" in word else 2
        # nothing is there yet when a shell asks which words could come
        return None if ctx.resilient_parsing else len(args)
