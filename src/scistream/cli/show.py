"""Prints what the client commands found: JSON, or tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from scistream.cli.output import print_json
from scistream.core.endpoint import Endpoint
from scistream.core.events import Role
from scistream.core.session import State
from scistream.core.status import SessionStatus

#: Until the other side is known, a session is neither encrypted nor plain.
_BEFORE_ENCRYPTION = {State.QUEUED, State.REQUESTED, State.RESERVED, State.ANNOUNCED, State.CONNECTING}


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
    """Return the status of one side of a session as JSON takes it.

    ``encrypted`` is None as long as that is not settled.
    """
    return {
        **asdict(session),
        "role": session.role.value,
        "state": session.state.value,
        "encrypted": session.encrypted or (None if session.state in _BEFORE_ENCRYPTION else False),
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
    for uid in dict.fromkeys(one["uid"] for one in sessions):
        click.echo(f"session {uid}")
        for one in sessions:
            if one["uid"] == uid:
                _show_side(one)


def _show_side(one: Mapping[str, Any]) -> None:
    reason = f": {one['reason']}" if one["reason"] else ""
    click.echo(f"  {one['role']} {one['state']} at {one['server']}{reason}")
    encrypted = {None: "not yet", False: "no", True: "yes"}[one["encrypted"]]
    dials = one["reverse"] and one["role"] == Role.PRODUCER.value
    accepts = "(the other gateway is dialled)" if dials else " ".join(one["listeners"])
    for line in (
        f"{accepts} → {' '.join(one['targets']) or '(no target yet)'}",
        f"TLS between the gateways: {encrypted}",
        f"connections: {_sum(one, 'connections_open')} open, {_sum(one, 'connections_total')} in all, "
        f"{_sum(one, 'connections_failed')} failed"
        + (f", {_sum(one, 'connections_ready')} between the gateways ready" if one["reverse"] else ""),
        f"forwarded: → {human_bytes(_sum(one, 'bytes_to_target'))}  "
        f"← {human_bytes(_sum(one, 'bytes_from_target'))}",
        *_notes(one),
    ):
        click.echo(f"       {line}")


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
        total, failed = (
            max(_sum(side, counter) for side in sides)
            for counter in ("connections_total", "connections_failed")
        )
        click.echo(
            f"{uid}  {states}  {count(newest['num_conn'], 'channel')}  {count(total, 'connection')}, "
            f"{failed} failed  {human_bytes(carried)}  {human_seconds(newest['seconds'])}"
        )


def count(number: int, noun: str) -> str:
    """Return a number of things: ``1 channel``, ``2 channels``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def human_bytes(number: float) -> str:
    """Return a number of bytes for people, in powers of 1000: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration for people: ``1:02:03``."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _notes(session: Mapping[str, Any]) -> list[str]:
    """Return what else there is to say of one side: its leases, its data server's restarts."""
    notes = []
    if session["reverse"]:
        notes.append("reverse: the producer's gateway dials the consumer's")
    if session["lifetime_left_s"] is not None:
        notes.append(f"ends in {human_seconds(session['lifetime_left_s'])} unless it is renewed")
    if session["idle_timeout_s"]:
        notes.append(f"ends after {session['idle_timeout_s']:g} s without traffic")
    if session["restarts"]:
        notes.append(f"data server restarted {count(session['restarts'], 'time')}: {session['notice']}")
    return notes


def _sum(session: Mapping[str, Any], counter: str) -> int:
    return sum(channel[counter] for channel in session["channels"])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
