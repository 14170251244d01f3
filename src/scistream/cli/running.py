"""How every program runs: its errors become one line and an exit code, signals end it cleanly.

A program is a click command (or group) and a ``main`` that hands it to `run_program`.
"""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

import click

from scistream.cli.exit_codes import ExitCode, exit_code_of
from scistream.cli.variables import name_variables
from scistream.errors import SciStreamError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class StoppedBySignal(Exception):
    """The program was told to stop, and has cleaned up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def run_program(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `command` as the program `name` and exit; this is where errors become one line and a code.

    Options also come from the environment: ``NAME_OPTION``, ``NAME_SUBCOMMAND_OPTION``.
    """
    prefix = name.upper().replace("-", "_")
    name_variables(command, prefix)
    if f"_{prefix}_COMPLETE" in os.environ:
        from scistream.cli.completion import complete_both_spellings

        complete_both_spellings()
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an arrow that the encoding does not have is no error
    code: int = ExitCode.OK
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name=name,
            standalone_mode=False,
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
    except SystemExit:
        # click replaces the streams, and exits, when whoever read our output has gone
        if sys.stdout is streams[0]:
            raise
        sys.stdout, sys.stderr = streams
        _discard_stdout()
        code = ExitCode.OUTPUT_CLOSED
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


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block, in a program without an event loop; the second one forces it.

    Raises
    ------
    StoppedBySignal
        A signal ended it.
    """
    received: list[int] = []

    def receive(signum: int, _: FrameType | None) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        raise StoppedBySignal(signum)

    before = {signum: signal.signal(signum, receive) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
