"""Prints what the client commands found: JSON, or tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from scistream.cli.options import print_json
from scistream.core.endpoint import Endpoint
from scistream.core.session import State
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


def show_listeners(listeners: Sequence[Endpoint]) -> None:
    """Print listeners as the reference client does, for scripts that read its last line."""
    click.echo(f"Listeners: {list(map(str, listeners))}")


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
                for note in _notes(one):
                    console.print(f"        {note}")


def show_list(sessions: Sequence[Mapping[str, Any]], *, ended_too: bool, as_json: bool) -> None:
    """Print one line for each session; those that have ended on all sides only if `ended_too`."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for one in sessions:
        grouped.setdefault(one["uid"], []).append(one)
    wanted = {
        uid: sides
        for uid, sides in grouped.items()
        if ended_too or not all(State(side["state"]).ended for side in sides)
    }
    if as_json:
        print_json(sessions=[{"uid": uid, "sides": sides} for uid, sides in wanted.items()])
        return
    if not wanted:
        click.echo("no sessions")
    for uid, sides in wanted.items():
        states = "  ".join(f"{side['role']} {side['state']} at {side['server']}" for side in sides)
        newest = max(sides, key=lambda side: float(side["seconds"]))
        carried = max(_sum(side, "bytes_to_target") + _sum(side, "bytes_from_target") for side in sides)
        click.echo(
            f"{uid}  {states}  {newest['num_conn']} channels  {human_bytes(carried)}  "
            f"{human_seconds(newest['seconds'])}"
        )


def human_bytes(count: float) -> str:
    """Return a number of bytes for people, in powers of 1000: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration for people: ``1:02:03``."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _notes(session: Mapping[str, Any]) -> list[str]:
    """Return what else there is to say of one side: its leases, its data server's restarts."""
    notes = []
    if session["lifetime_left_s"] is not None:
        notes.append(f"ends in {human_seconds(session['lifetime_left_s'])} unless it is renewed")
    if session["idle_timeout_s"]:
        notes.append(f"ends after {session['idle_timeout_s']:g} s without traffic")
    if session["restarts"]:
        notes.append(f"data server restarted {session['restarts']} times: {session['notice']}")
    return notes


def _sum(session: Mapping[str, Any], counter: str) -> int:
    return sum(channel[counter] for channel in session["channels"])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
