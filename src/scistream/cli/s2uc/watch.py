"""``s2uc watch``: what flows through a session, channel by channel, until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from scistream.cli import options
from scistream.cli.exit_codes import exit_code_of
from scistream.cli.facilities import find_servers
from scistream.cli.s2uc import parameters
from scistream.cli.s2uc.sessions import find, raise_failures
from scistream.cli.show import human_bytes
from scistream.core.session import State
from scistream.core.status import ChannelStatistics, SessionStatus
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
    Example:
      s2uc watch 0f3c… --s2cs aps.example:5000 --s2cs alcf.example:5000
    """
    facilities = find(context, find_servers(context, servers), certificates, token_files)

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(facility.connect()) for facility in facilities]
            with _screen(uid, as_json=as_json) as screen:
                ended = await _follow(uid, clients, screen, interval_s, timeout_s)
        error = _error_of(uid, ended)
        if as_json:
            options.emit(
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

    options.run_until_done(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One side of the session at one moment, with what has flowed since the look before.

    Parameters
    ----------
    rates : sequence of (float, float)
        Bytes per second to the target and from it, for each channel.
    """

    server: str
    status: SessionStatus
    rates: Sequence[tuple[float, float]]


class Screen(Protocol):
    """Where looks are shown."""

    def show(self, looks: Sequence[Look], unreachable: Sequence[str]) -> None:
        """Show one round of looks."""


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
            looks.append(_look(server, answer[0], before.get(server), now_s))
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
        for look in looks:
            if look.status.state.freed:
                return look
        await asyncio.sleep(interval_s)


def _look(
    server: str, status: SessionStatus, before: tuple[float, SessionStatus] | None, now_s: float
) -> Look:
    nothing = ChannelStatistics()
    rates = []
    for number, channel in enumerate(status.channels):
        if before is None or len(before[1].channels) <= number or now_s <= before[0]:
            rates.append((0.0, 0.0))
            continue
        old, span_s = before[1].channels[number], now_s - before[0]
        if channel.connections_total < old.connections_total:  # a data server that was restarted counts anew
            old = nothing
        rates.append(
            (
                max(0, channel.bytes_to_target - old.bytes_to_target) / span_s,
                max(0, channel.bytes_from_target - old.bytes_from_target) / span_s,
            )
        )
    return Look(server=server, status=status, rates=rates)


def _error_of(uid: str, ended: Look) -> SciStreamError | None:
    """Return the error that a session's end is, if it is one."""
    what = f"session {uid} {ended.status.state} at {ended.server}: {ended.status.reason}"
    if ended.status.state is State.EXPIRED:
        return DeadlineExceeded(what)
    if ended.status.state is State.FAILED:
        return DataServerError(what)
    return None


# --- showing -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _screen(uid: str, *, as_json: bool) -> Iterator[Screen]:
    if as_json:
        yield _JsonLines(uid)
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            yield _Table(uid, live)
    else:
        yield _Lines()


class _JsonLines:
    def __init__(self, uid: str) -> None:
        self._uid = uid

    def show(self, looks: Sequence[Look], unreachable: Sequence[str]) -> None:
        options.emit(
            "status",
            uid=self._uid,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            sides=[
                {
                    "server": look.server,
                    "role": look.status.role.value,
                    "state": look.status.state.value,
                    "encrypted": look.status.encrypted,
                    "channels": list(_channels(look)),
                }
                for look in looks
            ],
            unreachable=list(unreachable),
        )


class _Lines:
    def show(self, looks: Sequence[Look], unreachable: Sequence[str]) -> None:
        clock = f"{datetime.now().astimezone():%H:%M:%S}"
        for server in unreachable:
            click.echo(f"{clock}  {server} cannot be reached; streams go on without it")
        for look in looks:
            if not look.rates:
                click.echo(f"{clock}  {look.status.role} {look.status.state} at {look.server}")
            for number, channel in enumerate(_channels(look)):
                click.echo(
                    f"{clock}  {look.status.role} {look.status.state} channel {number}  "
                    f"open {channel['connections_open']}  "
                    f"→ {human_bytes(channel['rate_to_target'])}/s  "
                    f"← {human_bytes(channel['rate_from_target'])}/s  "
                    f"in all → {human_bytes(channel['bytes_to_target'])}  "
                    f"← {human_bytes(channel['bytes_from_target'])}"
                )
        sys.stdout.flush()


class _Table:
    def __init__(self, uid: str, live: Any) -> None:
        self._uid = uid
        self._live = live

    def show(self, looks: Sequence[Look], unreachable: Sequence[str]) -> None:
        from rich.table import Table

        table = Table(
            *("side", "at", "state", "channel", "open", "→ /s", "← /s", "→", "←"),
            title=f"session {self._uid}",
            caption=f"cannot be reached: {', '.join(unreachable)}" if unreachable else None,
        )
        for look in looks:
            side = look.status.role.value, look.server, look.status.state.value
            if not look.rates:
                table.add_row(*side)
            for number, channel in enumerate(_channels(look)):
                table.add_row(
                    *(side if number == 0 else ("", "", "")),
                    str(number),
                    str(channel["connections_open"]),
                    human_bytes(channel["rate_to_target"]),
                    human_bytes(channel["rate_from_target"]),
                    human_bytes(channel["bytes_to_target"]),
                    human_bytes(channel["bytes_from_target"]),
                )
        self._live.update(table, refresh=True)


def _channels(look: Look) -> Iterator[Mapping[str, Any]]:
    for channel, (to_target, from_target) in zip(look.status.channels, look.rates, strict=True):
        yield {
            **asdict(channel),
            "rate_to_target": round(to_target, 1),
            "rate_from_target": round(from_target, 1),
        }
