"""What every command shares: configuration file, version, logging, events, signals, errors as exit codes.

A command is a click command in a module of its own; a stage's command calls `run_stage`, which gives the
stage its `report` and its `stop`. Nothing heavy is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import click

from ministream.cli.exit_codes import ExitCode, exit_code_of
from ministream.errors import InputError, MiniStreamError

logger = logging.getLogger(__name__)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Report = Callable[[Mapping[str, Any]], None]
"""What a stage calls with each event: a mapping with the key ``event`` (ready, progress, done)."""

CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PROGRESS_INTERVAL_S = 0.2
_PLAIN_PROGRESS_INTERVAL_S = 2.0


class StoppedBySignal(Exception):
    """The program was told to stop, and has cleaned up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


# --- options -------------------------------------------------------------------------------------------


def version_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--version``; the number is the installed distribution's."""

    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            click.echo(f"ministream, version {metadata.version('ministream')}")
            context.exit()

    return click.option(
        "--version", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version."
    )


def json_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--json``, passed on as ``as_json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print events as JSON, one per line, on standard output."
    )


def verbose_option() -> Callable[[F], F]:
    """Return a decorator that adds ``-v``: once for INFO, twice for DEBUG; the log goes to stderr."""

    def configure(_: click.Context, __: click.Parameter, count: int) -> None:
        level = max(logging.DEBUG, logging.WARNING - 10 * count)
        logging.basicConfig(
            level=level,
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            force=True,
        )
        # with any -v an error also shows where it came from
        logger.setLevel(logging.DEBUG if count else logging.INFO)

    return click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=configure, help="Log more (repeatable)."
    )


def config_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--config FILE`` (TOML) to a command.

    The command's table (``[daq]``) gives values to its options, and so do keys outside any table; tables of
    other commands are left alone, so that one file serves them all. Flags win over environment variables,
    those over the file, the file over the defaults. A key that is no option is refused by name.
    """

    def load(context: click.Context, _: click.Parameter, path: Path | None) -> None:
        if path is None or context.resilient_parsing:
            return
        group = context.find_root().command
        commands = group.list_commands(context) if isinstance(group, click.Group) else []
        content = _read_toml(path)
        tables = {key: value for key, value in content.items() if isinstance(value, dict)}
        values = {key: value for key, value in content.items() if key not in tables}
        if unknown := sorted(tables.keys() - {*commands, str(context.info_name)}):
            raise InputError(f"{path}: unknown table [{unknown[0]}]; known are {', '.join(commands)}")
        values |= tables.get(str(context.info_name), {})
        context.default_map = {
            **(context.default_map or {}),
            **_as_parameters(values, context.command, path),
        }

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=load,
        help="Read option values from this TOML file.",
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _as_parameters(values: Mapping[str, Any], command: click.Command, path: Path) -> dict[str, Any]:
    """Return `values` with click's parameter names for keys; refuse what `command` does not know."""
    names = {
        spelling.lstrip("-").replace("-", "_"): str(parameter.name)
        for parameter in command.params
        for spelling in (str(parameter.name), *parameter.opts, *parameter.secondary_opts)
        if parameter.name not in ("config", "version", "help", "verbose")
    }
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            raise InputError(
                f"{path}: unknown key {key!r}; {command.name} knows {', '.join(sorted({*names.values()}))}"
            )
        if isinstance(value, dict):
            raise InputError(f"{path}: {key} is an option of {command.name}, not a table")
        found[name] = value
    return found


def reconnect_timeout_option() -> Callable[[F], F]:
    """Return a decorator that adds ``--reconnect-timeout``, passed on as ``reconnect_timeout_s``."""
    return click.option(
        "--reconnect-timeout",
        "reconnect_timeout_s",
        type=click.FloatRange(min=0),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a neighbour whose connections are lost may take to come back.",
    )


# --- running -------------------------------------------------------------------------------------------


