"""Prints what the client commands found: JSON, or tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from scistream.cli.options import print_json
from scistream.core.status import SessionStatus


def show_pairs(values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print names and values; a list has one line per entry."""
    if as_json:
        print_json(**values)
        return
    width = max(map(len, values))
    for name, value in values.items():
        lines = value if isinstance(value, list) else [_text(value)]
        for number, line in enumerate(lines):
            click.echo(f"{name if number == 0 else '':{width}}  {line}")


def status_as_json(session: SessionStatus) -> dict[str, Any]:
    """Return the status of one side of a session as JSON takes it."""
    return {
        **asdict(session),
        "role": session.role.value,
        "state": session.state.value,
        "listeners": list(map(str, session.listeners)),
        "targets": list(map(str, session.targets)),
        "channels": [asdict(channel) for channel in session.channels],
    }


def show_sessions(sessions: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print sessions as `status_as_json` gives them, with ``server`` besides."""
    if as_json:
        print_json(sessions=list(sessions))
        return
    if not sessions:
        click.echo("no sessions")
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for uid in dict.fromkeys(one["uid"] for one in sessions):
        table = Table("side", "at", "state", "TLS", "open", "bytes →", "bytes ←", title=f"session {uid}")
        for one in sessions:
            if one["uid"] == uid:
                table.add_row(
                    one["role"],
                    one["server"],
                    one["state"],
                    _text(one["encrypted"]),
                    str(_sum(one, "connections_open")),
                    str(_sum(one, "bytes_to_target")),
                    str(_sum(one, "bytes_from_target")),
                )
        console.print(table)
        for one in sessions:
            if one["uid"] == uid:
                route = f"{' '.join(one['listeners'])} → {' '.join(one['targets']) or '(no target yet)'}"
                console.print(f"  {one['role']}  {route}{'  ' if one['reason'] else ''}{one['reason']}")


def _sum(session: Mapping[str, Any], counter: str) -> int:
    return sum(channel[counter] for channel in session["channels"])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
