"""What ``s2uc watch`` shows: JSON lines, lines for a log, or a screen that is drawn over and over.

The screen has 76 columns whatever is shown: a gateway's name has a line of its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import click

from scistream.cli.output import emit
from scistream.cli.show import human_bytes, status_as_json
from scistream.core.status import ChannelStatistics, SessionStatus

_HEADINGS = ("channel", "open", "in all", "failed", "→ /s", "← /s", "→", "←")
_WIDTHS = (7, 5, 7, 6, 11, 11, 10, 10)


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

    def channels(self) -> Iterator[Mapping[str, Any]]:
        """Return counters and rates of every channel."""
        for channel, (to_target, from_target) in zip(self.status.channels, self.rates, strict=True):
            yield {
                **asdict(channel),
                "rate_to_target": round(to_target, 1),
                "rate_from_target": round(from_target, 1),
            }


def look(
    server: str, status: SessionStatus, before: tuple[float, SessionStatus] | None, now_s: float
) -> Look:
    """Return what is seen `now_s` of a side, with the rates since `before` (when, and what)."""
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


class Screen(Protocol):
    """Where looks are shown."""

    def show(self, looks: Sequence[Look], unreachable: Sequence[str]) -> None:
        """Show one round of looks."""


@contextlib.contextmanager
def screen_for(uid: str, *, as_json: bool) -> Iterator[Screen]:
    """Make what fits standard output."""
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
        emit(
            "status",
            uid=self._uid,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            sides=[
                {
                    "server": one.server,
                    "role": one.status.role.value,
                    "state": one.status.state.value,
                    "encrypted": status_as_json(one.status)["encrypted"],
                    "channels": list(one.channels()),
                }
                for one in looks
            ],
            unreachable=list(unreachable),
        )


class _Lines:
    def show(self, looks: Sequence[Look], unreachable: Sequence[str]) -> None:
        clock = f"{datetime.now().astimezone():%H:%M:%S}"
        for server in unreachable:
            click.echo(f"{clock}  {server} cannot be reached; streams go on without it")
        for one in looks:
            if not one.rates:
                click.echo(f"{clock}  {one.status.role} {one.status.state} at {one.server}")
            for number, channel in enumerate(one.channels()):
                click.echo(
                    f"{clock}  {one.status.role} {one.status.state} channel {number}  "
                    f"open {channel['connections_open']} of {channel['connections_total']}  "
                    f"failed {channel['connections_failed']}  "
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
        from rich.text import Text

        self._live.update(Text("\n".join(table_lines(self._uid, looks, unreachable))), refresh=True)


def table_lines(uid: str, looks: Sequence[Look], unreachable: Sequence[str]) -> list[str]:
    """Return the screen for people."""
    lines = [f"session {uid}", _row(_HEADINGS)]
    for one in looks:
        lines.append(f"{one.status.role} {one.status.state} at {one.server}")
        lines += [
            _row(
                (
                    str(number),
                    str(channel["connections_open"]),
                    str(channel["connections_total"]),
                    str(channel["connections_failed"]),
                    f"{human_bytes(channel['rate_to_target'])}/s",
                    f"{human_bytes(channel['rate_from_target'])}/s",
                    human_bytes(channel["bytes_to_target"]),
                    human_bytes(channel["bytes_from_target"]),
                )
            )
            for number, channel in enumerate(one.channels())
        ]
    return lines + [f"cannot be reached: {server}; streams go on without it" for server in unreachable]


def _row(cells: Sequence[str]) -> str:
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