def run_program(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `command` as the program `name` and exit; this is where errors become one line and a code.

    Options also come from the environment: ``NAME_SUBCOMMAND_OPTION``.
    """
    code: int = ExitCode.OK
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name=name,
            standalone_mode=False,
            auto_envvar_prefix=name.upper(),
        )
        code = result if isinstance(result, int) else ExitCode.OK
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else name
        code = _complain(name, f"{error.format_message().rstrip('.')}; see {where} --help", ExitCode.USAGE)
    except click.ClickException as error:
        code = _complain(name, error.format_message(), ExitCode.BAD_INPUT)
    except MiniStreamError as error:
        logger.debug("where it was raised:", exc_info=True)
        code = _complain(name, str(error), exit_code_of(error))
    except StoppedBySignal as stop:
        code = 128 + stop.signum
    except (KeyboardInterrupt, click.Abort):
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.CONNECTION
    except OSError as error:
        # ours are told otherwise: this one is from printing
        logger.debug("where it was raised:", exc_info=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _complain(name, f"cannot print the result: {error.strerror}", ExitCode.EXHAUSTED)
    except Exception as error:
        logger.debug("where it was raised:", exc_info=True)
        code = _complain(name, f"unexpected {type(error).__name__}: {error}; -v shows where", ExitCode.BUG)
    sys.exit(int(code))


def _complain(name: str, message: str, code: ExitCode) -> ExitCode:
    click.echo(f"{name}: error: {' '.join(message.split())}", err=True)
    return code


class _StopOnSignal:
    """While open, the first SIGINT or SIGTERM sets `stop`; a second one ends the process at once.

    A thread waits for the signal, because a handler runs in the main thread, which may hold the lock that
    ``Event.set`` needs; and because the main thread may be long in compiled code.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.signum: int | None = None

    def __enter__(self) -> _StopOnSignal:
        self._here, self._there = socket.socketpair()
        self._there.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        self._handlers = {signum: signal.signal(signum, _leave_to_thread) for signum in _STOP_SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._there.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self._there.close()
        self._thread.join()
        self._here.close()

    def _watch(self) -> None:
        while data := self._here.recv(1):
            if data[0] not in _STOP_SIGNALS:
                continue
            if self.signum is not None:
                os._exit(128 + data[0])
            self.signum = data[0]
            self.stop.set()


def _leave_to_thread(signum: int, _: object) -> None:
    """Take the signal's default action away; the thread does the rest."""


def run_stage(work: Callable[[Report, threading.Event], object], *, as_json: bool) -> None:
    """Run a stage in this thread until it has ended; print its events.

    Parameters
    ----------
    work : callable
        Called with `report` and with `stop`, an event that is set when the stage should end early.
    as_json : bool
        Events as JSON lines on standard output; otherwise as text, the last one on standard output and the
        others on standard error. At most five ``progress`` events per second are printed.

    Raises
    ------
    StoppedBySignal
        A signal ended the stage before it was done.
    """
    printer = _EventPrinter(as_json=as_json)
    with _StopOnSignal() as signals, error_events(enabled=as_json):
        try:
            work(printer, signals.stop)
        except MiniStreamError:
            if signals.signum is None:
                raise
            # peers that stop with us may be gone before we are
            logger.debug("while stopping:", exc_info=True)
    if signals.signum is not None and not printer.done:
        raise StoppedBySignal(signals.signum)


def run_until_done(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop; SIGINT or SIGTERM cancels it, a second one ends the process at once.

    Raises
    ------
    StoppedBySignal
        A signal ended it, and its own clean-up has run.
    """
    received: list[int] = []

    async def supervised() -> T:
        task = asyncio.ensure_future(work())

        def receive(signum: int) -> None:
            if received:
                os._exit(128 + signum)
            received.append(signum)
            task.cancel()

        loop = asyncio.get_running_loop()
        for signum in _STOP_SIGNALS:
            loop.add_signal_handler(signum, receive, signum)
        try:
            return await task
        finally:
            for signum in _STOP_SIGNALS:
                loop.remove_signal_handler(signum)

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        raise StoppedBySignal(received[0] if received else signal.SIGINT) from None


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block, in a program without an event loop; the second one forces it.

    Raises
    ------
    StoppedBySignal
        A signal ended it.
    """
    received: list[int] = []

    def receive(signum: int, _: object) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        raise StoppedBySignal(signum)

    before = {signum: signal.signal(signum, receive) for signum in _STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


# --- events --------------------------------------------------------------------------------------------


def emit(event: Mapping[str, Any]) -> None:
    """Print one event as a JSON line on standard output, at once."""
    click.echo(json.dumps(dict(event)))
    sys.stdout.flush()


@contextmanager
def error_events(*, enabled: bool) -> Iterator[None]:
    """Emit an ``error`` event for an error of ours that ends the block, and let it go on."""
    try:
        yield
    except MiniStreamError as error:
        if enabled:
            emit({"event": "error", "message": str(error), "exit_code": int(exit_code_of(error))})
        raise


class _EventPrinter:
    """The `report` of a stage."""

    def __init__(self, *, as_json: bool) -> None:
        self.done = False
        self._as_json = as_json
        self._progress_at = float("-inf")

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        self.done = self.done or kind == "done"
        if kind == "progress":
            interval_s = _PROGRESS_INTERVAL_S if self._as_json else _PLAIN_PROGRESS_INTERVAL_S
            if time.monotonic() - self._progress_at < interval_s:
                return
            self._progress_at = time.monotonic()
        if self._as_json:
            emit(event)
        else:
            fields = (f"{name} {_shown(name, value)}" for name, value in event.items() if name != "event")
            click.echo(f"{kind}: {'; '.join(fields).replace('_', ' ')}", err=kind != "done")


def _shown(name: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if name.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return f"{value:.6g}"
