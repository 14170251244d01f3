"""Configuration files in TOML: the option ``--config``, and the user's own file with profiles.

A file holds values of options, one table per subcommand, under the names that the options have on the command
line; and tables of its own kind, such as the profiles of facilities.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from scistream.cli.variables import option_name
from scistream.errors import ConfigurationError
from scistream.user_folders import UserFolder

F = TypeVar("F", bound=Callable[..., Any])

_TABLES_KEY = "scistream.cli.tables"
_PATH_KEY = "scistream.cli.config"


def config_option(*, tables: Sequence[str] = ()) -> Callable[[F], F]:
    """Return a decorator that adds ``--config FILE`` (TOML): the options' values, one table per subcommand.

    Flags win over environment variables, those over the file, the file over the defaults. A key that is no
    option is refused by name. The top-level tables named in `tables` are not options: `config_table` has
    them. Without ``--config`` they come from the user's own file, which all programs share and which holds
    nothing else (see `user_config_path`).
    """

    def load(context: click.Context, _: click.Parameter, path: Path | None) -> None:
        if path is None or context.resilient_parsing:
            return
        chain = [context]
        while chain[0].parent is not None:
            chain.insert(0, chain[0].parent)
        content = _read_toml(path)
        context.meta[_PATH_KEY] = path
        context.meta[_TABLES_KEY] = {name: content.pop(name) for name in tables if name in content}
        values = _checked(content, chain[0].command, path, (), tables)
        for link in chain[1:]:
            values = values.get(str(link.info_name), {})
        context.default_map = {**(context.default_map or {}), **values}

    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=load,
        help="Read option values from this TOML file."
        if not tables
        else f"Read option values and {', '.join(tables)} from this TOML file "
        "[~/.config/scistream/config.toml, if there].",
    )


def user_config_path() -> Path | None:
    """Return ``~/.config/scistream/config.toml``, or its place by XDG_CONFIG_HOME; None without a home."""
    directory = UserFolder.CONFIG.path()
    return None if directory is None else directory / "config.toml"


def config_table(context: click.Context, name: str) -> Mapping[str, Any]:
    """Return the table `name` of the configuration file that is in force; empty without a file or table.

    Raises
    ------
    ConfigurationError
        The file cannot be used.
    """
    if _PATH_KEY not in context.meta:
        _load_user_config(context, name)
    table = context.meta.get(_TABLES_KEY, {}).get(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{context.meta.get(_PATH_KEY)}: [{name}] is not a table")
    return table


def config_path(context: click.Context) -> Path | None:
    """Return the file that `config_table` has read; its relative paths start from its directory."""
    path: Path | None = context.meta.get(_PATH_KEY)
    return path


def _load_user_config(context: click.Context, table: str) -> None:
    path = user_config_path()
    if path is None:
        return
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    content = _read_toml(path)
    for key in content:
        if key != table:
            raise ConfigurationError(
                f"{path}: unknown key {key!r}; known here: {table}{_advice(key, content[key], [table])}; "
                "values of options go into a file of their own, given with --config FILE"
            )
    context.meta[_PATH_KEY] = path
    context.meta[_TABLES_KEY] = content


def _advice(key: str, value: object, tables: Sequence[str]) -> str:
    """Return how `key` may have been meant: a table written outside of the one that it belongs to."""
    if not tables or not isinstance(value, dict):
        return ""
    return f" (was [{tables[0]}.{key}] meant?)"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not a TOML file: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _checked(
    content: Mapping[str, Any],
    command: click.Command,
    path: Path,
    where: tuple[str, ...],
    tables: Sequence[str] = (),
) -> dict[str, Any]:
    """Return `content` with click's parameter names for keys; refuse what `command` does not know.

    `tables` are known besides, but not in `content` any more.
    """
    names = {
        spelling.lstrip("-").replace("-", "_"): str(parameter.name)
        for parameter in command.params
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }
    repeatable = {one.name for one in command.params if isinstance(one, click.Option) and one.multiple}
    subcommands = command.commands if isinstance(command, click.Group) else {}
    checked: dict[str, Any] = {}
    for key, value in content.items():
        shown = ".".join((*where, key))
        command_name = key.replace("_", "-")
        if command_name in subcommands and isinstance(value, dict):
            checked[command_name] = _checked(value, subcommands[command_name], path, (*where, key))
        elif (name := names.get(key.replace("-", "_"))) is not None and name != "config":
            if isinstance(value, dict):
                raise ConfigurationError(f"{path}: {shown} is an option, not a table")
            # a value alone is a list of one, where an option may be repeated
            checked[name] = [value] if name in repeatable and not isinstance(value, list) else value
        else:
            known = sorted(
                {*map(option_name, command.params), *subcommands, *tables} - {"config", "version", "help"}
            )
            raise ConfigurationError(
                f"{path}: unknown key {shown!r}; known here: {', '.join(known)}{_advice(key, value, tables)}"
            )
    return checked
