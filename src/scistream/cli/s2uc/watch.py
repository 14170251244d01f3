"""``s2uc watch``: what flows through a session, channel by channel, until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scistream.cli.exit_codes import exit_code_of
from scistream.cli.facilities import find_servers
from scistream.cli.output import emit
from scistream.cli.running import run_until_done
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.sessions import find, raise_failures
from scistream.cli.s2uc.watch_screens import Look, Screen, look, screen_for
from scistream.core.session import State
from scistream.core.status import SessionStatus
from scistream.errors import (
    DataServerError,
    DeadlineExceeded,
    SciStreamError,
    SessionNotFound,
)

if TYPE_CHECKING:
    from scistream.client.aio import ControlClient


@click.command()
@click.argument("uid")
@click.option(
    "--interval-s",
    type=click.FloatRange(min=0.05),
    default=1.0,
    show_default=True,
    help="How often the control servers are asked.",
)
@parameters.several_servers
@click.option(
    "--timeout-s",
    type=float,
    default=30.0,
    show_default=True,
    help="How long a control server may be unreachable: streams go on while it is started again.",
)
@parameters.common
@click.pass_context
def watch(
    context: click.Context,
    uid: str,
    interval_s: float,
    servers: tuple[str, ...],
    certificates: tuple[Path, ...],
    token_files: tuple[Path, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Show what flows through session UID, per channel and direction, until it ends or Ctrl-C.

    It looks only: the session goes on when it is interrupted. A table on a terminal, else a line per channel
    and look; with --json an object per look and one for the end. Ends with 0 for a session that was released,
    7 for one that has expired, 8 for one that has failed.

    \b
    With --json, one of these per line:
      {"event": "status", "uid", "time", "sides": [{"server", "role", "state", "encrypted", "channels"}],
       "unreachable": [server, …]}; channels as in 's2uc status', with rate_to_target and
       rate_from_target in bytes per second
      {"event": "ended", "uid", "server", "state", "reason", "exit_code"}

    \b
    Example:
      s2uc watch 0f3c… --s2cs aps.example:5000 --s2cs alcf.example:5000
    """
    facilities = find(context, find_servers(context, servers), certificates, token_files)

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(facility.connect()) for facility in facilities]
            with screen_for(uid, as_json=as_json) as screen:
                ended = await _follow(uid, clients, screen, interval_s, timeout_s)
        error = _error_of(uid, ended)
        if as_json:
            emit(
                "ended",
                uid=uid,
                server=ended.server,
                state=ended.status.state.value,
                reason=ended.status.reason,
                exit_code=0 if error is None else int(exit_code_of(error)),
            )
        elif error is None:
            click.echo(f"session {uid} was released: {ended.status.reason}")
        if error is not None:
            raise error

    run_until_done(work)


async def _follow(
    uid: str, clients: Sequence[ControlClient], screen: Screen, interval_s: float, timeout_s: float
) -> Look:
    """Look again and again; return the side that has ended first.

    Raises
    ------
    SciStreamError
        No control server knows the session, or one cannot be asked for `timeout_s`.
    """
    from scistream.client.aio import Unreachable

    before: dict[str, tuple[float, SessionStatus]] = {}
    heard_s = {str(client.endpoint): time.monotonic() for client in clients}
    watched = list(clients)
    while True:
        answers = await asyncio.gather(
            *(client.status(uid, timeout_s=timeout_s) for client in watched), return_exceptions=True
        )
        now_s = time.monotonic()
        looks, failures = [], []
        for client, answer in zip(watched, answers, strict=True):
            server = str(client.endpoint)
            if isinstance(answer, BaseException):
                failures.append((client, answer))
                continue
            heard_s[server] = now_s
            looks.append(look(server, answer[0], before.get(server), now_s))
            before[server] = now_s, answer[0]
        for client, failure in failures:
            server = str(client.endpoint)
            lost = isinstance(failure, Unreachable | DeadlineExceeded)
            if server in before and lost and now_s - heard_s[server] < timeout_s:
                continue
            if isinstance(failure, SessionNotFound) and server not in before and (looks or before):
                watched.remove(client)  # a facility that has no part in the session
                continue
            raise_failures(answers, found=bool(before))
            raise failure
        screen.show(looks, [str(client.endpoint) for client, _ in failures if client in watched])
        for one in looks:
            if one.status.state.freed:
                return one
        await asyncio.sleep(interval_s)


def _error_of(uid: str, ended: Look) -> SciStreamError | None:
    """Return the error that a session's end is, if it is one."""
    what = f"session {uid} {ended.status.state} at {ended.server}: {ended.status.reason}"
    if ended.status.state is State.EXPIRED:
        return DeadlineExceeded(what)
    if ended.status.state is State.FAILED:
        return DataServerError(what)
    return None
