"""What every program's command line shares: configuration file, version, logging, errors, signals, events.

A program is a click command (or group) and a ``main`` that hands it to `run_program`. Nothing here knows
what the programs do, and nothing heavy is imported, so that ``--help`` is quick.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from scistream.cli.exit_codes import ExitCode, exit_code_of
from scistream.errors import ConfigurationError, SciStreamError

logger = logging.getLogger(__name__)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Settings of every command and group: ``-h`` for ``--help``, ``--num_conn`` for ``--num-conn``.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "token_normalize_func": lambda token: token.replace("_", "-"),
}

_TABLES_KEY = "scistream.cli.tables"
_PATH_KEY = "scistream.cli.config"
_VERBOSITY_KEY = "scistream.cli.verbosity"


class StoppedBySignal(Exception):
    """The program was told to stop, and has cleaned up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


# --- options -------------------------------------------------------------------------------------------


def version_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--version``; the number is the installed distribution's."""

    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if not wanted or context.resilient_parsing:
            return
        click.echo(f"{context.find_root().info_name}, version {metadata.version('ministream')}")
        context.exit()

    return click.option(
        "--version", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version."
    )


def json_option(text: str = "Print JSON instead of text.") -> Callable[[F], F]:
    """Return a decorator that adds ``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def verbose_option(base: int = logging.WARNING, *spellings: str) -> Callable[[F], F]:
    """Return a decorator that adds ``-v``; without it the log on stderr begins at level `base`.

    Programs that run long have the base INFO (one line per change of a session's life). gRPC's own log lines
    about connections, which our errors say better, are shown from ``-vv`` on.
    """

    def configure(context: click.Context, _: click.Parameter, count: int) -> None:
        verbosity = context.meta.get(_VERBOSITY_KEY, 0) + count
        context.meta[_VERBOSITY_KEY] = verbosity
        if verbosity < 2:
            # read when gRPC is imported, which no command does before its options are parsed
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        configure_logging(max(logging.DEBUG, base - 10 * verbosity), verbose=verbosity > 0)

    return click.option(
        *("-v", "--verbose", *spellings),
        count=True,
        expose_value=False,
        callback=configure,
        help="Log more (repeatable).",
    )


def configure_logging(level: int, *, verbose: bool) -> None:
    """Send the log from `level` on to stderr; `verbose` also shows where unexpected errors come from."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    # what the format does not show is not looked up for every line
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False


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
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
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
    directory = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not directory.is_absolute():  # the XDG specification ignores relative ones
        try:
            directory = Path("~/.config").expanduser()
        except RuntimeError:
            return None
    return directory / "scistream" / "config.toml"


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
        for spelling in (str(parameter.name), *parameter.opts, *parameter.secondary_opts)
    }
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
            checked[name] = value
        else:
            known = sorted({*names.values(), *subcommands, *tables} - {"config", "version", "help"})
            raise ConfigurationError(
                f"{path}: unknown key {shown!r}; known here: {', '.join(known)}{_advice(key, value, tables)}"
            )
    return checked


# --- running -------------------------------------------------------------------------------------------


def run_program(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `command` as the program `name` and exit; this is where errors become one line and a code.

    Options also come from the environment: ``NAME_OPTION``, ``NAME_SUBCOMMAND_OPTION``.
    """
    code: int = ExitCode.OK
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name=name,
            standalone_mode=False,
            auto_envvar_prefix=name.upper().replace("-", "_"),
        )
        code = result if isinstance(result, int) else ExitCode.OK
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else name
        code = _complain(name, f"{error.format_message().rstrip('.')}; see {where} --help", ExitCode.USAGE)
    except click.ClickException as error:
        code = _complain(name, error.format_message(), ExitCode.BAD_INPUT)
    except SciStreamError as error:
        logger.debug("where it was raised:", exc_info=True)
        code = _complain(name, str(error), exit_code_of(error))
    except StoppedBySignal as stop:
        code = 128 + stop.signum
    except (KeyboardInterrupt, click.Abort):
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone
        _discard_stdout()
        code = ExitCode.CONNECTION
    except OSError as error:
        logger.debug("where it was raised:", exc_info=True)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            what = error.filename or "the output"
            if error.filename is None:
                _discard_stdout()
            message = f"{what} cannot be written: {error.strerror}; free space, or write elsewhere"
            code = _complain(name, message, ExitCode.EXHAUSTED)
        else:
            code = _complain_of_bug(name, error)
    except Exception as error:
        logger.debug("where it was raised:", exc_info=True)
        code = _complain_of_bug(name, error)
    sys.exit(int(code))


def _discard_stdout() -> None:
    """Let what is still to be written to stdout go nowhere: Python would fail again when it closes it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _complain_of_bug(name: str, error: Exception) -> ExitCode:
    return _complain(name, f"unexpected {type(error).__name__}: {error}; -v shows where", ExitCode.BUG)


def _complain(name: str, message: str, code: ExitCode) -> ExitCode:
    click.echo(f"{name}: error: {' '.join(message.split())}", err=True)
    return code


class StopSignals:
    """The first SIGINT or SIGTERM asks the event loop's program to stop; the second one forces it.

    Use as a context manager inside the loop.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._received = asyncio.Event()

    def __enter__(self) -> StopSignals:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._receive, signum)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signum)

    def _receive(self, signum: int) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        self._received.set()

    async def wait(self) -> int:
        """Return the signal's number once one has come."""
        await self._received.wait()
        return int(self.signum or signal.SIGTERM)


async def unless_stopped(work: Awaitable[T], signals: StopSignals) -> T:
    """Return the result of `work`; a signal cancels it, and its own clean-up runs.

    Raises
    ------
    StoppedBySignal
        A signal ended it.
    """
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(signals.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    finally:
        waiter.cancel()
    if task.cancelled():
        raise StoppedBySignal(int(signals.signum or signal.SIGINT))
    return task.result()


def run_until_done(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop; SIGINT or SIGTERM cancels it, and its own clean-up runs.

    Raises
    ------
    StoppedBySignal
        A signal ended it.
    """

    async def supervised() -> T:
        with StopSignals() as signals:
            return await unless_stopped(work(), signals)

    return asyncio.run(supervised())


# --- events --------------------------------------------------------------------------------------------


def print_json(**fields: object) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(fields))


def emit(event: str, /, **fields: object) -> None:
    """Print one event of a long-running program as a JSON line on stdout, at once."""
    click.echo(json.dumps({"event": event, **fields}))
    sys.stdout.flush()


@contextmanager
def error_events(*, enabled: bool) -> Iterator[None]:
    """Emit an ``error`` event for an error of ours that ends the block, and let it go on."""
    try:
        yield
    except SciStreamError as error:
        if enabled:
            emit("error", message=str(error), exit_code=int(exit_code_of(error)))
        raise
